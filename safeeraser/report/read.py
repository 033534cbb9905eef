"""Read run folders: their figures as rows of the table of figures, and all else that the report shows."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from safeeraser.benchmark.adapters import RUN_FILE
from safeeraser.benchmark.audits import Audit
from safeeraser.benchmark.figures import Row, find
from safeeraser.benchmark.files import read_json, read_json_lines
from safeeraser.benchmark.metrics import COLUMNS, METRICS, SPLITS, Column, Figure
from safeeraser.benchmark.pages import checked
from safeeraser.benchmark.responses import VIEWS
from safeeraser.benchmark.summaries import Summary, SummaryFile
from safeeraser.errors import BadInput

# The paper's methods, in its order. Runs without a title of their own are named for them.
TITLES = ("vanilla", "GA", "GD", "KL", "PO", "GA+PD", "GD+PD", "KL+PD", "PO+PD")
METHODS = {title.lower().replace("+", ""): title for title in TITLES} | {"idk": "PO", "idkpd": "PO+PD"}
# The columns of a metric that is measured in every view: `forget` on train, then each view on val.
VIEW_COLUMNS = {
    metric: {f"{metric}_forget_eff": Column(metric, "train", "forget, train", "forget")}
    | {f"{metric}_{view}": Column(metric, "val", view.replace("_", " "), view) for view in VIEWS}
    for metric in ("blank", "wrong")
}
# ASR and SARR on the concepts that training showed, and on the held-out ones.
CONCEPT_COLUMNS = {
    f"{key}_{name}": Column(key, "val", f"{METRICS[key].title}, {concepts} {METRICS[key].arrow}", concepts=concepts)
    for key in ("asr", "sarr")
    for name, concepts in (("shown", "shown"), ("held_out", "held-out"))
}


class TaskScore(BaseModel):
    """The share of a VQA benchmark's items that are answered correctly, and the metric and split that it is of."""

    value: float = Field(ge=0, le=1)
    n: int
    metric: str
    split: str | None = None
    standard_error: float | None = None


class Specificity(Figure):
    """`specificity.json`: a mean over VQA benchmarks with each score, or a single figure; `task` names its kind."""

    tasks: dict[str, TaskScore] = Field({})
    missing: dict[str, str] = Field({})
    replaced: dict[str, str] = Field({})
    limit: int | None = None
    task: str = ""


class Step(BaseModel):
    """A row of a training log."""

    step: int
    loss: float
    terms: dict[str, float] = {}
    weights: dict[str, float] = {}  # only of terms whose weight changes in training


class Measured(BaseModel):
    """The shares of refusals and of degenerate answers in one view of a probe."""

    refusal: float
    degenerate: float


class Probed(BaseModel):
    """A row of `probe.jsonl`; a view that was not asked is None."""

    step: int
    forget: Measured | None = None
    decoupled: Measured | None = None
    retain: Measured | None = None


class _RunFile(BaseModel):
    """The part of `run.json` that the report needs."""

    title: str | None = None
    settings: dict[str, Any] = {}
    data: dict[str, Any] = {}


@dataclass(frozen=True)
class Run:
    """Everything that is known about one run; a field is None or empty if the folder lacks its file.

    Attributes:
        name: unique among the runs that are shown together.
        parts: its summaries by split.
        rows: all its figures.
        settings: the settings of its training, and under `data` the record of the training data.
        place: the index of the set that the run belongs to, if sets are compared.
    """

    folder: Path
    name: str
    title: str
    parts: dict[str, Summary]
    rows: list[Row]
    specificity: Specificity | None
    audit: Audit | None
    log: list[Step]
    probes: list[Probed]
    settings: dict[str, Any]
    place: int = 0

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of training and, if it differs, the seed of the responses."""
        recorded = (self.settings, *(part.made_with for part in self.parts.values()))
        seeds = (settings.get("seed") for settings in recorded)
        return tuple(dict.fromkeys(seed for seed in seeds if isinstance(seed, int)))

    @cached_property
    def figures(self) -> dict[str, Row]:
        """The known figures by column: the paper's, blank and wrong responses by view, and rates by concepts.

        If a rate was corrected by labels, the note of its figure gives the corrected rate.
        """
        columns = COLUMNS | VIEW_COLUMNS["blank"] | VIEW_COLUMNS["wrong"] | CONCEPT_COLUMNS
        figures = {key: row for key, column in columns.items() if (row := self.figure(column)).metric}
        for key, row in ((key, row) for key, row in figures.items() if not row.by):
            corrected = find(self.rows, metric=row.metric, split=row.split, relative="labels")
            if corrected.value is not None:
                between = f" ({corrected.range})" if corrected.range else ""
                figures[key] = row.model_copy(update={"note": f"† {corrected.text}{between}"})
        return figures

    def figure(self, column: Column) -> Row:
        """The figure of a column."""
        where = {"view": column.view} if column.view else {}
        where |= {"by": "concept", "group": column.concepts} if column.concepts else {}
        return find(self.rows, metric=column.metric, split=column.split, **where)

    def as_json(self) -> dict[str, Any]:
        """The run's entry in `summary.json`: fractions 0..1, null where not measured."""
        entry: dict[str, Any] = {"efficacy": {}, "generality": {}}
        for key, column in COLUMNS.items():
            several = len(METRICS[column.metric].splits) > 1
            holder = entry[{"train": "efficacy", "val": "generality"}[column.split]] if several else entry
            holder[column.metric] = self.figures[key].value if key in self.figures else None
        for metric, columns in VIEW_COLUMNS.items():
            if rows := [self.figures[key] for key in columns if key in self.figures]:
                entry[metric] = {row.view + "_eff" * (row.split == "train"): row.value for row in rows}
        if self.specificity and (self.specificity.tasks or self.specificity.missing):
            tasks = {name: task.model_dump() for name, task in self.specificity.tasks.items()}
            entry["specificity_tasks"] = tasks | dict.fromkeys(self.specificity.missing)
        return entry


