"""Requests: which responses are wanted of a model, each with its question, its picture, and its place in the output."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from safeeraser.benchmark.pictures import find_picture, open_picture, picture_size
from safeeraser.benchmark.records import UNHARM, DataFile
from safeeraser.benchmark.responses import ASKED, RELEASED, samples
from safeeraser.errors import BadInput
from safeeraser.infer.attacks import Attack, Attacked, chance, examples


@dataclass(frozen=True)
class Selection:
    """What is asked of which records."""

    views: tuple[str, ...] = RELEASED
    categories: tuple[str, ...] = ()  # none: all of them
    skip: int = 0  # records of each category left out, the first ones
    limit: int | None = None  # records of each category, of the others: the first ones, unless they are drawn
    by_keyword: int | None = None  # the seed by which they are drawn, from all keywords alike
    samples: int | None = None  # of each question of `forget`; none: as many as the release's

    @property
    def drawn(self) -> dict[str, int | None]:
        """What is beyond the choices of ckpt_infer.py."""
        return {"by_keyword": self.by_keyword, "samples": self.samples}

    def fields(self, view: str) -> tuple[str, ...]:
        """Where the responses of a view are stored."""
        return samples(self.samples) if view == "forget" and self.samples else ASKED[view].fields

    def records(self, data: DataFile) -> list[int]:
        """The indices of the records chosen. Raises `BadInput` for an unknown category, or if no record is left."""
        chosen = data.only(list(self.categories) or "all").some(self.skip, self.limit, self.by_keyword)
        return [chosen.number(index) for index in range(len(chosen.records))]

    def held_out(self, data: DataFile) -> DataFile:
        """The records that `skip` leaves out, of the categories chosen. Raises `BadInput` if there are none."""
        return data.only(list(self.categories) or "all").some(limit=self.skip)


@dataclass(frozen=True)
class Request:
    """One response wanted: a question about a picture (or none), and its place in record `record`."""

    record: int
    place: tuple[str | int, ...]  # ("unsafe_pairs", 2, "model_response1")
    picture: Path | Attacked | None
    question: str  # as it is put
    system: str | None = None  # put in place of the family's own system text

    @property
    def key(self) -> str:
        """The request's name, unique within a data file; sampling depends on it and on the seed alone."""
        return "/".join(map(str, (self.record, *self.place)))

    @property
    def file(self) -> Path | None:
        """Where the picture lies."""
        return self.picture.path if isinstance(self.picture, Attacked) else self.picture


@dataclass(frozen=True)
class Unanswered:
    """What stands in a response's place where there is none, and why; the reason repeats no text of anybody's."""

    reason: str


def build_requests(
    data: DataFile, selection: Selection | None = None, attack: Attack | None = None, seed: int = 0
) -> list[Request]:
    """Every response wanted; as the release does it, 12 harmful, 4 decoupled and 4 retain ones a record.

    Args:
        attack: what is done to each picture and question first.
        seed: of the attack's chance, which else depends on its name, the record and, where it reads it, the question.

    Raises:
        BadInput: a category is unknown, no record is left, or a view reads what the records lack.
    """
    selection = selection or Selection()
    if not selection.views:
        raise BadInput("--only: names no view, so there is nothing to ask")
    chosen = selection.records(data)
    requests = [request for index in chosen for request in _of_record(data, index, selection)]
    if attack:
        requests = [attacked(request, attack, seed) for request in requests]
        if attack.context:
            # Of all categories, whichever are asked: one alone may have no other keyword.
            held_out = data.some(limit=selection.skip)
            requests = [in_context(request, attack, data, held_out, seed) for request in requests]
    asked = {request.place[-1] for request in requests}
    for view in selection.views:
        if ASKED[view].fields[0] not in asked:
            raise BadInput(f"{data.where(chosen[0], UNHARM)}: missing, as in all records asked, and '{view}' reads it")
    return requests


def check_questions(data: DataFile, requests: Sequence[Request], reserved: Sequence[str]) -> None:
    """Raises `BadInput` for a question that holds what stands for a picture in the model's own texts."""
    for request in requests:
        if found := next((name for name in reserved if name in request.question), None):
            *inside, _ = request.place
            where = data.where(request.record, ".".join(map(str, inside)))
            raise BadInput(f"{where}: its question contains '{found}', which stands for the picture")


