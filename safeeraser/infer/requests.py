"""Requests: which responses are wanted of a model, each with its question, its picture, and its place in the output."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safeeraser.benchmark.conversation import IMAGE
from safeeraser.benchmark.pictures import find_picture, open_picture
from safeeraser.benchmark.records import UNHARM_KEYS, DataFile
from safeeraser.errors import BadInput

# The fields of an unsafe pair in which a view's responses to the harmful question are stored, one a field. Read off the
# release's code, but for the last two, which are for crossed evaluation.
HARMFUL = {
    "forget": ("model_response1", "model_response2", "model_response3"),  # on the harmful picture
    "decoupled": ("sd_response",),  # on the benign picture
    "image_free": ("image_free_response",),  # on none
    "swapped": ("swapped_response",),  # on the benign picture of another category
}
SWAPPED_PICTURE = "SwappedImage_path"  # the key of a record that tells which picture this was
VIEWS = ("forget", "decoupled", "retain")  # what the release asks
ALL_VIEWS = (*VIEWS, "image_free", "swapped")


@dataclass(frozen=True)
class Selection:
    """What is asked of which records."""

    views: tuple[str, ...] = VIEWS
    categories: tuple[str, ...] = ()  # none: all of them
    limit: int | None = None  # records of each category, the first ones

    def records(self, data: DataFile) -> list[int]:
        """The indices of the records chosen. Raises `BadInput` for an unknown category."""
        wanted = {record.category for record in data.only(list(self.categories) or "all").records}
        counts = dict.fromkeys(wanted, 0)
        chosen = []
        for index, record in enumerate(data.records):
            if record.category in wanted and (self.limit is None or counts[record.category] < self.limit):
                counts[record.category] += 1
                chosen.append(index)
        return chosen


@dataclass(frozen=True)
class Request:
    """One response wanted: a question about a picture (or none), and its place in record `record`."""

    record: int
    place: tuple[str | int, ...]  # ("unsafe_pairs", 2, "model_response1")
    picture: Path | None
    question: str

    @property
    def key(self) -> str:
        """The request's name, unique within a data file; sampling depends on it and on the seed alone."""
        return "/".join(map(str, (self.record, *self.place)))


@dataclass(frozen=True)
class Unanswered:
    """What stands in a response's place where there is none, and why; the reason repeats no text of anybody's."""

    reason: str


def build_requests(data: DataFile, selection: Selection | None = None) -> list[Request]:
    """Every response wanted; as the release does it, 12 harmful, 4 decoupled and 4 retain ones a record.

    Raises:
        BadInput: a question holds the picture's token, or a category is unknown.
    """
    selection = selection or Selection()
    requests = [request for index in selection.records(data) for request in _of_record(data, index, selection.views)]
    for request in requests:
        if IMAGE in request.question:
            *inside, _ = request.place
            where = data.where(request.record, ".".join(map(str, inside)))
            raise BadInput(f"{where}: its question contains '{IMAGE}', which stands for the picture")
    return requests


def _of_record(data: DataFile, index: int, views: tuple[str, ...]) -> Iterator[Request]:
    record = data.records[index]
    names = {
        "forget": lambda: record.image_path,
        "decoupled": lambda: record.SDImage_path,
        "retain": lambda: record.image_path,
        "image_free": lambda: None,
        "swapped": lambda: data.records[swap_partner(data, index)].SDImage_path,
    }
    wanted = {view: names[view]() for view in views}
    # One that is not there is told of later, with those that cannot be decoded.
    found = {view: name and (find_picture(name, data.path) or Path(name)) for view, name in wanted.items()}
    for number, pair in enumerate(record.unsafe_pairs):
        for view, fields in HARMFUL.items():
            if view in views:
                for field in fields:
                    yield Request(index, ("unsafe_pairs", number, field), found[view], pair.question)
    if "retain" in views:
        for key, pair in zip(UNHARM_KEYS, record.unharm_pairs, strict=True):
            yield Request(index, (key, "Prediction"), found["retain"], pair.Question)


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


def pictures_of(requests: list[Request]) -> list[Path]:
    """The pictures that are shown, each once, in the order of the requests."""
    return list(dict.fromkeys(request.picture for request in requests if request.picture))


def unreadable(pictures: list[Path]) -> dict[Path, str]:
    """Those that are not there or cannot be decoded, with the reason: told now rather than in the night."""
    faults = {}
    for picture in pictures:
        try:
            open_picture(picture)
        except BadInput as error:
            faults[picture] = str(error)
    return faults
