"""A whole inference run: from a data file and a model to a predictions file in the release's format."""

import logging
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch

from safeeraser import __version__
from safeeraser import model as models
from safeeraser.arguments import without_credentials
from safeeraser.benchmark.checked import unreadable
from safeeraser.benchmark.conversation import IMAGE
from safeeraser.benchmark.files import described_by, make_room_for, read_json, write_json
from safeeraser.benchmark.pictures import picture_size
from safeeraser.benchmark.records import DataFile, read_records
from safeeraser.errors import BadInput
from safeeraser.infer.attacks import ATTACKS, Attack, Known
from safeeraser.infer.checkpoint import load_merged, training_of
from safeeraser.infer.engine import Engine
from safeeraser.infer.memory import out_of_memory
from safeeraser.infer.options import Options, check
from safeeraser.infer.outputs import nulls, predictions
from safeeraser.infer.partial import Partial, difference
from safeeraser.infer.requests import Request, Unanswered, build_requests, check_questions, pictures_of
from safeeraser.infer.server import Server
from safeeraser.processes import Processes, leave_together
from safeeraser.progress import progress

log = logging.getLogger(__name__)

Key = TypeVar("Key")


class NothingAnswered(BadInput):
    """No request at all could be answered: the model itself, or what runs it, is no good."""


@dataclass(frozen=True)
class Inferred:
    """A run that is through: its predictions, how many responses were wanted, and why those that are missing are."""

    output_file: Path
    wanted: int
    missing: dict[str, str] = field(default_factory=dict)  # by the request's key: record/place/field


def write_predictions(options: Options, data: DataFile, requests: list[Request], responses: dict[str, str]) -> None:
    """Write the predictions, and say how many of the release's fields are null in them."""
    filled = predictions(data, requests, responses)
    write_json(options.output_file, filled, indent=4)
    _note_nulls(options.output_file, nulls(filled))


Write = Callable[[Options, DataFile, list[Request], dict[str, str]], None]  # the responses by their request's key


def infer(options: Options, write: Write = write_predictions) -> Inferred:
    """Answer every request and write `output_file`, with what produced it beside it (`.run.json`).

    Args:
        write: what makes the output file of the responses that are there.

    Raises:
        NothingAnswered: not one response came.
        BadInput: before anything is generated, for whatever in the arguments or files cannot be used; later, if the
            disk or the memory is full.
    """
    output, processes = options.output_file, Processes.join()
    check(options, processes)
    data = read_records(options.eval_file)
    attack = ATTACKS[options.attack] if options.attack else None
    requests, settings = build_requests(data, options.selection, attack, options.generation.seed), options.settings
    check_alike(processes.gather(settings))
    partial = Partial(output, settings, processes.rank, replace=options.overwrite)
    if processes.gather(finished(options, settings, partial))[0]:
        leave_together()
        log.info("done before: %s", output)
        return Inferred(output, len(requests))
    for path in (output, described_by(output)):
        make_room_for(path)
    partial.done = _union(processes.gather(partial.done))
    left = [request for request in requests if request.key not in partial.done]
    prepared = None if options.base_url else models.load_preprocessor(options.model_path)  # a server tells nothing
    reasons = _faulty(left, options.eval_file, prepared, processes)
    if left and len(reasons) == len(left) and not partial.done:
        raise BadInput(f"no picture can be read: {next(iter(reasons.values()))} (and so on)")
    _announce(requests, partial.done, reasons)
    check_questions(data, left, prepared.reserved if prepared else [IMAGE])  # the benchmark's own word is no question's
    if attack and prepared and (reason := attack.lacks(prepared)):
        raise BadInput(f"--attack {attack.name}: {reason}")
    if own := share([request for request in left if request.key not in reasons], processes):
        engine, own = _engine(options, data, own, processes, partial.last_size)
        reasons |= _answer(engine, own, partial, processes)
    partial.done = _union(processes.gather(partial.done))
    partial.batch_sizes = set().union(*processes.gather(partial.batch_sizes))
    reasons = _union(processes.gather(reasons))
    missing = {r.key: reasons.get(r.key, "no process has answered it") for r in requests if r.key not in partial.done}
    if len(missing) == len(requests):
        raise NothingAnswered(f"nothing was answered: {next(iter(missing.values()))}")
    if processes.main:
        write_json(described_by(output), describe(options, settings, missing, processes, partial.batch_sizes))
        write(options, data, requests, partial.done)
        _tell(options, requests, missing)
    leave_together()
    if not missing:
        partial.remove()
        log.info("done: %s", output)
    return Inferred(output, len(requests), missing)


