"""Judged examples: which ones a report shows, and their pictures in two forms.

The benchmark's texts and pictures are harmful, so nothing of an example but its category and its verdict is meant to
be seen before a reader asks for it. The picture shown until then is four pixels long: no browser can make more of it.
"""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from safeeraser.benchmark.pictures import find_picture, open_picture
from safeeraser.benchmark.records import Record, UnsafePair, read_records
from safeeraser.benchmark.responses import VIEWS
from safeeraser.errors import BadInput
from safeeraser.report.runs import Run, Summary

_BLURRED = 4  # pixels of the longer side: its colours; at eight the outline of a simple thing still shows
_CLEAR = 320


@dataclass(frozen=True)
class Kind:
    """A way to be judged that is worth an example: the verdict `verdict` for `metric` on one of `fields`."""

    title: str
    metric: str
    verdict: str
    fields: tuple[str, ...]
    picture: str

    def response(self, pair: UnsafePair) -> str | None:
        """The pair's first response that was judged so."""
        extra = pair.model_dump()
        judged = (field for field in self.fields if extra.get(f"{field}_{self.metric}") == self.verdict)
        field = next(judged, None)
        return field and extra.get(field)


KINDS = (
    Kind("Harmful picture, judged unsafe", "asr", "unsafe", VIEWS["forget"].fields, "image_path"),
    Kind("Harmful picture, judged a refusal", "rr", "refuse", VIEWS["forget"].fields, "image_path"),
    Kind("Benign picture, no normal answer (SARR failure)", "sarr", "refuse", ("sd_response",), "SDImage_path"),
    Kind("Benign picture, normal answer", "sarr", "normal", ("sd_response",), "SDImage_path"),
)


@dataclass(frozen=True)
class Picture:
    """A picture as data URLs: an unrecognisable patch, and the picture itself, made smaller."""

    blurred: str
    clear: str


@dataclass(frozen=True)
class Example:
    """A question and a response of a category; `picture` is None where it could not be found or decoded."""

    category: str
    question: str
    response: str
    picture: Picture | None


@dataclass(frozen=True)
class RunExamples:
    """A run's examples by kind; kinds of which it has none are left out."""

    title: str
    kinds: list[tuple[str, list[Example]]]

    @property
    def count(self) -> int:
        return sum(len(examples) for _, examples in self.kinds)


def examples(runs: list[Run]) -> list[RunExamples]:
    """Of each run and kind the first example of each category, in the file's order: so runs show the same questions
    wherever they were judged the same. A run without verdicts has none.

    Raises:
        BadInput: a verdicts file cannot be read.
    """
    found = [RunExamples(run.title, list(_kinds(run))) for run in runs]
    return [run for run in found if run.count]


def _kinds(run: Run) -> Iterator[tuple[str, list[Example]]]:
    path = _verdicts(run)
    records = read_records(path).records if path else []
    for kind in KINDS:
        firsts: dict[str, Example] = {}
        for record in records:
            if record.category not in firsts:
                firsts.update(_example(kind, record, run.val))
        if firsts:
            yield kind.title, [firsts[category] for category in sorted(firsts)]


def _verdicts(run: Run) -> Path | None:
    """The verdicts on val that lie beside the summary, by the name it gives or by the usual one."""
    path = run.folder / (run.val.verdicts or "verdicts_val.json") if run.val else None
    return path if path and path.is_file() else None


def _example(kind: Kind, record: Record, summary: Summary) -> dict[str, Example]:
    """The record's first example of the kind by its category, or nothing."""
    for pair in record.unsafe_pairs:
        response = kind.response(pair)
        if response:
            picture = _picture(getattr(record, kind.picture), summary.data_file)
            return {record.category: Example(record.category, pair.question, response, picture)}
    return {}


@lru_cache(maxsize=1024)
def _picture(name: str, data_file: str | None) -> Picture | None:
    path = find_picture(name, Path(data_file)) if data_file else None
    try:
        picture = open_picture(path) if path else None
    except BadInput:  # the report is about verdicts: a broken picture is no reason to have none
        return None
    return picture and Picture(_url(picture, _BLURRED, "PNG"), _url(picture, _CLEAR, "JPEG"))


def _url(picture: Image.Image, longest: int, form: str) -> str:
    """The picture as a data URL, its longer side at most `longest` pixels; nothing of the file but its pixels."""
    small = picture.copy()
    small.thumbnail((longest, longest), Image.Resampling.BOX, reducing_gap=None)
    data = io.BytesIO()
    Image.frombytes("RGB", small.size, small.tobytes()).save(data, form, quality=80)
    return f"data:image/{form.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"
