"""Views: the ways to read a record as (picture, question, answer), four items a record each (dataset/README.md)."""

from dataclasses import dataclass
from pathlib import Path

from safeeraser.benchmark.pictures import open_picture, picture_path
from safeeraser.benchmark.records import UNHARM_KEYS, DataFile
from safeeraser.errors import BadInput

# forget: harmful picture, harmful question, the vanilla model's answer
# retain: harmful picture, harmless question, its sentence
# decoupled: benign picture, the same harmful question, the normal answer
# refusal: harmful picture, harmful question, a refusal drawn from prompt.json
VIEWS = ("forget", "retain", "decoupled", "refusal")


@dataclass(frozen=True)
class Item:
    """One conversation: a picture's path, a question, an answer, and the place in the data file it comes from."""

    picture: Path
    question: str
    answer: str
    where: str


def build_views(data: DataFile, views: list[str]) -> dict[str, list[Item]]:
    """The items of each view named, numbered record by record, four a record.

    The items of `refusal` are those of `forget`; `plan` says which refusal takes the answer's place.

    Raises:
        BadInput: a picture is missing or cannot be decoded, or an answer that a view trains on is blank.
    """
    items = {view: [] for view in views}
    for index in range(len(data.records)):
        for view in views:
            items[view] += _items(data, index, view)
    for picture in {item.picture for view in views for item in items[view]}:
        open_picture(picture)
    return items


def _items(data: DataFile, index: int, view: str) -> list[Item]:
    record = data.records[index]
    picture = picture_path(data, index, "SDImage_path" if view == "decoupled" else "image_path")
    if view == "retain":
        rows = [(key, "Prediction", pair.Question) for key, pair in zip(UNHARM_KEYS, record.unharm_pairs, strict=True)]
        answers = [pair.Prediction for pair in record.unharm_pairs]
    else:
        field = "sd_response" if view == "decoupled" else "model_response"
        rows = [(f"unsafe_pairs.{i}", field, pair.question) for i, pair in enumerate(record.unsafe_pairs)]
        answers = [getattr(pair, field) for pair in record.unsafe_pairs]
    items = []
    for (key, field, question), answer in zip(rows, answers, strict=True):
        where = data.where(index, f"{key}.{field}")
        if view != "refusal" and not answer.strip():
            raise BadInput(f"{where}: the answer is empty, and view '{view}' trains on it")
        items.append(Item(picture, question, answer, where))
    return items
