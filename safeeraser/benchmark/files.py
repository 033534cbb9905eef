"""Reading and writing the project's files. A file or folder appears whole or not at all."""

import contextlib
import errno
import fcntl
import glob
import hashlib
import io
import json
import logging
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any

from safeeraser.errors import BadInput

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parents[1]
# The pages of settings: a wheel puts them into the package; in a checkout they lie beside it.
CONFIG = PACKAGE / "config" if (PACKAGE / "config").is_dir() else PACKAGE.parent / "config"
RUN_FILE = "run.json"  # in the folder of an adapter, a checkpoint or a merged model: what it was made with and of
ADAPTER_FILES = ("adapter_model.safetensors", "checkpoint.pt")  # PEFT's, the release's
UNWRITABLE = {stat.S_IFDIR: "folder", stat.S_IFSOCK: "socket", stat.S_IFBLK: "block device"}


class Busy(BadInput):
    """Another run is at work where this one would be."""


def cache_folder() -> Path:
    """Where what is remembered from run to run stands for this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "safeeraser"


def described_by(predictions: Path) -> Path:
    """The file beside a predictions file that tells what it was made with and from."""
    return predictions.with_suffix(".run.json")


def adapter_file(path: str | Path) -> Path:
    """The file with an adapter's weights: a PEFT folder's, one of the release's, or `path` itself.

    Raises:
        BadInput: there is none.
    """
    path = Path(path)
    files = [path / name for name in ADAPTER_FILES] if path.is_dir() else [path]
    file = next(filter(Path.is_file, files), None)
    if file is None or file.suffix == ".json":
        if (path / "config.json").is_file():
            raise BadInput(f"{path}: holds a model, not an adapter; it is --model_path (or model_path=) that names one")
        raise BadInput(f"{path}: no adapter there{_what_is_there(path)}")
    return file


def _what_is_there(path: Path) -> str:
    """What stands where an adapter was looked for, and which one may have been meant."""
    if path.is_file():
        return f", but a .json file; the adapter is the folder: {path.parent}"
    if not path.is_dir():
        beside = sorted(each.name for each in path.parent.iterdir()) if path.parent.is_dir() else []
        close = get_close_matches(path.name, beside, n=1)
        hint = f"; did you mean '{path.with_name(close[0])}'?" if close else ""
        return f", no such file or folder{hint}"
    steps = sorted(path.glob("checkpoint-*"), key=lambda each: each.stat().st_mtime)
    if steps:
        return (
            f": the run did not finish; forget.py in the same words resumes it, and {steps[-1]} is its last checkpoint"
        )
    return " (a PEFT folder, a .safetensors or the release's checkpoint.pt)"


@contextlib.contextmanager
def write_whole(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Open something for writing that on success, and not before, stands whole at `path`.

    A file is replaced in one step, and so is the one that a symbolic link leads to. A device or a pipe is not ours to
    replace: it is handed the content.

    Raises:
        BadInput: the disk does not take it: it is full, say, or may not be written to. Or nobody reads the pipe, or
            what is there is a folder, a socket or a block device.
    """
    try:
        place = _followed(Path(path))
        with (_handed_over if _written_in_place(place) else _replaced)(place, mode) as handle:
            yield handle
    except OSError as error:
        unread = error.errno in (errno.ENXIO, errno.EPIPE) and Path(path).is_fifo()
        raise BadInput(f"{path}: cannot be written ({'nobody reads it' if unread else error.strerror})") from None


@contextlib.contextmanager
def _replaced(place: Path, mode: str) -> Iterator[IO]:
    """A temporary neighbour, which takes the place of what is at `place`."""
    temporary = _neighbour(place)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, place)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _handed_over(place: Path, mode: str) -> Iterator[IO]:
    """Memory, whose content goes to what is at `place`."""
    memory = io.BytesIO() if "b" in mode else io.StringIO()
    yield memory
    content = said.encode() if isinstance(said := memory.getvalue(), str) else said
    if place.parent == _open_files():
        sys.stdout.flush()  # what was printed before stands before it
        handle = os.dup(int(place.name))  # opened anew, a file that output is redirected to would be begun again
    else:
        # To open a pipe that nobody reads would else wait for ever.
        handle = os.open(place, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        os.set_blocking(handle, True)
    with open(handle, "wb") as target:
        target.write(content)


def _open_files() -> Path:
    """Where the files stand that this process has open, by number: /dev/stdout and /dev/fd/3 lead there."""
    return Path(f"/proc/{os.getpid()}/fd")


def _followed(path: Path) -> Path:
    """Where symbolic links lead, if only to what is yet to be; those in /proc are no paths, and stay."""
    for _ in range(40):  # as many as the system follows
        path = Path(os.path.realpath(path.parent), path.name)
        if path.is_relative_to("/proc") or not path.is_symlink():
            return path
        path = path.parent / os.readlink(path)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _written_in_place(place: Path) -> bool:
    """Whether what is at `place`, or is to be, is written to rather than replaced. Raises `OSError` if neither."""
    try:
        kind = stat.S_IFMT(place.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return kept_by_the_system(place)
    if kind in UNWRITABLE:
        raise OSError(errno.EINVAL, f"it is a {UNWRITABLE[kind]}")
    return kind != stat.S_IFREG or kept_by_the_system(place)


def kept_by_the_system(place: Path) -> bool:
    """Whether nothing can be made there, nor should be, though root often could."""
    return place.is_relative_to("/proc") or (place.is_relative_to("/dev") and not place.is_relative_to("/dev/shm"))


def _neighbour(place: Path) -> Path:
    return place.with_name(f".{place.name}.{os.getpid()}.tmp")


@contextlib.contextmanager
def write_whole_folder(path: Path) -> Iterator[Path]:
    """A temporary neighbour of `path` to fill; on success it becomes `path`, where nothing may then be.

    A symbolic link at `path` stays, and leads to the folder. What a run that was killed had filled so far is removed:
    nobody holds it any more. It would take room, and in a container, where processes have the same numbers from one
    start to the next, be in the way.

    Raises:
        BadInput: the disk does not take it.
    """
    temporary = None
    try:
        place = _followed(path)
        for left in place.parent.glob(f".{glob.escape(place.name)}.[0-9]*.tmp"):
            with contextlib.suppress(Busy), held(left, str(path)):
                shutil.rmtree(left, ignore_errors=True)
        temporary = _neighbour(place)
        temporary.mkdir(parents=True)
        with held(temporary, str(path)):
            yield temporary
            for file in filter(Path.is_file, temporary.rglob("*")):
                file.chmod(temporary.stat().st_mode & 0o666)  # some libraries write what only its owner can read
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())  # else a machine that goes down may leave the name and not the content
            os.rename(temporary, place)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: str | Path, value: Any, indent: int | None = 2) -> None:
    """Write `value` as JSON, whole."""
    with write_whole(path) as handle:
        json.dump(value, handle, ensure_ascii=False, indent=indent)
        handle.write("\n")


