"""Responses on disk: saved one by one, so that a stopped run can resume, and written as predictions at the end."""

import copy
import json
import logging
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch

from safeeraser.arguments import without_credentials
from safeeraser.benchmark.adapters import adapter_hash, described_by
from safeeraser.benchmark.files import lock, read_json, sha256, write_json
from safeeraser.benchmark.origin import versions
from safeeraser.benchmark.records import UNHARM, DataFile, keys_like
from safeeraser.benchmark.responses import ASKED, RELEASED, SWAPPED_PICTURE, VIEWS
from safeeraser.errors import BadInput
from safeeraser.infer.attacks import ATTACKS
from safeeraser.infer.engine import uses_graphs
from safeeraser.infer.options import Options
from safeeraser.infer.requests import Request, swap_partner
from safeeraser.model.lineage import merged_into
from safeeraser.model.load import choose_dtype
from safeeraser.processes import Processes

log = logging.getLogger(__name__)


def settings_of(options: Options) -> dict[str, Any]:
    """The settings that the responses depend on; they must not have changed when a run resumes."""
    if options.backend == "local":
        by_backend = {
            "base": options.base["weights"],
            "lora_alpha": options.lora_alpha,
            "adapter_scale": options.adapter_scale,
            "quantization": options.quantization,
            "dtype": str(choose_dtype(options.dtype)).removeprefix("torch."),
            "checkpoint": adapter_hash(options.checkpoint_path),
        }
    else:  # without the address, which may change from day to day
        by_backend = {"extra_body": options.extra_body}
    selection = options.selection
    return {
        "eval_file": sha256(options.eval_file),
        "backend": options.backend,
        "model_path": options.model_path,
        # The folder may since have been replaced by another model of the same name.
        "merged": (merged_into(options.model_path) or {}).get("adapter_sha256"),
        **by_backend,
        **asdict(options.generation),
        "attack": options.attack,
        "attack_code": ATTACKS[options.attack].code if options.attack else None,
        "only": [view for view in ASKED if view in selection.views],
        "categories": sorted(selection.categories),
        "skip": selection.skip,
        "limit": selection.limit,
        **selection.drawn,  # empty for ckpt_infer.py, so its runs have the same keys as ever
    }


def describe(options: Options, processes: Processes, batch_sizes: set[int]) -> dict[str, Any]:
    """How the predictions were made: everything to record in addition to `settings_of`."""
    return {
        "eval_file": str(options.eval_file),
        "checkpoint_path": str(options.checkpoint_path) if options.checkpoint_path else None,
        "base_url": without_credentials(options.base_url),
        "loss_type": options.loss_type or None,
        "training": options.training,
        "processes": processes.count,
        # In bfloat16 and float16, responses may differ with the batch size.
        "batch_sizes": sorted(batch_sizes),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() and not options.base_url else None,
        "decode": "graph" if uses_graphs(options, processes) else "plain",
        "versions": versions("torch", "transformers", "peft"),
    }


def difference(then: dict[str, Any], now: dict[str, Any]) -> str | None:
    """The first setting that differs, in words; None if all agree. An unknown base is taken to agree with any other."""
    for key in {**now, **then}:
        if then.get(key) != now.get(key) and not (key == "base" and None in (then.get(key), now.get(key))):
            return f"{key}={then.get(key)}, now {key}={now.get(key)}"
    return None


