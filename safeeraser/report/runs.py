"""Run folders, read: summaries, specificity, training log and probes; and how their methods are named and ordered."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, GetPydanticSchema, TypeAdapter, ValidationError, create_model
from pydantic_core.core_schema import literal_schema

from safeeraser.benchmark.files import RUN_FILE, read_json, read_json_lines
from safeeraser.benchmark.metrics import COLUMNS, METRICS, SCORED, UNKNOWN, Figure
from safeeraser.benchmark.responses import VIEWS
from safeeraser.errors import BadInput
from safeeraser.report.tables import Told

# Runs that do not say a title of their own are named for the paper's methods. In its order.
TITLES = ("vanilla", "GA", "GD", "KL", "PO", "GA+PD", "GD+PD", "KL+PD", "PO+PD")
METHODS = {title.lower().replace("+", ""): title for title in TITLES} | {"idk": "PO", "idkpd": "PO+PD"}
BY_VIEW = ("blank", "wrong")  # what summaries tell of the responses in each view
ByView = dict[Annotated[str, GetPydanticSchema(lambda *_: literal_schema([*VIEWS]))], Figure]


class TaskScore(BaseModel):
    """The share of a VQA benchmark's items answered right, and which figure of which split it is."""

    value: float = Field(ge=0, le=1)
    n: int
    metric: str
    split: str | None = None
    standard_error: float | None = None


class Specificity(Told):
    """`specificity.json`; where it is the mean of several benchmarks, with each of them (safeeraser.specificity)."""

    value: float | None = Field(ge=0, le=1)
    tasks: dict[str, TaskScore] = Field({})
    missing: dict[str, str] = Field({})
    replaced: dict[str, str] = Field({})
    limit: int | None = None
    task: str = ""  # what kind of figure it is


class Answered(BaseModel):
    """A model that answered as a judge; None where the server did not say which."""

    judge: str
    model: str | None = None


class _MadeWith(BaseModel):
    """What predictions were made with."""

    settings: dict[str, Any] = {}


class _Inputs(BaseModel):
    """What was scored; null where the predictions came without a record of their own."""

    made_with: _MadeWith | None = None


class Provenance(BaseModel):
    """What made a summary's figures; null is what was not told."""

    date: str | None = None
    git_commit: str | None = None
    model: str | None = None
    adapter_sha256: str | None = None
    data_sha256: str | None = None
    recipe: str | None = None
    versions: dict[str, str] = {}


class Summary(BaseModel):
    """The part of a summary that the report needs; it carries more. As read, it has a figure of each metric as well."""

    split: str
    blank: ByView = {}
    wrong: ByView = {}
    by_category: dict[str, dict[str, Figure]] = {}
    by_keyword: dict[str, dict[str, Figure]] = {}
    verdicts: str | None = "verdicts_val.json"
    data_file: str | None = None
    protocol: str = "unknown"
    judge: str = "unknown"
    judge_model: str | None = None
    prompts: str = ""
    rules: str = ""
    truth: str = ""
    guards: dict[str, str] = {}
    answered_by: list[Answered] = []
    max_blank: float = 0.01
    category: str = "all"
    inputs: _Inputs = _Inputs()
    provenance: Provenance = Provenance()
    judge_check: dict[str, Any] | None = None
    agreement: dict[str, dict[str, Any] | None] | None = None
    agreement_with: dict[str, Any] | None = None

    @property
    def made_with(self) -> dict[str, Any]:
        """What the predictions were made with, as far as their own run told."""
        return self.inputs.made_with.settings if self.inputs.made_with else {}


_FIGURES: dict[str, Any] = dict.fromkeys(SCORED, (Figure, UNKNOWN))
_Scored = create_model("Summary", __base__=Summary, **_FIGURES)


class Step(BaseModel):
    """A row of a training log."""

    step: int
    loss: float
    terms: dict[str, float] = {}
    weights: dict[str, float] = {}  # those that follow their terms' losses


class Measured(BaseModel):
    """Shares of a view's answers in a probe."""

    refusal: float
    degenerate: float


class Probed(BaseModel):
    """A row of `probe.jsonl`; a view that was not asked is None."""

    step: int
    forget: Measured | None = None
    decoupled: Measured | None = None
    retain: Measured | None = None


class _Told(BaseModel):
    """The part of `run.json` that the report needs."""

    title: str | None = None
    settings: dict[str, Any] = {}
    data: dict[str, Any] = {}