def read_json(path: str | Path) -> Any:
    """Read one JSON value. Raises `BadInput` naming the file and the line where it breaks off."""
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


def home(path: str | Path) -> Path:
    """The folder that tells of an adapter: of a PEFT folder's file of weights, that folder; else `path` itself."""
    path = Path(path)
    beside = path.name == ADAPTER_FILES[0] and path.is_file() and (path.parent / "adapter_config.json").is_file()
    return path.parent if beside else path


def run_of(folder: Path) -> dict[str, Any]:
    """What the `run.json` in a folder, or of its adapter, tells; nothing where there is none.

    A checkpoint of an earlier version has none of its own, but its run has.

    Raises:
        BadInput: it holds no object.
    """
    folder = home(folder)
    own, run = folder / RUN_FILE, folder.parent / RUN_FILE
    file = run if folder.name.startswith("checkpoint-") and not own.is_file() else own
    return read_object(file) if file.is_file() else {}


def trained_settings(folder: Path) -> dict[str, Any] | None:
    """The settings that an adapter, or the one merged into a model, was trained with; None where its folder is silent.

    Raises:
        BadInput: what its `run.json` tells is no run's.
    """
    folder = home(folder)
    told = run_of(folder)
    if "settings" not in told:
        return None
    settings = told["settings"]
    method = settings.get("forget_loss") if isinstance(settings, dict) else None
    if not isinstance(method, dict) or "name" not in method or "recipe" not in settings:
        raise BadInput(f"{folder / RUN_FILE}: settings: not those of a run of forget.py")
    return settings


def read_text(path: str | Path) -> str:
    """Read a UTF-8 file, less the mark that some editors begin one with.

    Raises:
        BadInput: it is missing, a folder, unreadable or not text.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path}: not a UTF-8 text file") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None


def read_json_lines(path: str | Path) -> list[Any]:
    """Read a file of one JSON value a line, skipping blank lines. Raises `BadInput` naming file and line."""
    values = []
    # Not `splitlines`, which also breaks at characters that may stand in a JSON text, such as U+2028.
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
    """Drop the values that are not `wanted`, and the last line where a kill has cut it; a missing file stays so."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    values = [json.loads(line) for line in lines]
    with write_whole(path) as handle:
        handle.writelines(json.dumps(value) + "\n" for value in values if wanted(value))


def make_room_for(path: Path) -> None:
    """Make the folder of a file to come. Raises `BadInput` if that cannot be, or nothing can be written there."""
    try:
        place = _followed(path)
        in_place = _written_in_place(place)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror})") from None
    if in_place:
        if not os.access(place, os.W_OK):
            raise BadInput(f"{path}: cannot be written to")
        return
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{path}: its folder cannot be made ({error.strerror})") from None
    if not os.access(place.parent, os.W_OK):
        raise BadInput(f"{path}: its folder cannot be written to")


def sha256(path: str | Path) -> str:
    """The file's SHA-256 in hexadecimal, by which results name the data they came from."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def held(folder: Path, name: str, *, shared: bool = False) -> Iterator[None]:
    """Keep other runs out of `folder` until this block or this process ends, however it ends.

    Arguments and errors are those of `lock`.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        lock(handle, name, shared=shared)
        yield
    finally:
        os.close(handle)


def lock(handle: int, name: str, *, shared: bool = False) -> None:
    """Keep other runs from what is open as `handle` until it is closed, or this process ends, however it ends.

    Args:
        name: how the user knows it.
        shared: only look whether another run is at work there, as several processes may at the same time.

    Raises:
        Busy: one is; it may be what a launcher that was killed has left behind.
    """
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Busy(f"{name}: another run is at work there; wait for it, or end its processes") from None
    except OSError:
        log.warning("note: %s is on a disk without locks: take care that no second run writes there", name)
