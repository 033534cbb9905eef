"""Finding, opening and checking the benchmark's pictures.

A check decodes each picture once. Pictures that can be decoded are remembered in the user's cache.
"""

import base64
import contextlib
import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from os.path import isfile
from pathlib import Path
from typing import cast

from PIL import Image
from PIL import __version__ as pillow

from safeeraser.benchmark.files import cache_folder, read_object, sha256, write_json
from safeeraser.errors import BadInput
from safeeraser.progress import progress

VERSION = 1  # of the rules of `open_picture`; pictures that another version checked are checked again


def find_picture(name: str, data_path: Path) -> Path | None:
    """Where the picture `name` lies: tried from the working directory, the data file's folder and its parent folder."""
    for folder in (Path(), data_path.parent, data_path.parent.parent):
        if isfile(folder / name):  # unlike a path's own method, also False for a name that no disk can hold
            return folder / name
    return None


def open_picture(path: Path) -> Image.Image:
    """The decoded picture in RGB, as a viewer shows it. Raises `BadInput` naming the file if it cannot be decoded.

    Transparent parts are shown on white, as on a page. Values of 16 bits keep their upper eight. CMYK is converted by
    Pillow's own rule, without the file's colour profile. Rotation by EXIF data is not applied, as in the release.
    """
    try:
        with Image.open(path) as picture:
            return _in_rgb(picture)
    except FileNotFoundError:
        raise BadInput(f"{path}: picture not found") from None
    except Exception as error:  # Pillow raises many kinds of error for a damaged file
        raise BadInput(f"{path}: picture cannot be decoded ({type(error).__name__})") from None


def data_url(picture: Image.Image) -> str:
    """The picture as a PNG in a data URL, without loss: a server might turn the original file by its EXIF data."""
    png = io.BytesIO()
    picture.save(png, "PNG")
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height of the picture that `open_picture` would give, from the file's header alone.

    Raises `BadInput` naming the file.
    """
    try:
        with Image.open(path) as picture:
            return picture.size
    except Exception as error:  # Pillow raises many kinds of error for a damaged file
        raise BadInput(f"{path}: picture cannot be decoded ({type(error).__name__})") from None


def _in_rgb(picture: Image.Image) -> Image.Image:
    highest = cast(float, picture.getextrema()[1]) if picture.mode == "I" else 0  # a number, since there is one band
    if picture.mode == "F" or highest > 65535:
        raise ValueError("no scale is known")
    if picture.mode.startswith("I"):
        # Pillow would clip at 255, which leaves almost only white. In 16-bit colours it drops the lower 8 bits itself.
        picture = picture.convert("I").point(lambda value: value / 256).convert("L")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    shown = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown).convert("RGB")


def unreadable(pictures: Iterable[Path], data_path: Path, *, shown: bool = True) -> dict[Path, str]:
    """The pictures that are missing or cannot be decoded, with the reason: found now rather than hours into a run.

    A picture that could be decoded is not decoded again while its size and time stay the same. Bad ones are.

    Args:
        data_path: the data file that names the pictures; they are remembered by its content.
        shown: whether to show progress; with several processes only one does.
    """
    memory = _memory(data_path)
    known = _recall(memory)
    stamps = {picture: _stamp(picture) for picture in pictures}
    left = [picture for picture, (name, *stamp) in stamps.items() if known.get(name) != stamp]
    # Decoding releases the interpreter lock, so threads help.
    with ThreadPoolExecutor() as pool, progress("pictures checked", len(left), shown=shown and bool(left)) as advance:
        faults = {}
        for picture, fault in zip(left, pool.map(_fault, left), strict=True):
            if fault:
                faults[picture] = fault
            advance(1)
    if sound := {name: stamp for name, *stamp in (stamps[picture] for picture in left if picture not in faults)}:
        with contextlib.suppress(BadInput):
            # Another process may have added pictures meanwhile. One lost between the two calls is only decoded again.
            write_json(memory, _recall(memory) | sound, indent=None)
    return faults


def _memory(data_path: Path) -> Path:
    return cache_folder() / f"pictures-{VERSION}-{pillow}-{sha256(data_path)[:16]}.json"


def _recall(memory: Path) -> dict[str, list[int]]:
    try:
        return read_object(memory)
    except BadInput:
        return {}


def _stamp(picture: Path) -> tuple[str, int, int]:
    """A picture's full path, size and time of change in nanoseconds, by which it is known; zeros if it is missing."""
    try:
        status = picture.stat()
    except (OSError, ValueError):  # missing, or a name that no disk can hold
        return str(picture.absolute()), 0, 0
    return str(picture.absolute()), status.st_size, status.st_mtime_ns


def _fault(picture: Path) -> str | None:
    try:
        open_picture(picture)
    except BadInput as error:
        return str(error)
    return None
