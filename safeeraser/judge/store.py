"""The verdict store: every reply of a served judge, on disk, so that none is paid for twice.

`verdicts.jsonl` has one line per call, and any number of runs share it. A line holds the reply and its author, but only
a hash of the request. So it contains a response only if a judge repeats it. Processes may ask at the same time, in one
audit or on several machines. Each then writes its own file, `verdicts.1.jsonl` and so on, and reads all of the files.
"""

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from glob import escape
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from safeeraser.benchmark.files import Busy, lock, make_room_for
from safeeraser.errors import BadInput, note

HEAD = b'{"format": "safeeraser verdict store", "version": 1}\n'


def request_hash(*parts: Any) -> str:
    """The hash under which a reply is stored; only identical requests have the same one."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Kept(NamedTuple):
    """A reply in the store, with the reason why it ended and the model that gave it, if the server reports them."""

    reply: str
    finish: str | None = None
    answered_by: str | None = None
    fingerprint: str | None = None


# How many bytes of a file this process has read, and the replies in them: an audit asks at hundreds of points, and
# files only grow. The key is the path and the inode, because another file may take its place.
_READ: dict[tuple[Path, int], tuple[int, dict[str, Kept]]] = {}
_SAME: dict[Kept, Kept] = {}  # most replies are one of a few, so each is held in memory once


def _replies_in(file: Path) -> dict[str, Kept]:
    """All replies in a file, by request; only lines that were added since the last call are read."""
    with open(file, "rb") as handle:
        about = os.fstat(handle.fileno())
        at, replies = _READ.get((file.resolve(), about.st_ino), (0, {}))
        if about.st_size < at:  # the file was started over
            at, replies = 0, {}
        handle.seek(at)
        for line in handle:
            with suppress(ValueError, TypeError, RecursionError):  # such as a line that a kill cut off
                match json.loads(line):
                    case {"request": str(request), "reply": str()} as entry:
                        kept = Kept(*map(entry.get, Kept._fields))
                        replies.setdefault(request, _SAME.setdefault(kept, kept))
            if line.endswith(b"\n"):  # else the line is still being written
                at += len(line)
        _READ[file.resolve(), about.st_ino] = at, replies
    return replies


class Store:
    """The store at `path`, which need not exist yet.

    Args:
        shared: several processes ask for different requests at the same time. Else runs on this machine take turns.

    Raises:
        BadInput: a file there is no verdict store, or one of another version of this program.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self.path, self._own, self._shared = path, path, shared
        for file in self._files():
            if not file.is_file():  # reading a pipe would wait for ever
                raise BadInput(f"{file}: cannot be a verdict store, which is read as well; name a file with --store")
            try:
                with open(file, "rb") as handle:
                    first = handle.readline(200)
            except OSError as error:
                raise BadInput(f"{file}: cannot be read ({error.strerror})") from None
            # A kill may have cut the very first line.
            if not (HEAD if first.endswith(b"\n") else HEAD[: len(first)]) == first:
                raise BadInput(f"{file}: no verdict store of this version; name another with --store, or move it away")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lock the first file that no other process writes to, after other runs on this machine have left the store.

        Two runs at once might pay for the same reply. A shared store does not wait. No store waits for another machine:
        a lock over a network may come back late, or never.
        """
        make_room_for(self.path)
        with nullcontext() if self._shared else self._turn():
            for number in count():
                self._own = self.path.with_name(f"{self.path.stem}.{number}{self.path.suffix}") if number else self.path
                with open(self._own, "ab") as handle:
                    try:
                        lock(handle.fileno(), str(self._own))
                    except Busy:
                        continue
                    yield
                    return

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for other runs on this machine, using a lock file in its folder for temporary files."""
        folder = Path(tempfile.gettempdir(), f"safeeraser-stores-{os.getuid()}")
        folder.mkdir(exist_ok=True)
        with open(folder / request_hash(str(self.path.resolve())), "wb") as self._lock:
            try:
                lock(self._lock.fileno(), str(self.path))
            except Busy:
                note(f"{self.path} is in use; waiting for the other run to end")
                fcntl.flock(self._lock, fcntl.LOCK_EX)
            yield

    def release(self) -> None:
        """Let other runs use the store, although this run still waits for batches that it has submitted and noted."""
        if not self._shared:
            with suppress(OSError):  # on a disk without locks
                fcntl.flock(self._lock, fcntl.LOCK_UN)

    def find(self, wanted: Collection[str]) -> dict[str, Kept]:
        """The stored replies to the `wanted` request hashes, by hash. The first reply to a request counts."""
        replies: dict[str, Kept] = {}
        for known in map(_replies_in, self._files()):
            replies |= {request: known[request] for request in wanted if request in known and request not in replies}
        return replies

    def _files(self) -> list[Path]:
        beside = self.path.parent.glob(f"{escape(self.path.stem)}.[1-9]*{escape(self.path.suffix)}")
        return [*([self.path] if self.path.exists() else []), *sorted(beside)]

    def add(self, entry: dict[str, Any]) -> None:
        """Write a reply to disk at once. Raises `BadInput` if the disk does not take it."""
        try:
            with open(self._own, "ab", buffering=0) as handle:
                # A newline also comes first: a line that a kill cut off then spoils only itself. One write to a file
                # that is open for appending keeps the lines of several runs apart.
                content = (b"" if handle.tell() else HEAD) + b"\n" + json.dumps(entry).encode() + b"\n"
                written = handle.write(content)
        except OSError as error:
            raise BadInput(f"{self._own}: cannot be written ({error.strerror}); what was judged is kept") from None
        if written < len(content):
            raise BadInput(f"{self._own}: cannot be written (the disk is full); what was judged is kept")
