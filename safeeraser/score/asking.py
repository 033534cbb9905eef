"""The two files of a run, read and paired, and what a judge is asked about them."""

import sys
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from safeeraser.benchmark.files import described_by, read_json, sha256
from safeeraser.benchmark.metrics import METRICS
from safeeraser.benchmark.records import UNHARM, DataFile, keys_like, read_records
from safeeraser.benchmark.responses import SWAPPED_PICTURE, VIEWS, fields_in
from safeeraser.errors import BadInput
from safeeraser.judge.judge import Query
from safeeraser.score.options import Options

_FIRST = VIEWS["forget"].fields[0]
_ASKED_ABOUT = {view: [row.asked for row in METRICS.values() if row.asked and row.view == view] for view in VIEWS}


@dataclass(frozen=True)
class Asked:
    """What is scored.

    Attributes:
        paired: for each record of the predictions, the index of its record in the reference.
        queries: of every metric, record by record, responses that are missing or blank included.
        inputs: the two files by their hashes, and what the predictions were made with, where their own run told.
    """

    predictions: DataFile
    reference: DataFile
    paired: list[int]
    queries: list[Query]
    inputs: dict[str, Any]


def read(options: Options) -> Asked:
    """Raises `BadInput` where a file cannot be used, or the two do not belong together."""
    if not options.input_file.exists():
        raise BadInput(f"--input_file {options.input_file}: no such file; ckpt_infer.py makes the predictions")
    predictions = read_records(options.input_file).only(options.category)
    reference = read_records(options.file_refer).only(options.category)
    paired = pair_records(predictions, reference, by_picture=not options.official)
    pairs = zip(predictions.records, (reference.records[index] for index in paired), strict=True)
    if differ := sum(record.image_path != original.image_path for record, original in pairs):
        print(
            f"note: {differ} of {len(paired)} records name another picture than the reference's record at the same "
            "position; protocol official pairs them all the same, --protocol corrected pairs by picture",
            file=sys.stderr,
        )
    beside = described_by(options.input_file)
    inputs = {
        "predictions": {"file": options.input_file.name, "sha256": sha256(options.input_file)},
        "made_with": read_json(beside) if beside.is_file() else None,
        "reference": {"file": options.file_refer.name, "sha256": sha256(options.file_refer)},
    }
    queries = build_queries(predictions, reference, paired, options.refusals)
    return Asked(predictions, reference, paired, queries, inputs)


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
    at: dict[str, deque[int]] = defaultdict(deque)
    for index, picture in enumerate(its):
        at[picture].append(index)
    return [at[picture].popleft() for picture in mine]


def build_queries(predictions: DataFile, reference: DataFile, paired: list[int], refusals: bool) -> list[Query]:
    """Every query.

    Args:
        refusals: ask of every view that the file holds, not of `forget` alone, whether its responses refuse.

    Raises:
        BadInput: a response is not text, or the file holds no model's responses at all.
    """
    queries = []
    for index, raw in enumerate(predictions.raw):
        expected = reference.records[paired[index]].unharm
        for key in predictions.records[index].unharm.keys() - expected.keys():
            raise BadInput(f"{reference.where(paired[index], key)}: missing, and the predictions have it")
        for view, place, holder, field in places(raw):
            response = holder.get(field)
            if fault := _fault(response):
                inside = place if isinstance(place, str) else f"unsafe_pairs.{place}"
                raise BadInput(f"{predictions.where(index, f'{inside}.{field}')}: {fault}")
            metrics = list(_ASKED_ABOUT[view])
            if refusals and field in holder and "rr" not in metrics:
                metrics.append("rr")
            for metric in metrics:
                question, text = holder["question" if isinstance(place, int) else "Question"], ""
                if metric == "gpt":
                    question, text = expected[str(place)].Question, expected[str(place)].Prediction
                about = (metric, index, place, field, predictions.records[index].category)
                known = (predictions.number(index), shown(predictions, index, view))
                queries.append(Query(*about, question, response, text, *known))
    if not any(_FIRST in pair for raw in predictions.raw for pair in raw["unsafe_pairs"]):
        raise BadInput(f"{predictions.path}: holds no {_FIRST}, so nothing to judge; run ckpt_infer.py first")
    return queries


def as_answered(data: DataFile) -> DataFile:
    """The data file as if the model had given its answers, each a little otherwise, since equal ones are judged once:
    for what judging costs before there are responses."""
    raw = [_answered(value, index) for index, value in enumerate(data.raw)]
    return DataFile(data.path, data.records, raw, data.numbers)


def _answered(value: dict[str, Any], index: int) -> dict[str, Any]:
    pairs = []
    for number, pair in enumerate(value["unsafe_pairs"]):
        said = {
            field: f"{pair.get('model_response') or pair['question']} ({index}.{number}.{field})"
            for field in VIEWS["forget"].fields
        }
        pairs.append(pair | said | {"sd_response": f"{pair.get('sd_response') or pair['question']} ({index}.{number})"})
    return value | {"unsafe_pairs": pairs}


def places(raw: dict[str, Any]) -> Iterator[tuple[str, int | str, dict[str, Any], str]]:
    """Where a record has room for responses: the view, the pair's place, the pair, and the field in it."""
    for name, view in VIEWS.items():
        harmless = ((key, raw[key]) for key in keys_like(UNHARM, raw))
        for place, holder in enumerate(raw["unsafe_pairs"]) if view.question == "harmful" else harmless:
            for field in fields_in(name, holder):
                yield name, place, holder, field


def shown(predictions: DataFile, index: int, view: str) -> str:
    """The picture that a record's questions of a view were asked about, as the file names it; empty if none was."""
    record = predictions.records[index]
    swapped = predictions.raw[index].get(SWAPPED_PICTURE) or ""
    pictures = {"harmful": record.image_path, "benign": record.SDImage_path, "swapped": swapped, "none": ""}
    return pictures[VIEWS[view].picture]


def _fault(response: Any) -> str | None:
    """Why it is no response, if it is none."""
    if not isinstance(response, str | None):
        return f"must be a text, is a {type(response).__name__}"
    if any("\ud800" <= character <= "\udfff" for character in response or ""):
        return "holds half a character (a lone surrogate), which no file can"
    return None


def _some(names: Counter[str], most: int = 5) -> str:
    more = f" and {names.total() - most} more" if names.total() > most else ""
    return (", ".join(islice(names.elements(), most)) or "none") + more