class Partial:
    """`<output>.partial.jsonl`: the settings on the first line, then one finished response per line.

    If there are several processes, each writes its own file (`<output>.partial.1.jsonl`, ...) and reads all the files.
    So the number of processes may change from one start to the next.

    Args:
        replace: ignore an existing output and files that were begun with other settings, instead of refusing them.

    Raises:
        BadInput: a file was begun with other settings, another run is writing to it, or it is no partial file.
    """

    def __init__(self, output: Path, settings: dict[str, Any], process: int = 0, *, replace: bool = False) -> None:
        stem = f"{output.name}.partial"
        self.path = output.with_name(f"{stem}.{process}.jsonl" if process else f"{stem}.jsonl")
        self.output, self.settings, self.replace = output, settings, replace
        self.done: dict[str, str] = {}  # the responses read and added, by their request's key
        self.batch_sizes: set[int] = set()  # the batch sizes that they were drawn with
        self.last_size: int | None = None  # the last batch size; of several files, the smallest
        self._handle: IO[bytes] | None = None
        self.files = sorted(path for path in output.parent.glob("*.jsonl") if path.name.startswith(f"{stem}."))
        read = {path: self._read(path) for path in self.files}
        self._whole, self._size = read.get(self.path, (0, 0))  # this process's file: bytes in complete lines, all bytes

    def is_finished(self) -> bool:
        """Whether this command has already written its output completely. Raises `BadInput` if another one wrote it."""
        if not self.output.exists() or self.replace:
            return False
        beside = described_by(self.output)
        made_with = read_json(beside) if beside.is_file() else {}
        if other := difference(made_with.get("settings", {}), self.settings):
            made = f", made with {other}" if made_with else ""
            raise BadInput(f"--output_file {self.output}: exists{made}; name another, or replace it with --overwrite")
        return not made_with["missing"] and not self.files

    def _read(self, path: Path) -> tuple[int, int]:
        """Add the responses in a file to `done`; return how many bytes are in complete lines, and how many in all."""
        with open(path, "rb") as handle:
            lock(handle.fileno(), str(path), shared=True)
            content = handle.read()
        # Bytes, because a kill may cut within a character. Anything after the last newline is the line that it cut off.
        end = content.rfind(b"\n") + 1
        try:
            lines = [json.loads(line) for line in content[:end].split(b"\n")[:-1]]
            begun, *values = lines or [{"settings": self.settings}]
            begun = dict(begun["settings"])
            responses = {value["key"]: value["response"] for value in values}
            sizes = [size for value in values if (size := value.get("batch_size"))]
        except (ValueError, KeyError, TypeError):
            raise BadInput(f"{path}: not a partial file of this program; remove it to start anew") from None
        if other := difference(begun, self.settings):
            if not self.replace:
                raise BadInput(
                    f"{path}: begun with {other}; give the same settings to resume, or start anew with --overwrite"
                )
            return 0, len(content)
        self.done |= responses
        self.batch_sizes |= set(sizes)
        self.last_size = min(filter(None, (self.last_size, *sizes[-1:])), default=None)
        return end, len(content)

    def add(self, finished: Iterable[tuple[str, str]], batch_size: int | None = None) -> None:
        """Save finished (key, response) pairs, drawn with `batch_size`. Raises `BadInput` if the disk takes no more."""
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
                "resumes from there"
            ) from None
        self.done |= added
        self.batch_sizes |= set(drawn.values())

    def _open(self) -> IO[bytes]:
        # Opened late: a run that fails before its first response leaves no file whose settings could block the next.
        # Unbuffered, so that closing does not retry a write that a full disk has refused.
        handle = open(self.path, "ab", buffering=0)  # noqa: SIM115 (open as long as the run)
        lock(handle.fileno(), str(self.path))
        if os.fstat(handle.fileno()).st_size != self._size:
            raise BadInput(f"{self.path}: another run has been at work there since this one began; start it again")
        # Drop a line that a kill cut off, so that the next entry starts on a new line.
        handle.truncate(self._whole)
        return handle

    def close(self) -> None:
        """Close the file, which releases its lock."""
        if self._handle:
            self._handle.close()

    def remove(self) -> None:
        """Delete the partial files, which are not needed once the output is written."""
        for path in {*self.files, self.path}:
            path.unlink(missing_ok=True)


def write_predictions(options: Options, data: DataFile, requests: list[Request], responses: dict[str, str]) -> None:
    """Write the predictions, and log how many of the release's fields are null in them.

    An audit leaves most of the fields null on purpose, and does not show the message.
    """
    filled = predictions(data, requests, responses)
    write_json(options.output_file, filled, indent=4)
    if count := nulls(filled):
        log.info(
            "note: %d fields are null in %s, not asked or not answered; this project's eval_all.py leaves them out, "
            "but the released one fails on null: to use it, ask all three of its views, without --limit, --only, "
            "--skip or --categories",
            count,
            options.output_file,
        )


def predictions(data: DataFile, requests: Iterable[Request], responses: Mapping[str, str]) -> list[dict[str, Any]]:
    """The data file's list of records, with each response in its place.

    Fields of the release that were not asked for, or have no response, are null. In the data file they may hold the
    vanilla model's answer or the reference, which nobody should take for this model's response.
    """
    filled = copy.deepcopy(data.raw)
    for place, field in _released(filled):
        place[field] = None
    for request in requests:
        if request.key in responses:
            *parents, last = request.place
            target: Any = filled[request.record]
            for parent in parents:
                target = target[parent]
            target[last] = responses[request.key]
        if request.place[-1] in VIEWS["swapped"].fields:
            partner = data.records[swap_partner(data, request.record)]
            filled[request.record][SWAPPED_PICTURE] = partner.SDImage_path
    return filled


def nulls(filled: list[dict[str, Any]]) -> int:
    """How many fields of the release are null in predictions; the release's `eval_all.py` fails at the first one."""
    return sum(place[field] is None for place, field in _released(filled))


def _released(records: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield each object and key in the records where the release stores a response."""
    for record in records:
        for view in (VIEWS[name] for name in RELEASED):
            harmless = (record[key] for key in keys_like(UNHARM, record))
            for place in record["unsafe_pairs"] if view.question == "harmful" else harmless:
                yield from ((place, field) for field in view.fields)


def report_missing(output: Path, requests: list[Request], missing: dict[str, str]) -> None:
    """Print which records lack responses, and why; name the question if the cause affects only one of a record."""
    lacking, causes = [request for request in requests if request.key in missing], defaultdict(list)
    for request in lacking:
        causes[request.record, missing[request.key]].append(request.pair)
    for (record, reason), pairs in causes.items():
        where = f", {pairs[0]}" if len(set(pairs)) == 1 else ""
        print(f"record {record}{where}: {len(pairs)} responses missing: {reason}", file=sys.stderr)
    print(
        f"error: {len(lacking)} of {len(requests)} responses are missing, and null in {output}; fix the causes "
        "above, then the same command fills them in",
        file=sys.stderr,
    )
