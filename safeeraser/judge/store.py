"""The verdict store: every reply that a judge was asked for, on disk, so that none is paid for twice.

A line a call, `verdicts.jsonl`; any number of runs share one. It holds what was said and by whom, and of what was asked
only a hash: a response is in it only where a judge repeats it. Processes that ask at the same time, those of one audit
or runs on several machines, each write a file of their own beside it, `verdicts.1.jsonl` and so on, and read them all.
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
    """The name under which a reply is kept: the same for the very same request alone."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Kept(NamedTuple):
    """A reply as the store has it: why it ended, and who gave it, as far as the server says."""

    reply: str
    finish: str | None = None
    answered_by: str | None = None
    fingerprint: str | None = None


# What this process has read of a file, the bytes and the replies in them: an audit asks at hundreds of points, and
# files only grow. By where the file lies, and its inode: another file may take its place.
_READ: dict[tuple[Path, int], tuple[int, dict[str, Kept]]] = {}
_SAME: dict[Kept, Kept] = {}  # most replies are one of a few, of which each is held once


def _replies_in(file: Path) -> dict[str, Kept]:
    """All replies in a file, by request; what was read of it before is not read again."""
    with open(file, "rb") as handle:
        about = os.fstat(handle.fileno())
        at, replies = _READ.get((file.resolve(), about.st_ino), (0, {}))
        if about.st_size < at:  # it was begun anew
            at, replies = 0, {}
        handle.seek(at)
        for line in handle:
            with suppress(ValueError, TypeError, RecursionError):  # of a line that was being written at a kill, say
                match json.loads(line):
                    case {"request": str(request), "reply": str()} as entry:
                        kept = Kept(*map(entry.get, Kept._fields))
                        replies.setdefault(request, _SAME.setdefault(kept, kept))
            if line.endswith(b"\n"):  # else the rest of it is being written
                at += len(line)
        _READ[file.resolve(), about.st_ino] = at, replies
    return replies


class Store:
    """The store at `path`; there need not be one yet.

    Args:
        shared: several processes ask at the same time for what is not the same; else a run waits for the others here.

    Raises:
        BadInput: what is there is something else, or of another version of this program.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self.path, self._own, self._shared = path, path, shared
        for file in self._files():
            if not file.is_file():  # to read a pipe would be to wait for ever
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
        """Take the first file that no other process writes to, once no other run on this machine asks for what this
        store may hold soon: it would be paid for twice.

        A shared store waits for no run, and none waits for one on another machine: a lock over a network may be slow to
        come back, or never.
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
        """Wait for other runs on this machine, by a lock in its folder for temporary files."""
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
        """Let other runs go on, though this one still waits for what it has asked for and written down."""
        if not self._shared:
            with suppress(OSError):  # of a disk without locks
                fcntl.flock(self._lock, fcntl.LOCK_UN)

    def find(self, wanted: Collection[str]) -> dict[str, Kept]:
        """The replies kept to these requests, by their hashes. The first reply to a request is the one that counts."""
        replies: dict[str, Kept] = {}
        for known in map(_replies_in, self._files()):
            replies |= {request: known[request] for request in wanted if request in known and request not in replies}
        return replies

    def _files(self) -> list[Path]:
        beside = self.path.parent.glob(f"{escape(self.path.stem)}.[1-9]*{escape(self.path.suffix)}")
        return [*([self.path] if self.path.exists() else []), *sorted(beside)]

    def add(self, entry: dict[str, Any]) -> None:
        """Keep a reply, at once on disk. Raises `BadInput` if the disk does not take it."""
        try:
            with open(self._own, "ab", buffering=0) as handle:
                # The newline comes first as well: a line broken off by a kill spoils only itself. One write, with the
                # file open for appending, keeps the lines of several runs apart.
                content = (b"" if handle.tell() else HEAD) + b"\n" + json.dumps(entry).encode() + b"\n"
                written = handle.write(content)
        except OSError as error:
            raise BadInput(f"{self._own}: cannot be written ({error.strerror}); what was judged is kept") from None
        if written < len(content):
            raise BadInput(f"{self._own}: cannot be written (the disk is full); what was judged is kept")
