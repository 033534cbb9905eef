"""Requests: the responses to ask a model for, each with its question, its picture and its place in the output."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.random import Generator
from PIL import Image

from safeeraser.benchmark.conversation import IMAGE
from safeeraser.benchmark.pictures import find_picture, open_picture, picture_size, unreadable
from safeeraser.benchmark.records import UNHARM, DataFile
from safeeraser.benchmark.responses import ASKED, OWN, RELEASED, View, view_of
from safeeraser.errors import BadInput

if TYPE_CHECKING:
    from safeeraser.model.preprocess import Preprocessor
    from safeeraser.processes import Processes

Draw = Callable[[Image.Image, Generator], Image.Image]  # makes the picture to show from the original


@dataclass(frozen=True)
class Selection:
    """Which views are asked, and about which records."""

    views: tuple[str, ...] = RELEASED
    categories: tuple[str, ...] = ()  # empty: all
    skip: int = 0  # the number of records left out at the start of each category
    limit: int | None = None  # at most so many records of each category: the first after `skip`, unless drawn
    by_keyword: int | None = None  # the seed to draw them with, evenly from all keywords; None: not drawn
    samples: int | None = None  # responses to each question of `forget`; None: as many as the release's

    @property
    def drawn(self) -> dict[str, int]:
        """The settings that ckpt_infer.py has no options for, if they are set."""
        beyond = {"by_keyword": self.by_keyword, "samples": self.samples}
        return {name: value for name, value in beyond.items() if value is not None}

    def fields(self, view: str) -> tuple[str, ...]:
        """The keys under which the responses of a view are stored."""
        if view == "forget" and self.samples:
            return tuple(f"model_response{number}" for number in range(1, self.samples + 1))
        return ASKED[view].fields

    def records(self, data: DataFile) -> list[int]:
        """The indices of the selected records. Raises `BadInput` for an unknown category, or if no record is left."""
        chosen = data.only(list(self.categories) or "all").some(self.skip, self.limit, self.by_keyword)
        return [chosen.number(index) for index in range(len(chosen.records))]

    def held_out(self, data: DataFile) -> DataFile:
        """The records of the selected categories that `skip` leaves out. Raises `BadInput` if there are none."""
        return data.only(list(self.categories) or "all").some(limit=self.skip)


@dataclass(frozen=True)
class Redrawn:
    """A picture that an attack makes from the file at `path`, to be shown in its place."""

    path: Path
    key: str  # seeds the random numbers; equal keys give equal pictures
    draw: Draw = field(compare=False)


def chance(key: str) -> Generator:
    """The random generator of an attack: equal keys give equal numbers."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))


@dataclass(frozen=True)
class Request:
    """A response to ask for: a question about a picture (or none), and its place in record `record`."""

    record: int
    place: tuple[str | int, ...]  # ("unsafe_pairs", 2, "model_response1")
    picture: Path | Redrawn | None
    question: str  # the text that the model is asked
    system: str | None = None  # replaces the family's own system text

    @property
    def key(self) -> str:
        """The request's name, unique within a data file; sampling depends on it and on the seed alone."""
        return "/".join(map(str, (self.record, *self.place)))

    @property
    def pair(self) -> str:
        """The place of its question in the record: `unsafe_pairs.2`, or the key of an UnharmPair."""
        return ".".join(map(str, self.place[:-1]))

    @property
    def view(self) -> View:
        """The view that the request belongs to."""
        return ASKED[view_of(str(self.place[-1])) or OWN]

    @property
    def file(self) -> Path | None:
        """The picture's file; None without a picture."""
        return self.picture.path if isinstance(self.picture, Redrawn) else self.picture


class Puts(Protocol):
    """An attack, as `build_requests` uses it."""

    def put(self, requests: list[Request], data: DataFile, selection: Selection, seed: int) -> list[Request]:
        """The requests, changed by the attack."""


@dataclass(frozen=True)
class Unanswered:
    """The outcome of a request without a response. The reason quotes no text of the data, the model or a server."""

    reason: str


