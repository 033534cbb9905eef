"""Reading and writing the project's files. A file or folder appears complete or not at all."""

import contextlib
import fcntl
import glob
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any

from safeeraser.errors import BadInput

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parents[1]
# The config files: a wheel puts them into the package; in a checkout they lie next to it.
CONFIG = PACKAGE / "config" if (PACKAGE / "config").is_dir() else PACKAGE.parent / "config"


class Busy(BadInput):
    """Another run is already working at the place where this one would."""


def cache_folder() -> Path:
    """The folder for data that is kept for this user from run to run."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "safeeraser"


@contextlib.contextmanager
def write_whole(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Open a file for writing that appears at `path` only on success, and then complete.

    A file at `path` is replaced in one step. If `path` is a symbolic link, the file that it leads to is replaced.

    Raises:
        BadInput: the file cannot be written, because the disk is full, say, or read-only; or `path` is not a file.
    """
    place = _file_at(path)
    temporary = _neighbour(place)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, place)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _file_at(path: str | Path) -> Path:
    """Where symbolic links lead, also if nothing is there yet. Raises `BadInput` if it is anything but a file."""
    place = os.path.realpath(path)
    if os.path.lexists(place) and not os.path.isfile(place):
        kind = "folder" if os.path.isdir(place) else "circle of links" if os.path.islink(place) else "device or a pipe"
        raise BadInput(f"{path}: cannot be written (it is a {kind}); name a file")
    return Path(place)


def _neighbour(place: Path) -> Path:
    return place.with_name(f".{place.name}.{os.getpid()}.tmp")


@contextlib.contextmanager
def write_whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder next to `path` to fill; on success it is renamed to `path`, where nothing may be by then.

    A symbolic link at `path` stays, and leads to the folder. Leftovers of a killed run, which no process holds any
    more, are removed: they would take up disk space. In a container, where processes have the same numbers from one
    start to the next, they would also be in the way.

    Raises:
        BadInput: the folder cannot be written.
    """
    temporary = None
    try:
        place = Path(os.path.realpath(path))
        for left in place.parent.glob(f".{glob.escape(place.name)}.[0-9]*.tmp"):
            with contextlib.suppress(Busy), held(left, str(path)):
                shutil.rmtree(left, ignore_errors=True)
        temporary = _neighbour(place)
        temporary.mkdir(parents=True)
        with held(temporary, str(path)):
            yield temporary
            for file in filter(Path.is_file, temporary.rglob("*")):
                file.chmod(temporary.stat().st_mode & 0o666)  # some libraries write files that only the owner can read
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())  # else a crash of the machine may leave the name without the content
            os.rename(temporary, place)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: str | Path, value: Any, indent: int | None = 2) -> None:
    """Write `value` as JSON, complete or not at all."""
    with write_whole(path) as handle:
        json.dump(value, handle, ensure_ascii=False, indent=indent)
        handle.write("\n")


def read_json(path: str | Path) -> Any:
    """Read one JSON value. Raises `BadInput` naming the file and, for invalid JSON, the line of the error."""
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}: not valid JSON ({error.msg} at line {error.lineno}, column {error.colno})") from None
    except RecursionError:
        raise BadInput(f"{path}: JSON nested too deep to be read") from None


def read_object(path: str | Path) -> dict[str, Any]:
    """Read one JSON object. Raises `BadInput` if the file holds anything else."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise BadInput(f"{path}: must hold an object, holds a {type(value).__name__}")
    return value


def read_text(path: str | Path) -> str:
    """Read a UTF-8 file, without the byte-order mark that some editors put at the beginning.

    Raises:
        BadInput: the file is missing, a folder, unreadable or not text.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except IsADirectoryError:
        raise BadInput(f"{path}: is a folder; name a file in it") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path}: not a UTF-8 text file") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None


def meant_by(path: Path) -> str:
    """For the end of an error about a missing file or folder: the nearest name that exists, if any."""
    beside = sorted(each.name for each in path.parent.iterdir()) if path.parent.is_dir() else []
    close = get_close_matches(path.name, beside, n=1)
    return f"; did you mean '{path.with_name(close[0])}'?" if close else ""


def read_json_lines(path: str | Path) -> list[Any]:
    """Read a file with one JSON value on each line, skipping blank lines. Raises `BadInput` naming file and line."""
    values = []
    # Not `splitlines`, which also breaks at characters that may occur in a JSON text, such as U+2028.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            try:
                values.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise BadInput(f"{path}: line {number} is not valid JSON ({error.msg})") from None
            except RecursionError:
                raise BadInput(f"{path}: line {number} is JSON nested too deep to be read") from None
    return values


def append_json_line(path: str | Path, value: Any) -> None:
    """Add one line to a file of JSON lines."""
    with open(path, "a", encoding="utf-8") as handle:
        handle.write(json.dumps(value) + "\n")


def keep_json_lines(path: Path, wanted: Callable[[Any], bool]) -> None:
    """Keep only the `wanted` values, and drop a last line that a kill has cut off; a missing file stays missing."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    values = [json.loads(line) for line in lines]
    with write_whole(path) as handle:
        handle.writelines(json.dumps(value) + "\n" for value in values if wanted(value))


def make_room_for(path: Path) -> None:
    """Make the folder for a file to come. Raises `BadInput` if it cannot be made or written to."""
    place = _file_at(path)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{path}: its folder cannot be made ({error.strerror})") from None
    if not os.access(place.parent, os.W_OK):
        raise BadInput(f"{path}: its folder cannot be written to")


def hash_settings(settings: dict[str, Any]) -> str:
    """A short hash of settings, which distinguishes results that depend on them."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:10]


def sha256(path: str | Path) -> str:
    """The file's SHA-256 in hexadecimal, with which results name the data that they came from."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def held(folder: Path, name: str, *, shared: bool = False) -> Iterator[None]:
    """Keep other runs out of `folder` until this block or this process ends, in whatever way.

    Arguments and errors are the same as for `lock`.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        lock(handle, name, shared=shared)
        yield
    finally:
        os.close(handle)


def lock(handle: int, name: str, *, shared: bool = False) -> None:
    """Keep other runs away from the open `handle` until it is closed or this process ends, in whatever way.

    Args:
        name: its name as the user knows it.
        shared: only check whether another run is at work there, as several processes may do at the same time.

    Raises:
        Busy: another run is at work there; it may be a leftover of a launcher that was killed.
    """
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Busy(f"{name}: another run is at work there; wait for it, or end its processes") from None
    except OSError:
        log.warning("note: %s is on a disk without locks: take care that no second run writes there", name)
