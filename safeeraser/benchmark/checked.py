"""Pictures are decoded once to see that they can be; those that can are remembered in the user's cache."""

import contextlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import __version__ as pillow

from safeeraser.benchmark.files import cache_folder, read_object, sha256, write_json
from safeeraser.benchmark.pictures import open_picture
from safeeraser.errors import BadInput
from safeeraser.progress import progress

VERSION = 1  # of what `open_picture` refuses; what another version found sound is looked at again


def unreadable(pictures: Iterable[Path], data_path: Path, *, shown: bool = True) -> dict[Path, str]:
    """The pictures that are not there or cannot be decoded, with the reason: told now rather than in the night.

    A picture that was sound is not decoded again while its size and time stay as they were. What was bad is.

    Args:
        data_path: the data file that names them, by whose content they are remembered.
        shown: whether to show how far it is; of several processes only one does.
    """
    memory = _memory(data_path)
    known = _recall(memory)
    stamps = {picture: _stamp(picture) for picture in pictures}
    left = [picture for picture, (name, *stamp) in stamps.items() if known.get(name) != stamp]
    # Decoding leaves the interpreter to the other threads.
    with ThreadPoolExecutor() as pool, progress("pictures checked", len(left), shown=shown and bool(left)) as advance:
        faults = {}
        for picture, fault in zip(left, pool.map(_fault, left), strict=True):
            if fault:
                faults[picture] = fault
            advance(1)
    if found := {name: stamp for name, *stamp in (stamps[picture] for picture in left if picture not in faults)}:
        with contextlib.suppress(BadInput):
            # Another process may have remembered others meanwhile; what is lost between the two lines is decoded again.
            write_json(memory, _recall(memory) | found, indent=None)
    return faults


def _memory(data_path: Path) -> Path:
    return cache_folder() / f"pictures-{VERSION}-{pillow}-{sha256(data_path)[:16]}.json"


def _recall(memory: Path) -> dict[str, list[int]]:
    try:
        return read_object(memory)
    except BadInput:
        return {}


def _stamp(picture: Path) -> tuple[str, int, int]:
    """What a picture is known by: its whole path, size and time of change in nanoseconds; zeros where there is none."""
    try:
        found = picture.stat()
    except (OSError, ValueError):  # no disk can hold such a name
        return str(picture.absolute()), 0, 0
    return str(picture.absolute()), found.st_size, found.st_mtime_ns


def _fault(picture: Path) -> str | None:
    try:
        open_picture(picture)
    except BadInput as error:
        return str(error)
    return None