def _faulty(
    requests: list[Request], data_path: Path, prepared: models.Preprocessor | None, processes: Processes
) -> dict[str, str]:
    """The requests, by key, whose picture is at fault, with the reason. The processes share the looking."""
    pictures = pictures_of(requests)[processes.rank :: processes.count]
    faults = _union(processes.gather(find_faults(pictures, data_path, prepared, shown=processes.main)))
    return {request.key: faults[request.file] for request in requests if request.file and request.file in faults}


def find_faults(
    pictures: list[Path], data_path: Path, prepared: models.Preprocessor | None, *, shown: bool
) -> dict[Path, str]:
    """The pictures that cannot be decoded, or are of a shape that the model does not take, with the reason."""
    faults = unreadable(pictures, data_path, shown=shown)
    for picture in pictures:
        try:
            if prepared and picture not in faults:
                prepared.place(partial(picture_size, picture))
        except BadInput as error:
            faults[picture] = f"{picture}: {error}"
    return faults


def check_alike(settings: list[dict[str, Any]]) -> None:
    """Refuse processes, on several machines perhaps, that would not all answer the same."""
    for other in settings[1:]:
        if differs := difference(settings[0], other):
            raise BadInput(f"the processes do not have the same settings: the first has {differs} in another")


def _announce(requests: list[Request], done: dict[str, str], reasons: dict[str, str]) -> None:
    records = len({request.record for request in requests})
    log.info("%d responses wanted, on %d records", len(requests), records)
    if done:
        log.info("going on: %d of %d responses are there", len(done), len(requests))
    if reasons:
        log.warning("note: %d will be missing, since their pictures cannot be read", len(reasons))


def finished(options: Options, settings: dict[str, Any], partial: Partial) -> bool:
    """Whether this very command has written its output already, and whole.

    Raises:
        BadInput: the output is another command's.
    """
    if not options.output_file.exists() or options.overwrite:
        return False
    beside = described_by(options.output_file)
    made_with = read_json(beside) if beside.is_file() else {}
    if other := difference(made_with.get("settings", {}), settings):
        made = f", made with {other}" if made_with else ""
        raise BadInput(
            f"--output_file {options.output_file}: exists{made}; name another, or replace it with --overwrite"
        )
    return not made_with["missing"] and not partial.found


def share(requests: list[Request], processes: Processes) -> list[Request]:
    """This process's part: every n-th record, so that a picture's questions stay together."""
    turns = {record: turn for turn, record in enumerate(dict.fromkeys(request.record for request in requests))}
    return [request for request in requests if turns[request.record] % processes.count == processes.rank]


def _answer(engine: Engine | Server, requests: list[Request], partial: Partial, processes: Processes) -> dict[str, str]:
    """Answer requests, each on disk as soon as it is; returns those that could not be, by key, with the reason."""
    missing = dict[str, str]()
    whose = f"responses of process 1 of {processes.count}" if processes.count > 1 else "responses"
    began = time.monotonic()
    with closing(partial), progress(whose, len(requests), shown=processes.main) as advance:
        for outcomes in engine.answer(requests):
            ended = ((request.key, said) for request, said in outcomes if isinstance(said, str))
            partial.add(ended, engine.batch_size)
            missing |= {request.key: said.reason for request, said in outcomes if isinstance(said, Unanswered)}
            advance(len(outcomes))
    log.info("%d %s, %.1f a second", len(requests), whose, len(requests) / (time.monotonic() - began))
    return missing


