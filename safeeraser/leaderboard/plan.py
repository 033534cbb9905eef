"""The plan of the leaderboard, config/leaderboard.yaml, and the places of its results."""

from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, model_validator

from safeeraser.benchmark.files import CONFIG, read_object
from safeeraser.benchmark.pages import Keys, check_keys, read_keys
from safeeraser.errors import BadInput, nearest

PAGE = CONFIG / "leaderboard.yaml"
RESULTS = Path("docs/results/leaderboard")  # kept: the chosen settings, and a file for each cell
WORK = Path("results/leaderboard")  # adapters and answers, which can be made again


class Row(Keys):
    """A row of the table: an untouched `model`, noise (`noise_of`) or, with neither key, a method that is trained."""

    group: str = "others"
    keys: dict[str, Any] = Field({})
    settings_of: str | None = None
    model: str | None = None
    noise_of: str | None = None
    times: float = 1.0

    @property
    def is_trained(self) -> bool:
        """Whether the row is a method, and not an untouched model or noise."""
        return not (self.model or self.noise_of)


class Budget(Keys):
    """The trials that every method gets, to choose its learning rate and number of steps."""

    lr: tuple[float, ...] = Field(min_length=2)
    max_train_steps: tuple[int, ...] = Field(min_length=1)
    wider: int = Field(ge=0)
    seed: int
    records: int = Field(ge=1)


class New(Keys):
    """How a model learns a concept that no model knew."""

    lr: float
    steps: tuple[int, ...] = Field(min_length=1)


class Relearning(Keys):
    """How a model is relearned, to see which answers come back."""

    views: dict[str, str]
    lr: tuple[float, ...] = Field(min_length=1)
    tried: int = Field(ge=1)
    steps: tuple[int, ...] = Field(min_length=2)
    new: New


class Group(Keys):
    """The base models and the seeds of unlearning that a group's rows are run with."""

    bases: tuple[int, ...]
    seeds: tuple[int, ...]


class Cell(NamedTuple):
    """One run of a row."""

    row: str
    base: int
    seed: int

    @property
    def name(self) -> str:
        """The name of the cell's file, without suffix."""
        return f"base{self.base}-seed{self.seed}"

    @property
    def kept(self) -> Path:
        """The file of its figures."""
        return RESULTS / "cells" / self.row / f"{self.name}.json"

    @property
    def folder(self) -> Path:
        """Its working folder."""
        return WORK / "cells" / self.row / self.name


class Plan(Keys):
    """The content of config/leaderboard.yaml, which explains each key."""

    data: Path
    retrains: tuple[str, ...] = Field(min_length=2)
    budget: Budget
    attacks: tuple[str, ...]
    relearning: Relearning
    groups: dict[str, Group]
    rows: dict[str, Row]

    @model_validator(mode="after")
    def _rows_are_there(self) -> "Plan":
        for name, row in self.rows.items():
            if row.group not in self.groups:
                raise ValueError(f"rows.{name}.group: no group '{row.group}'")
            if (other := row.noise_of or row.settings_of) and other not in self.rows:
                raise ValueError(f"rows.{name}: no row '{other}'; {nearest(other, self.rows)}")
        return self

    def row(self, name: str) -> Row:
        """A row by its name. Raises `BadInput` if there is none."""
        if name not in self.rows:
            raise BadInput(f"{PAGE}: no row '{name}'; {nearest(name, self.rows)}")
        return self.rows[name]

    @cached_property
    def chosen(self) -> list[str]:
        """The rows for which a learning rate and a number of steps are chosen."""
        return [name for name, row in self.rows.items() if row.is_trained and row.settings_of is None]

    def cells(self, group: str) -> list[Cell]:
        """All runs of a group's rows; an untouched model is the same for all seeds, so it has one seed only."""
        of = self.groups[group]
        rows = [(name, row) for name, row in self.rows.items() if row.group == group]
        return [
            Cell(name, base, seed)
            for base in of.bases
            for seed in of.seeds
            for name, row in rows
            if not row.model or seed == of.seeds[0]
        ]

    def settings(self, name: str) -> dict[str, Any]:
        """The learning rate and steps that were chosen for a row. Raises `BadInput` if none were chosen yet."""
        row = self.row(name)
        if row.settings_of:
            return self.settings(row.settings_of)
        file = settings_file(name)
        if not file.is_file():
            raise BadInput(f"{file}: no such file; python -m safeeraser.leaderboard choose {name} makes it")
        return read_object(file)["chosen"]

    def model(self, kind: str, base: int) -> str:
        """The folder of a model of the benchmark, such as `base_model`; `base` is the number of the base model."""
        return str(self.data / (f"{kind}-{base}" if base else kind))


def settings_file(row: str) -> Path:
    """The file with a row's chosen settings and all its trials."""
    return RESULTS / "settings" / f"{row}.json"


def read_plan() -> Plan:
    """Read config/leaderboard.yaml. Raises `BadInput` naming the first key that is wrong."""
    return check_keys(Plan, Row, read_keys(PAGE), PAGE)
