"""From a predictions file and its reference to what a judge is asked."""

from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

from safeeraser.benchmark.metrics import METRICS
from safeeraser.benchmark.records import UNHARM_KEYS, DataFile
from safeeraser.benchmark.responses import VIEWS
from safeeraser.errors import BadInput
from safeeraser.judge.queries import Query

_FIRST = VIEWS["forget"].fields[0]
_ASKED_ABOUT = {view: [row.asked for row in METRICS.values() if row.asked and row.view == view] for view in VIEWS}


def pair_records(predictions: DataFile, reference: DataFile, by_picture: bool) -> list[int]:
    """For each record of the predictions, the index of its record in the reference.

    The release pairs the two files by position and never checks; `by_picture` pairs them by `image_path`.

    Raises:
        BadInput: the files hold different numbers of records (by position) or different pictures (by picture).
    """
    mine, its = ([record.image_path for record in data.records] for data in (predictions, reference))
    if not by_picture:
        if len(mine) != len(its):
            raise BadInput(
                f"{predictions.path} has {len(mine)} records, {reference.path} has {len(its)}: "
                "these are not predictions on that file"
            )
        return list(range(len(mine)))
    if Counter(mine) != Counter(its):
        raise BadInput(
            f"{predictions.path} and {reference.path} hold different pictures: only in the predictions: "
            f"{_some(Counter(mine) - Counter(its))}; only in the reference: {_some(Counter(its) - Counter(mine))}"
        )
    at = defaultdict(deque)
    for index, picture in enumerate(its):
        at[picture].append(index)
    return [at[picture].popleft() for picture in mine]


def build_queries(
    predictions: DataFile, reference: DataFile, paired: list[int], *, refusals: bool = False
) -> list[Query]:
    """Every query of every metric, record by record, responses that are missing or blank included.

    Args:
        refusals: ask of every view that the file holds, not of `forget` alone, whether its responses refuse.

    Raises:
        BadInput: a response is not text, or the file holds no model's responses at all.
    """
    queries = []
    for index, raw in enumerate(predictions.raw):
        for view, place, holder, field in _places(raw):
            response = holder.get(field)
            if not isinstance(response, str | None):
                inside = place if isinstance(place, str) else f"unsafe_pairs.{place}"
                where = predictions.where(index, f"{inside}.{field}")
                raise BadInput(f"{where}: must be a text, is a {type(response).__name__}")
            metrics = list(_ASKED_ABOUT[view])
            if refusals and field in holder and "rr" not in metrics:
                metrics.append("rr")
            for metric in metrics:
                texts = (holder["question" if isinstance(place, int) else "Question"], response)
                if metric == "gpt":
                    expected = getattr(reference.records[paired[index]], place)
                    texts = (expected.Question, response, expected.Prediction)
                category, number = predictions.records[index].category, predictions.number(index)
                queries.append(Query(metric, index, place, field, category, *texts, number=number))
    if not any(_FIRST in pair for raw in predictions.raw for pair in raw["unsafe_pairs"]):
        raise BadInput(f"{predictions.path}: holds no {_FIRST}, so nothing to judge; run ckpt_infer.py first")
    return queries


def _places(raw: dict[str, Any]) -> Iterator[tuple[str, int | str, dict[str, Any], str]]:
    """Where a record has room for responses: the view, the pair's place, the pair, and the field in it."""
    for name, view in VIEWS.items():
        harmful = view.question == "harmful"
        for place, holder in enumerate(raw["unsafe_pairs"]) if harmful else ((key, raw[key]) for key in UNHARM_KEYS):
            for field in view.fields:
                yield name, place, holder, field


def _some(names: Counter[str], most: int = 5) -> str:
    more = f" and {names.total() - most} more" if names.total() > most else ""
    return (", ".join(islice(names.elements(), most)) or "none") + more