def _engine(
    options: Options, data: DataFile, requests: list[Request], processes: Processes, found: int | None
) -> tuple[Engine | Server, list[Request]]:
    """What answers, and the requests as they are put to it. `found`: see `Engine`."""
    if options.base_url:  # which `check` wants of the backend openai, and of no other
        server = Server(
            options.model_path,
            options.base_url,
            options.generation,
            concurrency=options.concurrency,
            extra=options.extra_body,
        )
        return server, requests
    attack = ATTACKS[options.attack] if options.attack else None
    vlm = load_merged(
        options.model_path,
        options.checkpoint_path,
        dtype=options.dtype,
        lora_alpha=options.lora_alpha,
        adapter_scale=options.adapter_scale,
        quantization=options.quantization,
        change=attack.adapter if attack else None,
        device=processes.device,
    )
    if attack:
        vlm, requests = _attacked(attack, vlm, options, data, requests)
    return Engine(
        vlm, options.generation, options.batch_size, found, options.workers or 0, _fixed(options, processes)
    ), requests


def _fixed(options: Options, processes: Processes) -> bool:
    return options.decode == "graph" and processes.device.type == "cuda"


def _attacked(
    attack: Attack, vlm: models.VLM, options: Options, data: DataFile, requests: list[Request]
) -> tuple[models.VLM, list[Request]]:
    """What an attack makes of the model and of the requests: of the seed, the held-out records and these alone."""
    if not attack.model:
        return vlm, requests
    vlm.model.eval()
    held_out = options.selection.held_out(data) if attack.learns else replace(data, records=[], raw=[], numbers=[])
    began = time.monotonic()
    try:
        found = attack.model(vlm, Known(data, held_out, options.generation.seed), requests)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise BadInput(f"--attack {attack.name}: out of memory; a smaller dtype, or a larger device, may do") from None
    log.info("attack %s: prepared in %.0f s", attack.name, time.monotonic() - began)
    return found


def describe(
    options: Options, settings: dict[str, Any], missing: dict[str, str], processes: Processes, batch_sizes: set[int]
) -> dict[str, Any]:
    """What the predictions were made with and from."""
    return {
        "settings": settings,
        "eval_file": str(options.eval_file),
        "checkpoint_path": str(options.checkpoint_path) if options.checkpoint_path else None,
        "base_url": without_credentials(options.base_url),
        "loss_type": options.loss_type or None,
        "training": training_of(options.checkpoint_path or Path(options.model_path)),
        "missing": missing,
        "processes": processes.count,
        # By which responses may differ, in bfloat16 and float16.
        "batch_sizes": sorted(batch_sizes),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() and not options.base_url else None,
        "decode": "graph" if _fixed(options, processes) else "plain",
        "versions": {"safeeraser": __version__}
        | {package: version(package) for package in ("torch", "transformers", "peft")},
    }


def _note_nulls(output: Path, count: int) -> None:
    """Say what becomes of null fields. An audit, whose points lack most of them on purpose, does not show it."""
    if count:
        log.info(
            "note: %d fields are null in %s, not asked or not answered; this project's eval_all.py leaves them out, "
            "but the released one fails on null: for that one ask all three of its views, without --limit, --only, "
            "--skip or --categories",
            count,
            output,
        )


def _tell(options: Options, requests: list[Request], missing: dict[str, str]) -> None:
    """Say which records lack responses, and why, if any do; of a cause that lies in one question alone, which it is."""
    if not missing:
        return
    lacking, causes = [request for request in requests if request.key in missing], defaultdict(list)
    for request in lacking:
        causes[request.record, missing[request.key]].append(".".join(map(str, request.place[:-1])))
    for (record, reason), fields in causes.items():
        where = f", {fields[0]}" if len(set(fields)) == 1 else ""
        print(f"record {record}{where}: {len(fields)} responses missing: {reason}", file=sys.stderr)
    print(
        f"error: {len(lacking)} of {len(requests)} responses are missing in {options.output_file}, where they are left "
        "null; once the causes above are mended, the same command fills them in",
        file=sys.stderr,
    )


def _union(dicts: Iterable[dict[Key, str]]) -> dict[Key, str]:
    return {key: value for each in dicts for key, value in each.items()}
