"""The verdict store: every reply that a judge was asked for, on disk, so that none is paid for twice.

A line a call, `verdicts.jsonl`; any number of runs share one. It holds what was said and by whom, and of what was asked
only a hash, so no response can be read from it.
"""

import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safeeraser.benchmark.files import make_room_for
from safeeraser.errors import BadInput

FORMAT = {"format": "safeeraser verdict store", "version": 1}
HEAD = json.dumps(FORMAT).encode() + b"\n"


def request_hash(*parts: Any) -> str:
    """The name under which a reply is kept: the same for the very same request alone."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Store:
    """The store at `path`; there need not be one yet.

    Raises:
        BadInput: what is there is something else, or of another version of this program.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists():
            if not (path.is_file() or path.is_char_device()):  # to read a pipe would be to wait for ever
                raise BadInput(f"{path}: cannot be a verdict store, which is read as well; name a file with --store")
            with open(path, "rb") as handle:
                first = handle.readline(200)
            # A kill may have cut the very first line.
            if not (HEAD if first.endswith(b"\n") else HEAD[: len(first)]) == first:
                raise BadInput(f"{path}: no verdict store of this version; name another with --store, or move it away")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait until no other run asks for what this store may hold soon: it would be paid for twice."""
        make_room_for(self.path)
        with open(self.path, "ab") as handle:
            self._lock = handle
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"note: {self.path} is in use; waiting for the other run to end", file=sys.stderr)
                fcntl.flock(handle, fcntl.LOCK_EX)
            except OSError:
                print(
                    f"note: {self.path} is on a disk without locks: runs at the same time may pay twice",
                    file=sys.stderr,
                )
            yield

    def release(self) -> None:
        """Let other runs go on, though this one still waits for what it has asked for and written down."""
        with suppress(OSError):  # of a disk without locks
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def find(self, wanted: Collection[str]) -> dict[str, str]:
        """The replies kept to these requests, by their hashes. The first reply to a request is the one that counts."""
        found: dict[str, str] = {}
        if self.path.exists():
            with open(self.path, "rb") as handle:
                for line in handle:
                    entry = _line(line)
                    request, reply = (
                        entry.get(key) if isinstance(entry, dict) else None for key in ("request", "reply")
                    )
                    if isinstance(request, str) and isinstance(reply, str) and request in wanted:
                        found.setdefault(request, reply)
        return found

    def add(self, entry: dict[str, Any]) -> None:
        """Keep a reply, at once on disk. Raises `BadInput` if the disk does not take it."""
        make_room_for(self.path)
        lines: Sequence[dict[str, Any]] = (
            [entry] if self.path.exists() and self.path.stat().st_size else [FORMAT, entry]
        )
        # The newline comes first as well: a line broken off by a kill spoils only itself. One write, with the file open
        # for appending, keeps the lines of several runs apart.
        content = b"".join(b"\n" * (line is entry) + json.dumps(line).encode() + b"\n" for line in lines)
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                written = os.write(handle, content)
            finally:
                os.close(handle)
        except OSError as error:
            raise BadInput(f"{self.path}: cannot be written ({error.strerror}); what was judged is kept") from None
        if written < len(content):
            raise BadInput(f"{self.path}: cannot be written (the disk is full); what was judged is kept")


def _line(line: bytes) -> Any:
    """The value of a line; None for a blank one, or one that was being written when the run was killed."""
    try:
        return json.loads(line)
    except ValueError:
        return None