def read_runs(folders: Sequence[Path], *, compared: bool = False) -> list[Run]:
    """The runs in the folders: vanilla first, then the paper's methods in its order, then others by name.

    If runs share a name, as several seeds may, the name of the folder above (or its path) precedes it.

    Args:
        folders: run folders, or folders that hold run folders one or two levels down.
        compared: whether each folder is a set of its own.

    Raises:
        BadInput: a folder is missing or holds no run, or a file of a run cannot be used.
    """
    places = {run.resolve(): (run, place) for place, folder in enumerate(folders) for run in _run_folders(folder)}
    runs = [replace(read_run(folder), place=place if compared else 0) for folder, place in places.values()]
    runs.sort(key=lambda run: (TITLES.index(run.title) if run.title in TITLES else len(TITLES), run.name))
    names = Counter(run.name for run in runs)
    above = Counter((run.name, run.folder.resolve().parent.name) for run in runs)
    for number, run in enumerate(runs):
        parent, name = run.folder.resolve().parent, run.name
        if names[name] > 1:
            name = f"{parent.name if above[name, parent.name] == 1 else os.path.relpath(parent)}/{name}"
        runs[number] = replace(run, name=name, rows=[row.model_copy(update={"run": name}) for row in run.rows])
    return runs


def _is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("summary_train.json", "summary_val.json", "audit.json"))


def _run_folders(folder: Path) -> list[Path]:
    """The folder itself if it is a run folder, else the run folders in it, else the ones a level further down."""
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


def read_run(folder: Path) -> Run:
    """The run in a folder. Raises `BadInput` if one of its files cannot be used."""
    summaries = {split: read(folder / f"summary_{split}.json", SummaryFile, None) for split in SPLITS}
    parts: dict[str, Summary] = {split: part for split, part in summaries.items() if part}
    for split, part in parts.items():
        if part.split != split:
            raise BadInput(f"{folder / f'summary_{split}.json'}: was scored on split '{part.split}'")
    name, record = folder.resolve().name, read(folder / RUN_FILE, _RunFile, _RunFile())
    if isinstance(family := record.settings.get("model_family"), dict):
        family.pop("architecture", None)  # numbers that only earlier versions recorded
    specificity = read(folder / "specificity.json", Specificity, None)
    audit = read(folder / "audit.json", Audit, None)
    rows = [row for part in parts.values() for row in part.rows(name)]
    if specificity:
        rows.append(Row(**specificity.model_dump(include={*Figure.model_fields}), run=name, metric="specificity"))
    return Run(
        folder=folder,
        name=name,
        title=record.title or METHODS.get(re.sub(r"-seed\d+$", "", name), name),
        parts=parts,
        rows=rows + (audit.rows(name) if audit else []),
        specificity=specificity,
        audit=audit,
        log=read(folder / "train_log.jsonl", list[Step], []),
        probes=read(folder / "probe.jsonl", list[Probed], []),
        settings=record.settings | ({"data": record.data} if record.data else {}),
    )


def read(path: Path, kind: Any, otherwise: Any) -> Any:
    """The file as `kind`, or `otherwise` where there is none."""
    if not path.exists():
        return otherwise
    value = read_json_lines(path) if path.suffix == ".jsonl" else read_json(path)
    return checked(kind, value, path, words=str)
