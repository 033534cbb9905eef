"""Requests: what the release asks of a model about each record (read off its code)."""

from dataclasses import dataclass
from pathlib import Path

from safeeraser.benchmark.pictures import open_picture, picture_path
from safeeraser.benchmark.records import UNHARM_KEYS, DataFile

SAMPLES = 3  # responses to each harmful question on the harmful picture


@dataclass(frozen=True)
class Request:
    """One response wanted: a question about a picture, and where in record `record` the response is stored."""

    record: int
    place: tuple[str | int, ...]  # ("unsafe_pairs", 2, "model_response1")
    picture: Path
    question: str

    @property
    def key(self) -> str:
        """The request's name, unique within a data file; sampling depends on it and on the seed alone."""
        return "/".join(map(str, (self.record, *self.place)))


def build_requests(data: DataFile) -> list[Request]:
    """Every response that the release asks for: 12 harmful, 4 decoupled and 4 retain ones a record.

    Raises:
        BadInput: a picture is missing or cannot be decoded.
    """
    requests = []
    for index, record in enumerate(data.records):
        harmful = picture_path(data, index, "image_path")
        benign = picture_path(data, index, "SDImage_path")
        for number, pair in enumerate(record.unsafe_pairs):
            for sample in range(1, SAMPLES + 1):
                place = ("unsafe_pairs", number, f"model_response{sample}")
                requests.append(Request(index, place, harmful, pair.question))
            requests.append(Request(index, ("unsafe_pairs", number, "sd_response"), benign, pair.question))
        for key, pair in zip(UNHARM_KEYS, record.unharm_pairs, strict=True):
            requests.append(Request(index, (key, "Prediction"), harmful, pair.Question))
    for picture in dict.fromkeys(request.picture for request in requests):
        open_picture(picture)  # found now rather than in the night
    return requests
