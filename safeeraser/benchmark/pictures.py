"""Finding and opening the benchmark's pictures."""

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from safeeraser.benchmark.records import DataFile
from safeeraser.errors import BadInput


def find_picture(name: str, data_path: Path) -> Path | None:
    """Where the picture `name` lies: tried from the working directory, the data file's folder and that one's parent."""
    for folder in (Path(), data_path.parent, data_path.parent.parent):
        if (folder / name).is_file():
            return folder / name
    return None


def picture_path(data: DataFile, index: int, key: str) -> Path:
    """The path of record `index`'s picture under `key` (`image_path`, `SDImage_path`). Raises `BadInput`."""
    name = getattr(data.records[index], key)
    path = find_picture(name, data.path)
    if path is None:
        raise BadInput(f"{data.where(index, key)}: picture {name} not found")
    return path


def open_picture(path: Path) -> Image.Image:
    """The decoded picture in RGB. Raises `BadInput` naming the file if it cannot be decoded."""
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except FileNotFoundError:
        raise BadInput(f"{path}: picture not found") from None
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise BadInput(f"{path}: picture cannot be decoded ({type(error).__name__})") from None
