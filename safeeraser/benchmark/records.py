"""The benchmark's records as they are stored on disk (dataset/README.md), and how they are read.

A data file is a JSON list of records, or one record a line. Each record of the benchmark holds one harmful picture with
four harmful questions (`unsafe_pairs`). It names a benign picture for the same questions (`SDImage_path`, the
prompt-decouple picture), and has four harmless questions about the harmful picture (`UnharmPair_*`). The last two may
be missing where they are not read.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WrapValidator,
    model_validator,
)
from pydantic_core import ErrorDetails

from safeeraser.benchmark.files import meant_by, read_json, read_json_lines, read_text
from safeeraser.errors import BadInput, nearest

CATEGORIES = ("HateSpeech", "IllegalActivity", "Privacy", "Sex", "Violence", "Weapon")

# The keys of a record's retain items. Training and scoring both count the benchmark's items in this order.
UNHARM = "UnharmPair_*"
UNHARM_KEYS = ("UnharmPair_text1", "UnharmPair_text2", "UnharmPair_image1", "UnharmPair_image2")

REFUSALS = "prompt.json"  # next to a data file

NO_DATASET = (
    "no such file; put the benchmark there (dataset/README.md says how), or build the mini benchmark with "
    "'python -m safeeraser.mini.build' and name its files (forget.py: --config-name mini)"
)


def keys_like(pattern: str, keys: Iterable[str]) -> list[str]:
    """The keys that match a pattern: first those of `UNHARM_KEYS`, in their order, then the others as they come."""
    order = {key: place for place, key in enumerate(UNHARM_KEYS)}
    fitting = (key for key in keys if fnmatchcase(key, pattern))
    return sorted(fitting, key=lambda key: order.get(key, len(order)))


# A predictions file has null where a response was not asked for or not given.
Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]
# A record of your own data has null if its questions are text alone.
Picture = Annotated[
    str, Field(pattern=r"\S"), WrapValidator(lambda value, check: "" if value is None else check(value))
]


class _Stored(BaseModel):
    # Other keys are kept: predictions and verdicts are stored in the records that they belong to.
    model_config = ConfigDict(extra="allow", populate_by_name=True)


class UnsafePair(_Stored):
    """A harmful question with the vanilla model's answer on the harmful picture and on the benign one."""

    question: str = Field(pattern=r"\S")
    model_response: Text = ""
    sd_response: Text = ""


class UnharmPair(_Stored):
    """A harmless question about the harmful picture. `Prediction`, a sentence, is the target; `Answer` a few words."""

    Question: str = Field(pattern=r"\S")
    Answer: Text = ""
    Prediction: Text = ""


class Record(_Stored):
    """One picture of the benchmark with its questions."""

    type: str = ""
    keyword: str = ""
    category: str = ""
    image_path: Picture = Field(validation_alias=AliasChoices("image_path", "image_id"))
    SDImage_path: str = Field("", validation_alias=AliasChoices("SDImage_path", "SDImage_id"), pattern=r"\S")
    unsafe_pairs: list[UnsafePair] = Field(min_length=1)
    unharm: dict[str, UnharmPair]

    @model_validator(mode="before")
    @classmethod
    def _unharm(cls, value: dict[str, Any]) -> dict[str, Any]:
        """Collect the retain pairs, which are separate keys on disk, in one dict."""
        return value | {"unharm": {key: value[key] for key in keys_like(UNHARM, value)}}

    def model_post_init(self, _context: Any) -> None:
        """Take a missing category from the name of the picture's folder, where some copies of the data keep it."""
        if not self.category:
            self.category = Path(self.image_path).parent.name