@dataclass(frozen=True)
class Run:
    """What is known of one run; whatever its folder lacks is None or empty. `name` is its own among the runs.

    Attributes:
        settings: those that its adapter was trained with, and `data`, what was told of the data.
        place: which of the sets that are compared it is of.
    """

    folder: Path
    name: str
    title: str
    train: Summary | None
    val: Summary | None
    specificity: Specificity | None
    log: list[Step]
    probes: list[Probed]
    settings: dict[str, Any]
    place: int = 0

    @property
    def seeds(self) -> tuple[int, ...]:
        """What it drew its random numbers by: the seed of training and, if that is another, of the responses."""
        parts = [part.made_with for part in (self.train, self.val) if part]
        seeds = (told.get("seed") for told in (self.settings, *parts))
        return tuple(dict.fromkeys(seed for seed in seeds if isinstance(seed, int)))

    @property
    def figures(self) -> dict[str, Figure]:
        """The figures that are known, by the columns of the paper's table and of those of blank and wrong responses."""
        found: dict[str, Figure | None] = {}
        for name in BY_VIEW:
            found |= {f"{name}_{view}": figure for view, figure in self.by_view(name).items()}
        for key, column in COLUMNS.items():
            measured = METRICS[column.metric].view
            found[key] = getattr(getattr(self, column.split), column.metric, None) if measured else self.specificity
        return {key: figure for key, figure in found.items() if figure}

    def by_view(self, name: str) -> dict[str, Figure]:
        """The shares that `name` tells, by view, where they are told; `forget_eff` is the forget view's on train."""
        train, val = (getattr(part, name, {}) for part in (self.train, self.val))
        return {f"{view}_eff": figure for view, figure in train.items() if view == "forget"} | val

    def as_json(self) -> dict[str, Any]:
        """The run's entry in `summary.json`: fractions 0..1, null where not measured."""
        told: dict[str, Any] = {"efficacy": {}, "generality": {}}
        figures = self.figures
        for key, column in COLUMNS.items():
            several = len(METRICS[column.metric].splits) > 1
            holder = told[{"train": "efficacy", "val": "generality"}[column.split]] if several else told
            holder[column.metric] = figures.get(key, UNKNOWN).value
        for name in BY_VIEW:
            if shares := self.by_view(name):
                told[name] = {view: figure.value for view, figure in shares.items()}
        if self.specificity and (self.specificity.tasks or self.specificity.missing):
            tasks = {name: task.model_dump() for name, task in self.specificity.tasks.items()}
            told["specificity_tasks"] = tasks | dict.fromkeys(self.specificity.missing)
        return told


def read_runs(folders: Sequence[Path], *, compared: bool = False) -> list[Run]:
    """The runs in the folders, vanilla first, methods in the paper's order, others by name.

    Args:
        folders: run folders, or folders of run folders, or of folders of those.
        compared: whether each folder is a set of its own.

    Raises:
        BadInput: a folder is missing or holds no run, or a file of a run cannot be used.
    """
    found = {run.resolve(): (run, place) for place, folder in enumerate(folders) for run in _run_folders(folder)}
    runs = [replace(read_run(folder), place=place if compared else 0) for folder, place in found.values()]
    runs.sort(key=lambda run: (TITLES.index(run.title) if run.title in TITLES else len(TITLES), run.name))
    return _told_apart(runs)


def _is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("summary_train.json", "summary_val.json", "audit.json"))


def _run_folders(folder: Path) -> list[Path]:
    """The folder itself if it is a run's, else the runs' in it."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder")
    runs = [folder] if _is_run(folder) else sorted(filter(_is_run, folder.iterdir()))
    runs = runs or sorted(filter(_is_run, folder.glob("*/*")))
    if not runs:
        raise BadInput(
            f"{folder}: holds no run; each run is a folder with summary_train.json or summary_val.json, "
            "which eval_all.py --summary writes, or with audit.json, which audit.py does"
        )
    return runs


def _told_apart(runs: list[Run]) -> list[Run]:
    """Runs of the same name (of several seeds, say) named for the folder that they lie in as well, or else by paths."""
    names = Counter(run.name for run in runs)
    above = Counter((run.name, run.folder.resolve().parent.name) for run in runs)
    apart = []
    for run in runs:
        parent, name = run.folder.resolve().parent, run.name
        if names[name] > 1:
            name = f"{parent.name if above[name, parent.name] == 1 else os.path.relpath(parent)}/{name}"
        apart.append(replace(run, name=name))
    return apart


def read_run(folder: Path) -> Run:
    """The run in a folder. Raises `BadInput` if one of its files cannot be used."""
    parts = {split: read(folder / f"summary_{split}.json", _Scored, None) for split in ("train", "val")}
    for split, part in parts.items():
        if part and part.split != split:
            raise BadInput(f"{folder / f'summary_{split}.json'}: was scored on split '{part.split}'")
    name, told = folder.resolve().name, read(folder / RUN_FILE, _Told, _Told())
    return Run(
        folder=folder,
        name=name,
        title=told.title or METHODS.get(re.sub(r"-seed\d+$", "", name), name),
        settings=told.settings | ({"data": told.data} if told.data else {}),
        specificity=read(folder / "specificity.json", Specificity, None),
        log=read(folder / "train_log.jsonl", list[Step], []),
        probes=read(folder / "probe.jsonl", list[Probed], []),
        **parts,
    )


def read(path: Path, kind: Any, otherwise: Any) -> Any:
    """The file as `kind`, or `otherwise` where there is none."""
    if not path.exists():
        return otherwise
    value = read_json_lines(path) if path.suffix == ".jsonl" else read_json(path)
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise BadInput(": ".join(filter(None, [str(path), where, first["msg"]]))) from None
