"""The answers of a model itself: an inference run whose responses go into the data file, as its own."""

import logging
from argparse import Namespace
from collections import defaultdict
from dataclasses import asdict, fields
from typing import Any

from safeeraser import __version__
from safeeraser.benchmark.answered import Place, seen_from, take_refusals_along, with_answers
from safeeraser.benchmark.files import write_json
from safeeraser.benchmark.records import DataFile
from safeeraser.benchmark.responses import OWN
from safeeraser.infer.command_line import generation_of
from safeeraser.infer.options import Options
from safeeraser.infer.requests import Request, Selection
from safeeraser.infer.run import Inferred, infer

log = logging.getLogger(__name__)


def answer(given: Namespace) -> Inferred:
    """Ask a model each question of a data file once, and write that file with its answers; `infer` says the rest.

    Args:
        given: what `own_arguments` parses.

    Raises:
        BadInput: something given cannot be used, or the disk or the memory is full. What was answered is kept.
    """
    own = {field.name: getattr(given, field.name) for field in fields(Options) if hasattr(given, field.name)}
    views = (OWN, "decoupled", *(("retain",) if given.prediction else ()))
    return infer(Options(**own, generation=generation_of(given), selection=Selection(views)), write_answers)


def write_answers(options: Options, data: DataFile, requests: list[Request], responses: dict[str, str]) -> None:
    """Write the data file with the responses as its answers, and its refusals beside it; what is missing is null."""
    answers: dict[int, dict[Place, str | None]] = defaultdict(dict)
    for request in requests:
        answers[request.record][request.place] = responses.get(request.key)
    mark = mark_for(options, requests)
    filled = [
        with_answers(seen_from(record, data.path, options.output_file), answers[number], mark)
        for number, record in enumerate(data.raw)
    ]
    take_refusals_along(data.path, options.output_file)
    write_json(options.output_file, filled, indent=4)
    if blank := sum(not response.strip() for response in responses.values()):
        log.warning("note: %d answers are blank, which training refuses; bad_items=skip leaves them out", blank)


def mark_for(options: Options, requests: list[Request]) -> dict[str, Any]:
    """What each record tells of who answered it: by what weights, which fields, and how responses were drawn."""
    settings = options.settings
    known = {key: settings[key] for key in ("dtype", "quantization") if key in settings}  # a server tells nothing
    return {
        "model": options.model_path,
        "weights": settings.get("base"),
        "fields": list(dict.fromkeys(str(request.place[-1]) for request in requests)),
        "safeeraser": __version__,
        "generation": asdict(options.generation) | known,
    }