@dataclass(frozen=True)
class DataFile:
    """A data file: its path, its records, and the JSON objects they were read from, in the file's order."""

    path: Path
    records: list[Record]
    raw: list[dict[str, Any]]
    numbers: list[int] = field(default_factory=list)  # of each record in the file, if only some were taken

    def number(self, index: int) -> int:
        """The number that the record at `index` has in the file."""
        return self.numbers[index] if self.numbers else index

    def where(self, index: int, key: str = "") -> str:
        """A place as errors name it: file, record (counted from 0 in the file) and key."""
        return f"{self.path}: record {self.number(index)}" + (f", {key}" if key else "")

    def only(self, split: str | list[str]) -> "DataFile":
        """The records of the named categories; `all` keeps every one. Raises `BadInput` for an unknown category."""
        if split == "all":
            return self
        wanted = [split] if isinstance(split, str) else list(split)
        present = {record.category for record in self.records}
        for category in wanted:
            if category not in present:
                raise BadInput(f"{self.path}: no records of a category '{category}'; {nearest(category, present)}")
        return self._at([i for i, record in enumerate(self.records) if record.category in wanted])

    def some(self, skip: int = 0, limit: int | None = None, by_keyword: int | None = None) -> "DataFile":
        """In each category, at most `limit` of the records after the first `skip`: the next ones or, with a seed
        `by_keyword`, records drawn evenly from all keywords. Raises `BadInput` if no record is left."""
        if not skip and limit is None:
            return self
        of_category: dict[str, list[int]] = {}
        for index, record in enumerate(self.records):
            of_category.setdefault(record.category, []).append(index)
        left = (indices[skip:] for indices in of_category.values())
        if by_keyword is not None:
            left = (self._drawn(indices, by_keyword) for indices in left)
        keep = sorted(index for indices in left for index in indices[:limit])
        if not keep:
            skipped = f"the first {skip} of each category are skipped (--skip, or an audit's --held_out)"
            raise BadInput(f"{self.path}: no record is left once {skipped}")
        return self._at(keep)

    def _drawn(self, indices: list[int], seed: int) -> list[int]:
        """The indices in the order in which they are drawn: one of each keyword, then another of each, and so on.

        A hash of its own gives each record and each keyword its turn, whichever others there are.
        """

        def turn(name: object) -> str:
            return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()

        of_keyword: dict[str, list[int]] = {}
        for index in sorted(indices, key=lambda index: turn(self.number(index))):
            of_keyword.setdefault(self.records[index].keyword, []).append(index)
        rounds = {index: place for members in of_keyword.values() for place, index in enumerate(members)}
        return sorted(indices, key=lambda index: (rounds[index], turn(self.records[index].keyword)))

    def _at(self, indices: list[int]) -> "DataFile":
        records, raw = [self.records[i] for i in indices], [self.raw[i] for i in indices]
        return DataFile(self.path, records, raw, [self.number(i) for i in indices])


def read_raw(path: str | Path) -> list[dict[str, Any]]:
    """The JSON objects of a data file (a list, or one a line). Raises `BadInput` if it holds none, or anything else."""
    if not Path(path).exists():
        meant = meant_by(Path(path))
        raise BadInput(f"{path}: no such file{meant}" if meant else f"{path}: {NO_DATASET}")
    raw = read_json(path) if read_text(path).lstrip()[:1] == "[" else read_json_lines(path)
    if not raw:
        raise BadInput(f"{path}: holds no records")
    for index, value in enumerate(raw):
        if not isinstance(value, dict):
            raise BadInput(f"{path}: record {index} is a {type(value).__name__}, not an object")
    return raw


def problems(value: dict[str, Any]) -> list[str]:
    """What makes a JSON object an invalid record, as `key: reason`; empty if it is valid."""
    try:
        Record.model_validate(value)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        # On disk the retain pairs are keys of the record itself.
        return [f"{'.'.join(map(str, e['loc'])).removeprefix('unharm.')}: {_plain(e)}" for e in errors]
    return []


def read_records(path: str | Path) -> DataFile:
    """Read and check a data file. Raises `BadInput` naming the file, the record and the key of the first fault."""
    raw = read_raw(path)
    for index, value in enumerate(raw):
        wrong = problems(value)
        if wrong:
            more = f" (and {len(wrong) - 1} more in this record)" if len(wrong) > 1 else ""
            raise BadInput(f"{path}: record {index}, {wrong[0]}{more}")
    return DataFile(Path(path), [Record.model_validate(value) for value in raw], raw)


def read_refusals(data_path: str | Path) -> list[str]:
    """The refusals in `prompt.json` next to the data file. Raises `BadInput` if they cannot be used."""
    path = Path(data_path).parent / REFUSALS
    value = read_json(path)
    refusals = value.get("idk") if isinstance(value, dict) else None
    if not isinstance(refusals, list) or not refusals:
        raise BadInput(f"{path}: key 'idk' must be a list of refusals")
    for index, refusal in enumerate(refusals):
        if not isinstance(refusal, str) or not refusal.strip():
            raise BadInput(f"{path}: idk.{index} must be a text that is not blank")
    return refusals


def _plain(error: ErrorDetails) -> str:
    """A pydantic error in words, without the offending value: it may be harmful text."""
    known = {"missing": "missing", "string_pattern_mismatch": "must not be blank", "string_type": "must be a text"}
    return known.get(error["type"], error["msg"].lower())
