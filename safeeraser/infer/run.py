"""A whole inference run: from a data file and a model to a predictions file in the release's format."""

import logging
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

from safeeraser.benchmark.adapters import adapter_file, described_by, trained_settings
from safeeraser.benchmark.files import make_room_for, write_json
from safeeraser.benchmark.records import DataFile, read_records
from safeeraser.benchmark.release import ALIASES
from safeeraser.errors import BadInput
from safeeraser.infer.attacks import ATTACKS, Attack
from safeeraser.infer.engine import Engine, load_engine
from safeeraser.infer.options import Options
from safeeraser.infer.predictions import Partial, describe, difference, report_missing, settings_of, write_predictions
from safeeraser.infer.requests import Request, Unanswered, build_requests, find_faults
from safeeraser.infer.server import Server
from safeeraser.model.lineage import check_base, parents
from safeeraser.model.load import load_preprocessor
from safeeraser.model.preprocess import Preprocessor
from safeeraser.processes import Processes, check_gpu, leave_together
from safeeraser.progress import progress

log = logging.getLogger(__name__)

# What a backend answers with, and the requests as they are put to it: of the options, the data file, a process's
# requests, the processes, and the batch size that an earlier sitting came to.
ENGINES: dict[str, Callable[..., tuple[Engine | Server, list[Request]]]] = {
    "local": load_engine,
    "openai": lambda options, data, requests, *_: (Server(options), requests),
}
Write = Callable[[Options, DataFile, list[Request], dict[str, str]], None]  # the responses by their request's key


class NothingAnswered(BadInput):
    """No request at all could be answered: the model itself, or what runs it, is no good."""


@dataclass(frozen=True)
class Inferred:
    """A run that is through: its predictions, how many responses were wanted, and why those that are missing are."""

    output_file: Path
    wanted: int
    missing: dict[str, str] = field(default_factory=dict)  # by the request's key: record/place/field


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
    training = check(options, processes)
    data = read_records(options.eval_file)
    attack = ATTACKS[options.attack] if options.attack else None
    requests, settings = build_requests(data, options.selection, attack, options.generation.seed), settings_of(options)
    _check_alike(processes.gather(settings))
    partial = Partial(output, settings, processes.rank, replace=options.overwrite)
    if processes.gather(partial.is_finished())[0]:
        leave_together()
        log.info("done before: %s", output)
        return Inferred(output, len(requests))
    for path in (output, described_by(output)):
        make_room_for(path)
    partial.done = reduce(or_, processes.gather(partial.done))
    left = [request for request in requests if request.key not in partial.done]
    reasons = find_faults(data, left, _preprocessor(options, attack), processes)
    if left and len(reasons) == len(left) and not partial.done:
        raise BadInput(f"no picture can be read: {next(iter(reasons.values()))} (and so on)")
    _log_start(requests, done=len(partial.done), unreadable=len(reasons))
    if share := share_of([request for request in left if request.key not in reasons], processes):
        engine, share = ENGINES[options.backend](options, data, share, processes, partial.last_size)
        reasons |= _answer(engine, share, partial, processes)
    partial.done = reduce(or_, processes.gather(partial.done))
    partial.batch_sizes = reduce(or_, processes.gather(partial.batch_sizes))
    reasons = reduce(or_, processes.gather(reasons))
    missing = {r.key: reasons.get(r.key, "no process has answered it") for r in requests if r.key not in partial.done}
    if len(missing) == len(requests):
        raise NothingAnswered(f"nothing was answered: {next(iter(missing.values()))}")
    if processes.main:
        made_with = describe(options, training, processes, partial.batch_sizes)
        write_json(described_by(output), {"settings": settings, **made_with, "missing": missing})
        write(options, data, requests, partial.done)
        if missing:
            report_missing(output, requests, missing)
    leave_together()
    if not missing:
        partial.remove()
        log.info("done: %s", output)
    return Inferred(output, len(requests), missing)


def _check_alike(settings: list[dict[str, Any]]) -> None:
    """Raises `BadInput` where the processes, perhaps on several machines, do not have the same settings."""
    for other in settings:
        if differs := difference(settings[0], other):
            raise BadInput(f"the processes do not have the same settings: the first has {differs} in another")


def _preprocessor(options: Options, attack: Attack | None) -> Preprocessor | None:
    """What prepares pictures for the model; None behind a server, which does not say which pictures its model takes.

    Raises:
        BadInput: the attack cannot be made on this model.
    """
    preprocessor = None if options.base_url else load_preprocessor(options.model_path)
    if attack and preprocessor and (reason := attack.lacks(preprocessor)):
        raise BadInput(f"--attack {attack.name}: {reason}")
    return preprocessor


def _log_start(requests: list[Request], done: int, unreadable: int) -> None:
    """Say how many responses are wanted, how many are there already, and how many cannot be had."""
    log.info("%d responses wanted, on %d records", len(requests), len({request.record for request in requests}))
    if done:
        log.info("going on: %d of %d responses are there", done, len(requests))
    if unreadable:
        log.warning("note: %d will be missing, since their pictures cannot be read", unreadable)


def check(options: Options, processes: Processes) -> dict[str, Any] | None:
    """Refuse what does not go together. Returns how the adapter was trained, as `training_of` says it."""
    if options.output_file.resolve() == options.eval_file.resolve():
        raise BadInput(f"--output_file {options.output_file}: is the data file itself, which stays as it is")
    method, where = options.loss_type, options.checkpoint_path or Path(options.model_path)
    trained, training = options.checkpoint_path or parents(options.model_path), training_of(where)
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
            raise BadInput("--adapter_scale: of what? --checkpoint_path names an adapter")
        if options.checkpoint_path:
            adapter_file(options.checkpoint_path)  # before a model of 7B is looked for on the hub
            check_base(options.checkpoint_path, options.base, allowed=options.allow_other_base)
        return training
    if not options.base_url:
        raise BadInput("--backend openai: give the server's --base_url, such as http://localhost:8000/v1")
    if options.adapter_scale != 1 or options.quantization != "none":
        raise BadInput("--adapter_scale and --quantization are for the built-in engine; a server has its own model")
    if options.checkpoint_path:
        raise BadInput(
            "--checkpoint_path: a server holds its model whole; 'python -m safeeraser.model merge ADAPTER FOLDER' "
            "makes one of the adapter, and --model_path FOLDER asks for it"
        )
    if processes.count > 1:
        raise BadInput("--backend openai: one process is enough; --concurrency says how many requests it has under way")
    return training


def share_of(requests: list[Request], processes: Processes) -> list[Request]:
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


def training_of(folder: Path) -> dict[str, Any] | None:
    """Method and recipe that an adapter, or the one merged into a model, was trained with, where `run.json` says so."""
    settings = trained_settings(folder)
    return {"method": settings["forget_loss"]["name"], "recipe": settings["recipe"]} if settings else None
