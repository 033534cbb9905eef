"""Finding and opening the benchmark's pictures."""

import base64
import io
from os.path import isfile
from pathlib import Path
from typing import cast

from PIL import Image

from safeeraser.errors import BadInput


def find_picture(name: str, data_path: Path) -> Path | None:
    """Where the picture `name` lies: tried from the working directory, the data file's folder and that one's parent."""
    for folder in (Path(), data_path.parent, data_path.parent.parent):
        if isfile(folder / name):  # False, unlike a path's own method, also for a name that no disk can hold
            return folder / name
    return None


def open_picture(path: Path) -> Image.Image:
    """The decoded picture in RGB, as a viewer shows it. Raises `BadInput` naming the file if it cannot be decoded.

    What is transparent is shown on white, as on a page. Of 16 bits the upper eight are taken, CMYK by Pillow's own rule
    and without the file's colour profile. A turn that EXIF data ask for is not made: the release makes none.
    """
    try:
        with Image.open(path) as picture:
            return _in_rgb(picture)
    except FileNotFoundError:
        raise BadInput(f"{path}: picture not found") from None
    except Exception as error:  # whatever a damaged file makes Pillow's readers raise
        raise BadInput(f"{path}: picture cannot be decoded ({type(error).__name__})") from None


def data_url(picture: Image.Image) -> str:
    """The picture as a server takes it within a request, without loss: it may turn a file by its EXIF data."""
    png = io.BytesIO()
    picture.save(png, "PNG")
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height of the picture that `open_picture` would give; only the file's header is read for it.

    Raises `BadInput` naming the file.
    """
    try:
        with Image.open(path) as picture:
            return picture.size
    except Exception as error:  # whatever a damaged file makes Pillow's readers raise
        raise BadInput(f"{path}: picture cannot be decoded ({type(error).__name__})") from None


def _in_rgb(picture: Image.Image) -> Image.Image:
    highest = cast(float, picture.getextrema()[1]) if picture.mode == "I" else 0  # a number, of one band
    if picture.mode == "F" or highest > 65535:
        raise ValueError("no scale is known")
    if picture.mode.startswith("I"):
        # Pillow would clip at 255, which leaves hardly anything but white; of colours in 16 bits it drops the lower 8.
        picture = picture.convert("I").point(lambda value: value / 256).convert("L")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    shown = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown).convert("RGB")