def build_requests(
    data: DataFile, selection: Selection | None = None, attack: Puts | None = None, seed: int = 0
) -> list[Request]:
    """Every request of a selection; by default the release's: 12 forget, 4 decoupled and 4 retain ones per record.

    An `attack` changes them, with random numbers from `seed`. Raises `BadInput` if no view is selected, a category is
    unknown, no record is left, or the records lack something that a view or the attack reads.
    """
    selection = selection or Selection()
    if not selection.views:
        raise BadInput("--only: names no view, so there is nothing to ask")
    chosen = selection.records(data)
    requests = [request for index in chosen for request in _requests_on(data, index, selection)]
    if attack:
        requests = attack.put(requests, data, selection, seed)
    asked = {request.place[-1] for request in requests}
    for view in selection.views:
        if ASKED[view].fields[0] not in asked:
            raise BadInput(f"{data.where(chosen[0], UNHARM)}: missing, as in all records asked, and '{view}' reads it")
    return requests


def _requests_on(data: DataFile, index: int, selection: Selection) -> Iterator[Request]:
    record, views = data.records[index], selection.views
    pictures: dict[str, Path | None] = {"none": None}
    for kind in {ASKED[view].picture for view in views} - {"none"}:
        shown = swap_partner(data, index) if kind == "swapped" else index
        name = record.image_path if kind == "harmful" else data.records[shown].SDImage_path
        if not name and kind != "harmful":
            raise BadInput(f"{data.where(shown, 'SDImage_path')}: missing, and a view that is asked shows it")
        # None: the record says that its questions are text only. `find_faults` reports missing pictures later, together
        # with undecodable ones.
        pictures[kind] = (find_picture(name, data.path) or Path(name)) if name else None
    harmful = [("harmful", ("unsafe_pairs", n), pair.question) for n, pair in enumerate(record.unsafe_pairs)]
    harmless = [("harmless", (key,), pair.Question) for key, pair in record.unharm.items()]
    # Question by question, because the views of a question may share its cached prompt.
    for kind, place, question in (*harmful, *harmless):
        for view in (view for view in ASKED if view in views and ASKED[view].question == kind):
            for response in selection.fields(view):
                yield Request(index, (*place, response), pictures[ASKED[view].picture], question)


def swap_partner(data: DataFile, index: int) -> int:
    """The index of the record whose benign picture replaces that of record `index` when pictures are swapped.

    It is the next record of another category, starting over at the end of the file. In a file of one category, it is
    the next record with another benign picture. Raises `BadInput` if all records have the same benign picture.
    """
    record, following = data.records[index], [*range(index + 1, len(data.records)), *range(index)]
    for differs in ("category", "SDImage_path"):
        for other in following:
            if getattr(data.records[other], differs) != getattr(record, differs):
                return other
    raise BadInput(f"{data.path}: all records have the same benign picture, so there is none to swap it with")


def find_faults(
    data: DataFile, requests: Sequence[Request], preprocessor: Preprocessor | None, processes: Processes
) -> dict[str, str]:
    """The reasons, by request key, why a picture cannot be decoded or has a shape that the model does not take. Each
    process checks a part of the pictures.

    Args:
        preprocessor: the model's; None for a server, where only the benchmark's word for a picture is reserved.

    Raises:
        BadInput: a question contains a reserved word, by which prompts mark a picture.
    """
    reserved = preprocessor.reserved if preprocessor else [IMAGE]
    for request in requests:
        if name := next((name for name in reserved if name in request.question), None):
            where = data.where(request.record, request.pair)
            raise BadInput(f"{where}: its question contains '{name}', which stands for the picture")
    pictures = list(dict.fromkeys(request.file for request in requests if request.file))
    pictures = pictures[processes.rank :: processes.count]
    faults = unreadable(pictures, data.path, shown=processes.main)
    for picture in pictures:
        try:
            if preprocessor and picture not in faults:
                preprocessor.place(partial(picture_size, picture))
        except BadInput as error:
            faults[picture] = f"{picture}: {error}"
    faults = processes.union(faults)
    return {request.key: faults[request.file] for request in requests if request.file and request.file in faults}


def show(picture: Path | Redrawn) -> Image.Image:
    """The picture that the model is shown, in RGB. Raises `BadInput` if its file cannot be decoded."""
    if isinstance(picture, Path):
        return open_picture(picture)
    return picture.draw(open_picture(picture.path), chance(picture.key))


def size_of(picture: Path | Redrawn) -> tuple[int, int]:
    """The width and height of the picture from `show`: read from a file's header, or found by drawing it."""
    return picture_size(picture) if isinstance(picture, Path) else show(picture).size
