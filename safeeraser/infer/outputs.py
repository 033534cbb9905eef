"""What a run leaves: the data file's own list with the responses in it."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from safeeraser.benchmark.records import UNHARM, DataFile, keys_like
from safeeraser.benchmark.responses import RELEASED, SWAPPED_PICTURE, VIEWS
from safeeraser.infer.requests import Request, swap_partner


def predictions(data: DataFile, requests: Iterable[Request], responses: Mapping[str, str]) -> list[dict[str, Any]]:
    """The data file's own list with each response in its place.

    The fields of the release that were not asked for, or have no response, are null: what the data file holds there are
    the vanilla model's answers and the reference, which nobody should take for this model's.
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
    """How many fields of the release are null in predictions; its own `eval_all.py` fails on the first."""
    return sum(place[field] is None for place, field in _released(filled))


def _released(records: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str]]:
    """Each place and key where the release has a response."""
    for record in records:
        for view in (VIEWS[name] for name in RELEASED):
            harmless = (record[key] for key in keys_like(UNHARM, record))
            for place in record["unsafe_pairs"] if view.question == "harmful" else harmless:
                yield from ((place, field) for field in view.fields)
