"""The durable side of a run: finished responses are kept as they come, and a run goes on where it was stopped."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safeeraser.benchmark.files import write_whole
from safeeraser.errors import BadInput


class Partial:
    """`<output>.partial.jsonl`: the settings in the first line, then one finished response a line.

    Raises:
        BadInput: the file was begun with other settings, or something else is wrong with it.
    """

    def __init__(self, output: Path, settings: dict[str, Any]) -> None:
        self.path = output.with_name(output.name + ".partial.jsonl")
        self.done: dict[str, str] = {}
        complete = self._read(settings) if self.path.exists() else []
        self._beginning: list[bytes] | None = complete or [json.dumps({"settings": settings}).encode() + b"\n"]

    def _read(self, settings: dict[str, Any]) -> list[bytes]:
        # Bytes, since a kill may have cut a character in two; what follows the last newline is the line it cut.
        lines = self.path.read_bytes().split(b"\n")[:-1]
        try:
            values = [json.loads(line) for line in lines]
            begun = dict(values[0]["settings"]) if values else settings
            self.done = {value["key"]: value["response"] for value in values[1:]}
        except (ValueError, KeyError, TypeError):
            raise BadInput(f"{self.path}: not a partial file of this program; remove it to start anew") from None
        for key in settings.keys() | begun.keys():
            if begun.get(key) != settings.get(key):
                raise BadInput(
                    f"{self.path}: begun with {key}={begun.get(key)}, now {key}={settings.get(key)}; "
                    "give the same settings to go on, or remove it to start anew"
                )
        return [line + b"\n" for line in lines]

    def add(self, finished: Iterable[tuple[str, str]]) -> None:
        """Keep finished (key, response) pairs."""
        if self._beginning:
            # Only now: a run that fails before its first response leaves no file that the next one would contradict.
            # What a kill left of a line is dropped, so that the next one starts on a line of its own.
            with write_whole(self.path, "wb") as handle:
                handle.writelines(self._beginning)
            self._beginning = None
        lines = []
        for key, response in finished:
            self.done[key] = response
            lines.append(json.dumps({"key": key, "response": response}, ensure_ascii=False) + "\n")
        with open(self.path, "a", encoding="utf-8") as handle:
            handle.writelines(lines)

    def remove(self) -> None:
        """The output is written: the partial file is no longer needed."""
        self.path.unlink()
