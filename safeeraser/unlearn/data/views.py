"""Views: the ways to read a record as (picture, question, answer). Files in config/data/ say where each view lies."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from safeeraser.benchmark.pictures import find_picture
from safeeraser.benchmark.records import DataFile, Record, keys_like, read_raw
from safeeraser.errors import BadInput
from safeeraser.unlearn.config.sections import DataSource, ViewSource

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Item:
    """One conversation: a picture's path, a question, an answer, and the place in the data file it comes from.

    Attributes:
        picture: None if the conversation is text alone.
        record: the place of the record, as `FILE: record 3`.
        shown, said: the record's keys of the picture, if it has one, and of the answer (without answers, the question).
        category: the category of the record.
    """

    picture: Path | None
    question: str
    answer: str
    record: str
    shown: str | None
    said: str
    category: str = ""

    @property
    def where(self) -> str:
        """The place of the answer, as `FILE: record 3, KEY`."""
        return f"{self.record}, {self.said}"


def build_views(
    source: DataSource, data_path: Path, views: list[str], split: str | list[str] = "all", limit: int | None = None
) -> dict[str, list[Item]]:
    """The items of each named view, in the order of the records. A view may have none.

    The items of `refusal` have no answer; the plan chooses a refusal for each step.

    Args:
        split, limit: the categories to read, and the most records of each. Records that the view ignores do not count.

    Raises:
        BadInput: a file or a record does not have the form of `source`, or a view or a category does not exist.
    """
    read, items = {data_path: read_raw(data_path)}, {}
    _note_unread(source, data_path, read[data_path])
    for view in views:
        if view not in source.views:
            raise BadInput(f"data={source.name}: has no view '{view}'; known: {', '.join(source.views)}")
        path = source.file_of(view, data_path)
        if path not in read:
            read[path] = read_raw(path)
        data = _chosen(path, read[path], source.views[view])
        if data.raw:
            data = data.only(split).some(limit=limit)
        items[view] = [item for index in range(len(data.raw)) for item in _items(data, index, source.views[view])]
    return items


def _note_unread(source: DataSource, path: Path, raw: list[dict[str, Any]]) -> None:
    """Warn of records that belong to no view, for instance because the view's name is mistyped."""
    wanted = [(view.where or {}).items() for view in source.views.values() if view.file is None]
    unread = [number for number, value in enumerate(raw) if not any(_holds(value, where) for where in wanted)]
    if unread and wanted:
        log.warning("note: %s: %d records belong to no view; the first is record %d", path, len(unread), unread[0])


def _holds(record: dict[str, Any], where: Iterable[tuple[str, Any]]) -> bool:
    return all(key in record and record[key] == value for key, value in where)


def _chosen(path: Path, raw: list[dict[str, Any]], view: ViewSource) -> DataFile:
    """The records that the view is read from."""
    wanted = (view.where or {}).items()
    numbers = [number for number, value in enumerate(raw) if _holds(value, wanted)]
    # `DataFile` chooses records by category only, so its records need nothing else here.
    known = cast("list[Record]", [SimpleNamespace(category=_category(raw[n], view)) for n in numbers])
    return DataFile(path, known, [raw[n] for n in numbers], numbers)


def _category(record: dict[str, Any], view: ViewSource) -> str:
    """The category that the record names, else the name of its picture's folder."""
    named, picture = record.get("category"), record.get(_image_key(record, view) or "")
    return str(named or Path(picture if isinstance(picture, str) else "").parent.name)


def _image_key(record: dict[str, Any], view: ViewSource) -> str | None:
    return next((key for key in view.image if key in record), view.image[0]) if view.image else None


def _items(data: DataFile, index: int, view: ViewSource) -> Iterator[Item]:
    record, shown = data.raw[index], _image_key(data.raw[index], view)
    for prefix, pair in _pairs(data, index, view.pairs):
        picture = None
        if shown:
            name = _text(record, shown, data.where(index, shown))
            picture = find_picture(name, data.path) or Path(name)  # a missing one is reported with damaged ones
        question = _text(pair, view.question, data.where(index, f"{prefix}{view.question}"))
        said = f"{prefix}{view.answer or view.question}"
        answer = _text(pair, view.answer, data.where(index, said), needed=False) if view.answer else ""
        yield Item(picture, question, answer, data.where(index), shown, said, data.records[index].category)


def _pairs(data: DataFile, index: int, pairs: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The pairs of a record, each with the prefix of its keys in error messages."""
    record = data.raw[index]
    if pairs is None:
        yield "", record
        return
    for key in keys_like(pairs, record):
        value = record[key]
        several = {f"{key}.{n}": pair for n, pair in enumerate(value)} if isinstance(value, list) else {key: value}
        for place, pair in several.items():
            if not isinstance(pair, dict):
                raise BadInput(f"{data.where(index, place)}: must be an object")
            yield f"{place}.", pair


def _text(holder: dict[str, Any], key: str, where: str, *, needed: bool = True) -> str:
    value = holder.get(key)
    if value is None and needed:
        raise BadInput(f"{where}: missing")
    if not isinstance(value, str | None):
        raise BadInput(f"{where}: must be a text")
    value = value or ""
    if needed and not value.strip():
        raise BadInput(f"{where}: must not be blank")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise BadInput(f"{where}: holds half a character (a lone surrogate), which no tokenizer takes")
    return value
