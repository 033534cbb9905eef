"""The durable side of a run: finished responses are kept as they come, and a run goes on where it was stopped."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from safeeraser.benchmark.files import lock
from safeeraser.errors import BadInput


class Partial:
    """`<output>.partial.jsonl`: the settings in the first line, then one finished response a line.

    Of several processes each writes a file of its own (`<output>.partial.1.jsonl`, ...) and reads all that are there,
    so that their number may change from one start to the next.

    Attributes:
        done: the responses found and added, by their request's key.

    Raises:
        BadInput: a file was begun with other settings, another run is writing it, or something else is wrong with it.
    """

    def __init__(self, output: Path, settings: dict[str, Any], process: int = 0) -> None:
        stem = f"{output.name}.partial"
        self.path = output.with_name(f"{stem}.{process}.jsonl" if process else f"{stem}.jsonl")
        self.settings, self.done = settings, {}
        self._handle: IO[bytes] | None = None
        self._whole = 0  # bytes of whole lines in this process's own file
        folder = output.parent
        self.found = sorted(path for path in folder.glob("*.jsonl") if path.name.startswith(f"{stem}."))
        for path in self.found:
            whole = self._read(path)
            self._whole = whole if path == self.path else self._whole

    def _read(self, path: Path) -> int:
        """Take over what is in a file; returns how many of its bytes are whole lines."""
        with open(path, "rb") as handle:
            lock(handle.fileno(), str(path), shared=True)
            content = handle.read()
        # Bytes, since a kill may have cut a character in two; what follows the last newline is the line it cut.
        whole = content.rfind(b"\n") + 1
        try:
            lines = [json.loads(line) for line in content[:whole].split(b"\n")[:-1]]
            begun, *values = lines or [{"settings": self.settings}]
            begun = dict(begun["settings"])
            self.done |= {value["key"]: value["response"] for value in values}
        except (ValueError, KeyError, TypeError):
            raise BadInput(f"{path}: not a partial file of this program; remove it to start anew") from None
        for key in {**self.settings, **begun}:
            if begun.get(key) != self.settings.get(key):
                raise BadInput(
                    f"{path}: begun with {key}={begun.get(key)}, now {key}={self.settings.get(key)}; "
                    "give the same settings to go on, or remove it to start anew"
                )
        return whole

    def add(self, finished: Iterable[tuple[str, str]]) -> None:
        """Keep finished (key, response) pairs. Raises `BadInput` if the disk does not take them."""
        finished = dict(finished)
        lines = [{"key": key, "response": response} for key, response in finished.items()]
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
        self.done |= finished

    def _open(self) -> IO[bytes]:
        # Only now: a run that fails before its first response leaves no file that the next one would contradict.
        # Unbuffered, so that what a full disk refuses is not tried again on the way out.
        handle = open(self.path, "ab", buffering=0)  # noqa: SIM115 (open as long as the run)
        lock(handle.fileno(), str(self.path))
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
