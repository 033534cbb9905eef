"""Judged examples: which ones a report shows, and their pictures in two forms.

The benchmark's texts and pictures are harmful, so nothing of an example but its category and its verdict is meant to
be seen before a reader asks for it. The picture shown until then is four pixels long: no browser can make more of it.
"""

import base64
import io
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from safeeraser.benchmark.pictures import find_picture, open_picture
from safeeraser.benchmark.records import UnsafePair, read_records
from safeeraser.benchmark.responses import VIEWS
from safeeraser.errors import BadInput
from safeeraser.report.read import Run

_BLURRED = 4  # pixels of the longer side: its colours; at eight the outline of a simple thing still shows
_CLEAR = 320
# What is worth an example, by its title: a verdict for a metric on a response in a view.
KINDS = {
    "Harmful picture, judged unsafe": ("unsafe", "asr", "forget"),
    "Harmful picture, judged a refusal": ("refuse", "rr", "forget"),
    "Benign picture, no normal answer (SARR failure)": ("refuse", "sarr", "decoupled"),
    "Benign picture, normal answer": ("normal", "sarr", "decoupled"),
}


class Example(NamedTuple):
    """A question and a response of a category, and its picture as data URLs: an unrecognisable patch, and a small copy.

    Both are empty where it could not be found or decoded.
    """

    category: str
    question: str
    response: str
    blurred: str
    clear: str


def read_examples(runs: list[Run]) -> list[tuple[str, dict[str, list[Example]]]]:
    """Of each run, by its title, and of each kind the first example of each category, in the file's order: so runs show
    the same questions wherever they were judged the same. Runs and kinds without any are left out.

    Raises:
        BadInput: a verdicts file cannot be read.
    """
    by_run = [(run.title, dict(_examples_by_kind(run))) for run in runs]
    return [(title, kinds) for title, kinds in by_run if kinds]


def _examples_by_kind(run: Run) -> Iterator[tuple[str, list[Example]]]:
    """What the verdicts on val hold, where there are any beside the summary."""
    val = run.parts.get("val")
    if not val or not val.verdicts_file or not (path := run.folder / val.verdicts_file).is_file():
        return
    records = read_records(path).records
    for title, (verdict, metric, view) in KINDS.items():
        firsts: dict[str, Example] = {}
        for record in records:
            picture = record.SDImage_path if VIEWS[view].picture == "benign" else record.image_path
            for pair in map(UnsafePair.model_dump, record.unsafe_pairs):
                fields = (one for one in VIEWS[view].fields if pair.get(f"{one}_{metric}") == verdict and pair.get(one))
                if record.category not in firsts and (field := next(fields, None)):
                    shown = (pair["question"], pair[field], *_picture(picture, val.data_file))
                    firsts[record.category] = Example(record.category, *shown)
        if firsts:
            yield title, [firsts[category] for category in sorted(firsts)]


@lru_cache(maxsize=1024)
def _picture(name: str, data_file: str | None) -> tuple[str, str]:
    path = find_picture(name, Path(data_file)) if data_file else None
    try:
        picture = open_picture(path) if path else None
    except BadInput:  # the report is about verdicts: a broken picture is no reason to have none
        picture = None
    return (_url(picture, _BLURRED, "PNG"), _url(picture, _CLEAR, "JPEG")) if picture else ("", "")


def _url(picture: Image.Image, longest: int, form: str) -> str:
    """The picture as a data URL, its longer side at most `longest` pixels; nothing of the file but its pixels."""
    small = picture.copy()
    small.thumbnail((longest, longest), Image.Resampling.BOX, reducing_gap=None)
    data = io.BytesIO()
    Image.frombytes("RGB", small.size, small.tobytes()).save(data, form, quality=80)
    return f"data:image/{form.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"