def _of_record(data: DataFile, index: int, selection: Selection) -> Iterator[Request]:
    record, views = data.records[index], selection.views
    names = {
        "harmful": lambda: record.image_path,
        "benign": lambda: benign_picture(data, index),
        "swapped": lambda: benign_picture(data, swap_partner(data, index)),
    }
    shown = {ASKED[view].picture for view in views} - {"none"}
    wanted = {picture: names[picture]() for picture in shown}
    # One that is not there is told of later, with those that cannot be decoded.
    found = {picture: find_picture(name, data.path) or Path(name) for picture, name in wanted.items()}
    pairs: dict[str, list[tuple[tuple[str | int, ...], str]]] = {
        "harmful": [(("unsafe_pairs", n), pair.question) for n, pair in enumerate(record.unsafe_pairs)],
        "harmless": [((key,), pair.Question) for key, pair in record.unharm.items()],
    }
    # Question by question, as its views may share what is read of it.
    for kind, questions in pairs.items():
        for place, question in questions:
            for view in (view for view in ASKED if view in views and ASKED[view].question == kind):
                for field in selection.fields(view):
                    yield Request(index, (*place, field), found.get(ASKED[view].picture), question)


def benign_picture(data: DataFile, index: int) -> str:
    """The name of a record's benign picture. Raises `BadInput` if it has none."""
    if not (name := data.records[index].SDImage_path):
        raise BadInput(f"{data.where(index, 'SDImage_path')}: missing, and a view that is asked shows it")
    return name


def attacked(request: Request, attack: Attack, seed: int) -> Request:
    """The request as an attack puts it. What is drawn for a picture alone is drawn once for all that is asked of it.

    Raises:
        BadInput: the attack changes the picture, and there is none.
    """
    if attack.needs_picture and request.picture is None:
        raise BadInput(f"--attack {attack.name}: changes the picture, so it cannot be put to a view without one")
    of_picture, of_question = _chances(request, attack, seed)
    picture, question, system = request.picture, request.question, request.system
    if attack.picture:
        drawn = (of_question, question) if attack.draws_question else (of_picture, "")
        picture = Attacked(request.file, attack, *drawn) if request.file else None
    if attack.prompt:
        question = attack.prompt(question, chance(of_question))
    if attack.system:
        system = attack.system(question, chance(of_question))
    return replace(request, picture=picture, question=question, system=system)


def in_context(request: Request, attack: Attack, data: DataFile, held_out: DataFile, seed: int) -> Request:
    """The request with other questions and their vanilla answers before it, of keywords that are not its record's.

    Raises:
        BadInput: there are not so many held out.
    """
    others = examples(held_out, but=data.records[request.record].keyword)
    if len(others) < attack.shown:
        raise BadInput(
            f"--attack {attack.name}: shows {attack.shown} answers to questions of another keyword than the record's, "
            f"and {len(others)} are held out for {data.where(request.record)}; a larger --skip holds more out"
        )
    _, of_question = _chances(request, attack, seed)
    drawn = chance(of_question).choice(len(others), attack.shown, replace=False)
    shown = [others[number] for number in drawn]
    return replace(request, question=attack.context(request.question, shown) if attack.context else request.question)


def _chances(request: Request, attack: Attack, seed: int) -> tuple[str, str]:
    """What an attack's chance depends on where it changes the picture alone, and where it knows the question."""
    of_picture = f"{seed}/{attack.name}/{request.record}"
    return of_picture, "/".join(map(str, (of_picture, *request.place[:-1])))


def swap_partner(data: DataFile, index: int) -> int:
    """The record whose benign picture record `index` is shown when pictures are swapped.

    It is the next one in the file, from the end on to its beginning, that is of another category; in a file of one
    category, the next one with another benign picture.

    Raises:
        BadInput: all records have the same benign picture.
    """
    own, following = data.records[index], [*range(index + 1, len(data.records)), *range(index)]
    for differs in ("category", "SDImage_path"):
        for other in following:
            if getattr(data.records[other], differs) != getattr(own, differs):
                return other
    raise BadInput(f"{data.path}: all records have the same benign picture, so there is none to swap it with")


def show(picture: Path | Attacked) -> Image.Image:
    """The picture in RGB as the model is shown it. Raises `BadInput` if its file cannot be decoded."""
    return picture.open() if isinstance(picture, Attacked) else open_picture(picture)


def size_of(picture: Path | Attacked) -> tuple[int, int]:
    """Width and height of what `show` gives: of a file as its header says, of what is made of one by making it."""
    return picture.open().size if isinstance(picture, Attacked) else picture_size(picture)


def pictures_of(requests: list[Request]) -> list[Path]:
    """The files of the pictures that are shown, each once, in the order of the requests."""
    return list(dict.fromkeys(request.file for request in requests if request.file))
