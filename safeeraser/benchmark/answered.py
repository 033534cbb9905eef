"""Data files with a model's own answers in them: how answers replace fields of a record, and where the originals go."""

import copy
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from safeeraser.benchmark.files import write_whole
from safeeraser.benchmark.pictures import find_picture
from safeeraser.benchmark.records import REFUSALS, UNHARM, keys_like

MARK = "answered_by"
ORIGINAL = "original_"  # prefix of the key that keeps a field's original content
PICTURES = ("image_path", "image_id", "SDImage_path", "SDImage_id")

Place = tuple[str | int, ...]  # ("unsafe_pairs", 2, "model_response")


class Answerer(BaseModel):
    """Who answered: the model's name in the call, the fingerprint of its weights if known, and the answered fields."""

    model_config = ConfigDict(extra="allow", strict=True)
    model: str
    weights: str | None = None
    fields: list[str]


def mark_of(record: Mapping[str, Any]) -> Answerer | None:
    """The `answered_by` mark of a record; None if it has none, or one of another form."""
    try:
        return Answerer.model_validate(record.get(MARK))
    except ValidationError:
        return None


def without_answers(record: dict[str, Any]) -> dict[str, Any]:
    """A copy of a record as it was before a model's answers were put into it."""
    before = copy.deepcopy(record)
    if not (mark := mark_of(record)):
        return before
    del before[MARK]
    for pair in _pairs(before):
        for field in mark.fields:
            if ORIGINAL + field in pair:
                pair[field] = pair.pop(ORIGINAL + field)
            else:
                pair.pop(field, None)
    return before


def with_answers(
    record: dict[str, Any], answers: Mapping[Place, str | None], mark: Mapping[str, Any]
) -> dict[str, Any]:
    """A copy of a record with answers in their places, the original texts next to them, and the mark of who answered.

    The answers of an earlier model are removed first, so a field without a new answer holds its original text.
    """
    filled = without_answers(record)
    for (*inside, field), answer in answers.items():
        pair: Any = filled
        for key in inside:
            pair = pair[key]
        name = str(field)
        if name in pair:
            pair.setdefault(ORIGINAL + name, pair[name])
        pair[name] = answer
    return filled | {MARK: dict(mark)}


def _pairs(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from record["unsafe_pairs"]
    yield from (record[key] for key in keys_like(UNHARM, record))


def seen_from(record: dict[str, Any], data_path: Path, out: Path) -> dict[str, Any]:
    """A copy of a record of `data_path` whose picture names also work in the data file `out`.

    A name that leads to the same file from there stays. Any other name is replaced by the path relative to the folder
    of `out`. The working directory, which is searched first, does not count: it may differ when `out` is read.
    """
    moved, there = dict(record), Path(os.path.realpath(out.parent))
    if there == Path(os.path.realpath(data_path.parent)):
        return moved
    for key in (key for key in PICTURES if record.get(key)):
        picture = find_picture(record[key], data_path)
        again = (folder / record[key] for folder in (there, there.parent))
        first = next((path for path in again if os.path.isfile(path)), None)
        if picture and not (first and first.samefile(picture)):
            moved[key] = os.path.relpath(picture.absolute(), there)
    return moved


def take_refusals_along(data_path: Path, out: Path) -> None:
    """Copy the refusals next to a data file to the folder of another data file, unless it has some."""
    source, target = data_path.with_name(REFUSALS), out.with_name(REFUSALS)
    if source.is_file() and not target.exists():
        with write_whole(target, "wb") as handle:
            handle.write(source.read_bytes())
