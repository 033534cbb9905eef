"""An inference run: from a data file and a model to a predictions file in the release's format."""

import logging
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from safeeraser.benchmark.adapters import adapter_file, described_by
from safeeraser.benchmark.files import make_room_for, write_json
from safeeraser.benchmark.records import DataFile, read_records
from safeeraser.benchmark.release import ALIASES
from safeeraser.errors import BadInput
from safeeraser.infer.attacks import ATTACKS
from safeeraser.infer.engine import Engine, load_engine
from safeeraser.infer.options import Options
from safeeraser.infer.predictions import Partial, describe, difference, report_missing, settings_of, write_predictions
from safeeraser.infer.requests import Request, Unanswered, build_requests, find_faults
from safeeraser.infer.server import Server
from safeeraser.model.lineage import check_base, merged_into
from safeeraser.model.load import load_preprocessor
from safeeraser.processes import Processes, check_gpu, leave_together
from safeeraser.progress import progress

log = logging.getLogger(__name__)

# For each backend, a function that returns the engine and the requests to ask it. Its arguments: the options, the data
# file, this process's requests, the processes, and the batch size that an earlier part of the run ended with.
ENGINES: dict[str, Callable[..., tuple[Engine | Server, list[Request]]]] = {
    "local": load_engine,
    "openai": lambda options, data, requests, *_: (Server(options), requests),
}
Write = Callable[[Options, DataFile, list[Request], dict[str, str]], None]  # responses by request key


class NothingAnswered(BadInput):
    """Not one request could be answered: the model itself, or the engine that runs it, does not work."""


@dataclass(frozen=True)
class Inferred:
    """A finished run: its predictions, how many responses were asked for, and why responses are missing."""

    output_file: Path
    wanted: int
    missing: dict[str, str] = field(default_factory=dict)  # reasons by request key, record/place/field


def infer(options: Options, write: Write = write_predictions) -> Inferred:
    """Answer every request and write `output_file`; a `.run.json` next to it records how it was made.

    Args:
        write: writes the output file from the responses that there are.

    Raises:
        NothingAnswered: there is not one response.
        BadInput: before anything is generated, if an argument or a file cannot be used; later, if the disk or the
            memory is full, or a server stops answering.
    """
    output, processes = options.output_file, Processes.join()
    check(options, processes)
    data, attack = read_records(options.eval_file), ATTACKS.get(options.attack or "")
    requests, settings = build_requests(data, options.selection, attack, options.generation.seed), settings_of(options)
    first, *others = processes.gather(settings)
    for other in others:  # they may run on other machines
        if differs := difference(first, other):
            raise BadInput(f"the processes have different settings: {differs} in another process")
    partial = Partial(output, settings, processes.rank, replace=options.overwrite)
    if processes.gather(partial.is_finished())[0]:
        leave_together()
        log.info("done before: %s", output)
        return Inferred(output, len(requests))
    for path in (output, described_by(output)):
        make_room_for(path)
    partial.done = processes.union(partial.done)
    reasons = processes.union(_answer(options, data, requests, partial, processes))
    partial.done, partial.batch_sizes = processes.union(partial.done), processes.union(partial.batch_sizes)
    missing = {r.key: reasons.get(r.key, "no process has answered it") for r in requests if r.key not in partial.done}
    if len(missing) == len(requests):
        raise NothingAnswered(f"nothing was answered: {next(iter(missing.values()))}")
    if processes.main:
        made_with = describe(options, processes, partial.batch_sizes)
        write_json(described_by(output), {"settings": settings, **made_with, "missing": missing})
        write(options, data, requests, partial.done)
        if missing:
            report_missing(output, requests, missing)
    leave_together()
    if not missing:
        partial.remove()
        log.info("done: %s", output)
    return Inferred(output, len(requests), missing)


