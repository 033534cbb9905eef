"""The durable side of a run: finished responses are kept as they come, and a run goes on where it was stopped."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from safeeraser.benchmark.files import lock
from safeeraser.errors import BadInput


class Partial:
    """`<output>.partial.jsonl`: the settings in the first line, then one finished response a line.

    Of several processes each writes a file of its own (`<output>.partial.1.jsonl`, ...) and reads all that are there,
    so that their number may change from one start to the next.

    Args:
        replace: take nothing from a file that was begun with other settings, instead of refusing it.

    Attributes:
        done: the responses found and added, by their request's key.
        batch_sizes: how many at a time they were drawn.
        last_size: the last of these, the smallest of several processes'; None: none is known.

    Raises:
        BadInput: a file was begun with other settings, another run is writing it, or something else is wrong with it.
    """

    def __init__(self, output: Path, settings: dict[str, Any], process: int = 0, *, replace: bool = False) -> None:
        stem = f"{output.name}.partial"
        self.path = output.with_name(f"{stem}.{process}.jsonl" if process else f"{stem}.jsonl")
        self.settings, self.replace = settings, replace
        self.done: dict[str, str] = {}
        self.batch_sizes: set[int] = set()
        self.last_size: int | None = None
        self._handle: IO[bytes] | None = None
        self._whole = self._size = 0  # bytes of whole lines in this process's own file, and of all of it
        folder = output.parent
        self.found = sorted(path for path in folder.glob("*.jsonl") if path.name.startswith(f"{stem}."))
        for path in self.found:
            whole, size = self._read(path)
            if path == self.path:
                self._whole, self._size = whole, size

    def _read(self, path: Path) -> tuple[int, int]:
        """Take over what is in a file; returns how many of its bytes are whole lines, and how many there are."""
        with open(path, "rb") as handle:
            lock(handle.fileno(), str(path), shared=True)
            content = handle.read()
        # Bytes, since a kill may have cut a character in two; what follows the last newline is the line it cut.
        whole = content.rfind(b"\n") + 1
        try:
            lines = [json.loads(line) for line in content[:whole].split(b"\n")[:-1]]
            begun, *values = lines or [{"settings": self.settings}]
            begun = dict(begun["settings"])
            responses = {value["key"]: value["response"] for value in values}
            sizes = [size for value in values if (size := value.get("batch_size"))]
        except (ValueError, KeyError, TypeError):
            raise BadInput(f"{path}: not a partial file of this program; remove it to start anew") from None
        if other := difference(begun, self.settings):
            if not self.replace:
                raise BadInput(
                    f"{path}: begun with {other}; give the same settings to go on, or start anew with --overwrite"
                )
            return 0, len(content)
        self.done |= responses
        self.batch_sizes |= set(sizes)
        self.last_size = min(filter(None, (self.last_size, *sizes[-1:])), default=None)
        return whole, len(content)

    def add(self, finished: Iterable[tuple[str, str]], batch_size: int | None = None) -> None:
        """Keep finished (key, response) pairs, drawn so many at a time. Raises `BadInput` if the disk takes no more."""
        added = dict(finished)
        if not added:
            return
        drawn = {"batch_size": batch_size} if batch_size else {}
        lines: list[dict[str, Any]] = [{"key": key, "response": said, **drawn} for key, said in added.items()]
        try:
            if self._handle is None:
                self._handle = self._open()
                lines = lines if self._whole else [{"settings": self.settings}, *lines]
            content = b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)
            while content:
                content = content[self._handle.write(content) :]
        except OSError as error:
            raise BadInput(
                f"{self.path}: cannot be written ({error.strerror}); what is finished is kept, and the same command "
                "goes on from there"
            ) from None
        self.done |= added
        self.batch_sizes |= set(drawn.values())

    def _open(self) -> IO[bytes]:
        # Only now: a run that fails before its first response leaves no file that the next one would contradict.
        # Unbuffered, so that what a full disk refuses is not tried again on the way out.
        handle = open(self.path, "ab", buffering=0)  # noqa: SIM115 (open as long as the run)
        lock(handle.fileno(), str(self.path))
        if os.fstat(handle.fileno()).st_size != self._size:
            raise BadInput(f"{self.path}: another run has been at work there since this one began; start it again")
        # What a kill left of a line is dropped, so that the next one starts on a line of its own.
        handle.truncate(self._whole)
        return handle

    def close(self) -> None:
        """Nothing more will be added; others may have the file."""
        if self._handle:
            self._handle.close()

    def remove(self) -> None:
        """The output is written: the partial files are no longer needed."""
        for path in {*self.found, self.path}:
            path.unlink(missing_ok=True)


def difference(then: dict[str, Any], now: dict[str, Any]) -> str | None:
    """The first setting that is another now, in words. A base that either does not know is taken for the other's."""
    for key in {**now, **then}:
        if then.get(key) != now.get(key) and not (key == "base" and None in (then.get(key), now.get(key))):
            return f"{key}={then.get(key)}, now {key}={now.get(key)}"
    return None