def check(options: Options, processes: Processes) -> None:
    """Raise `BadInput` if the options do not fit together."""
    if options.output_file.resolve() == options.eval_file.resolve():
        raise BadInput(f"--output_file {options.output_file}: is the data file itself, which stays as it is")
    method, where = options.loss_type, options.checkpoint_path or Path(options.model_path)
    trained = (training := options.training) or options.checkpoint_path or merged_into(options.model_path)
    if method == "vanilla" and trained:
        raise BadInput(f"--loss_type vanilla: the untouched model has no checkpoint, yet {where} was given")
    if method and training and ALIASES["forget_loss"].get(method, method) != training["method"]:
        raise BadInput(f"--loss_type {method}: {where} was trained with {training['method']}")
    if method not in ("", "vanilla") and not trained and options.backend == "local":
        raise BadInput(f"--loss_type {method}: no adapter was given; --checkpoint_path names one")
    attack, named = ATTACKS.get(options.attack or ""), f"--attack {options.attack}"
    if attack and options.backend == "openai" and not attack.request:
        raise BadInput(f"{named}: works on the model itself, which a server does not show; --backend local does")
    if attack and attack.adapter and not options.checkpoint_path:
        raise BadInput(f"{named}: changes an adapter, and none was given; --checkpoint_path names one")
    if attack and attack.learns and options.selection.skip < 1:
        raise BadInput(
            f"{named}: reads records that are not asked about; --skip N holds out the first N of each category"
        )
    if options.backend == "local":
        check_gpu()
        if options.base_url or options.extra_body:
            raise BadInput("--base_url and --extra_body are for a server of your own: --backend openai")
        if options.adapter_scale != 1 and not options.checkpoint_path:
            raise BadInput("--adapter_scale: there is no adapter to scale; --checkpoint_path names one")
        if options.checkpoint_path:
            adapter_file(options.checkpoint_path)  # fails before a model of 7B is looked for on the hub
            check_base(options.checkpoint_path, options.base, allowed=options.allow_other_base)
        return
    if not options.base_url:
        raise BadInput("--backend openai: give the server's --base_url, such as http://localhost:8000/v1")
    if options.adapter_scale != 1 or options.quantization != "none":
        raise BadInput("--adapter_scale and --quantization are for the built-in engine; a server has its own model")
    if options.checkpoint_path:
        raise BadInput(
            "--checkpoint_path: a server takes no adapter; merge it with 'python -m safeeraser.model merge ADAPTER "
            "FOLDER', serve FOLDER, and ask with --model_path FOLDER"
        )
    if processes.count > 1:
        raise BadInput("--backend openai: start one process alone; --concurrency sets how many requests run at a time")


def _answer(
    options: Options, data: DataFile, requests: list[Request], partial: Partial, processes: Processes
) -> dict[str, str]:
    """Answer this process's share of the open requests, and save each response as soon as it arrives.

    Returns:
        The reasons why requests have no response, by request key.

    Raises:
        BadInput: no picture can be read, or the attack cannot be made on this model.
    """
    left = [request for request in requests if request.key not in partial.done]
    # A server does not report which pictures its model takes.
    preprocessor = None if options.base_url else load_preprocessor(options.model_path)
    if preprocessor and options.attack and (reason := ATTACKS[options.attack].lacks(preprocessor)):
        raise BadInput(f"--attack {options.attack}: {reason}")
    missing = find_faults(data, left, preprocessor, processes)
    if left and len(missing) == len(left) and not partial.done:
        raise BadInput(f"no picture can be read: {next(iter(missing.values()))} (and so on)")
    log.info("%d responses wanted, on %d records", len(requests), len({request.record for request in requests}))
    if partial.done:
        log.info("resuming: %d of %d responses are there", len(partial.done), len(requests))
    if missing:
        log.warning("note: %d responses will be missing, because their pictures cannot be read", len(missing))
    left = [request for request in left if request.key not in missing]
    records = list(dict.fromkeys(request.record for request in left))
    mine = {*records[processes.rank :: processes.count]}  # undivided records: a picture's questions stay together
    if not (share := [request for request in left if request.record in mine]):
        return missing
    engine, share = ENGINES[options.backend](options, data, share, processes, partial.last_size)
    whose = f"responses of process 1 of {processes.count}" if processes.count > 1 else "responses"
    began = time.monotonic()
    with closing(partial), progress(whose, len(share), shown=processes.main) as advance:
        for outcomes in engine.answer(share):
            ended = ((request.key, said) for request, said in outcomes if isinstance(said, str))
            partial.add(ended, engine.batch_size)
            missing |= {request.key: said.reason for request, said in outcomes if isinstance(said, Unanswered)}
            advance(len(outcomes))
    log.info("%d %s, %.1f a second", len(share), whose, len(share) / (time.monotonic() - began))
    return missing
