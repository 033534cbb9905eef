"""Run folders, read: summaries, specificity, training log and probes; and how their methods are named and ordered."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from safeeraser.benchmark.files import read_json, read_json_lines
from safeeraser.errors import BadInput
from safeeraser.report.tables import COLUMNS, Cell, Row

# How methods are ordered and written in tables. Any other run stands behind them under its own name.
METHODS = {
    "vanilla": "vanilla",
    "ga": "GA",
    "gd": "GD",
    "kl": "KL",
    "po": "PO",
    "idk": "PO",
    "gapd": "GA+PD",
    "gdpd": "GD+PD",
    "klpd": "KL+PD",
    "popd": "PO+PD",
    "idkpd": "PO+PD",
}

# A summary's metrics and how the page writes them.
METRICS = {"asr": "ASR", "rr": "RR", "sarr": "SARR", "rouge_l": "ROUGE", "gpt_eval": "GPT-Eval"}


class Metric(BaseModel):
    """A rate with what is known of it; 0..1, null where nothing was measured or the figure is withheld."""

    value: float | None = Field(ge=0, le=1)
    low: float | None = None
    high: float | None = None
    n: int = 0
    failed: int = 0
    unparsed: int = 0
    skipped: int = 0
    withheld: str = ""
    judge: str | None = None

    @property
    def cell(self) -> Cell:
        """The metric in per cent, as the table shows it."""
        value, low, high = (None if part is None else 100 * part for part in (self.value, self.low, self.high))
        return Cell(value, low, high, self.failed, self.unparsed, self.skipped, self.withheld)


class TaskScore(BaseModel):
    """The share of a VQA benchmark's items answered right, and which figure of which split it is."""

    value: float = Field(ge=0, le=1)
    n: int
    metric: str
    split: str | None = None
    standard_error: float | None = None


class Specificity(Metric):
    """`specificity.json`; where it is the mean of several benchmarks, with each of them (safeeraser.specificity)."""

    tasks: dict[str, TaskScore] = {}
    missing: dict[str, str] = {}
    replaced: dict[str, str] = {}
    limit: int | None = None
    task: str = ""  # what kind of figure it is

    @property
    def figures(self) -> dict[str, Any]:
        """The benchmarks' figures, null where one is missing."""
        return {name: task.model_dump() for name, task in self.tasks.items()} | dict.fromkeys(self.missing)


class Summary(BaseModel):
    """The part of a summary that the report needs; it carries more."""

    split: str
    asr: Metric
    rr: Metric
    sarr: Metric
    rouge_l: Metric
    gpt_eval: Metric
    by_category: dict[str, dict[str, Metric]] = {}
    by_keyword: dict[str, dict[str, Metric]] = {}
    verdicts: str | None = None
    data_file: str | None = None
    protocol: str = "unknown"
    judge: str = "unknown"
    judge_model: str | None = None

    def judged_by(self) -> Iterator[tuple[str, str]]:
        """(metric, protocol and judge) of every figure that a judge decided, which ROUGE-L is not."""
        model = f" ({self.judge_model})" if self.judge_model else ""
        for name in METRICS.keys() - {"rouge_l"}:
            metric: Metric = getattr(self, name)
            if metric.value is not None:
                yield name, f"protocol {self.protocol}, judge {metric.judge or self.judge + model}"


class Step(BaseModel):
    """A row of a training log."""

    step: int
    loss: float
    terms: dict[str, float] = {}


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


@dataclass(frozen=True)
class Run:
    """What is known of one run; whatever its folder lacks is None or empty. `name` is its own among the runs."""

    folder: Path
    name: str
    title: str
    train: Summary | None
    val: Summary | None
    specificity: Specificity | None
    log: list[Step]
    probes: list[Probed]

    def as_json(self) -> dict[str, Any]:
        """The run's entry in `summary.json`: fractions 0..1, null where not measured."""

        def value(part: Summary | None, metric: str) -> float | None:
            return getattr(part, metric).value if part else None

        return {
            "efficacy": {"asr": value(self.train, "asr"), "rr": value(self.train, "rr")},
            "generality": {"asr": value(self.val, "asr"), "rr": value(self.val, "rr")},
            **{metric: value(self.val, metric) for metric in ("sarr", "rouge_l", "gpt_eval")},
            "specificity": self.specificity.value if self.specificity else None,
            **({"specificity_tasks": tasks} if (tasks := self.specificity and self.specificity.figures) else {}),
        }

    @property
    def row(self) -> Row:
        """The run's line in the table."""
        of_train = {"asr_eff": "asr", "rr_eff": "rr"}
        cells = {}
        for key in COLUMNS:
            part = self.train if key in of_train else self.val
            name = of_train.get(key, key.removesuffix("_gen"))
            metric = self.specificity if key == "specificity" else part and getattr(part, name)
            cells[key] = metric.cell if metric else Cell()
        return Row(self.title, cells)


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in the folders, vanilla first, methods in the paper's order, others by name.

    Args:
        folders: run folders, or folders of run folders.

    Raises:
        BadInput: a folder is missing or holds no run, or a file of a run cannot be used.
    """
    order = list(METHODS)
    found = {run.resolve(): run for folder in folders for run in _run_folders(folder)}
    runs = [_read_run(folder) for folder in found.values()]
    runs.sort(key=lambda run: (order.index(run.name) if run.name in order else len(order), run.name))
    return _named_apart(runs)


def judges(runs: list[Run]) -> dict[str, list[str]]:
    """Metric -> what its figures come from: protocol and judge. More than one to a metric: its figures do not compare.

    Specificity, which has no judge, is there only where it is of several kinds.
    """
    told: dict[str, set[str]] = {name: set() for name in METRICS}
    for part in (part for run in runs for part in (run.train, run.val) if part):
        for name, judge in part.judged_by():
            told[name].add(judge)
    kinds = {run.specificity.task for run in runs if run.specificity and run.specificity.value is not None} - {""}
    if len(kinds) > 1:
        told["specificity"] = kinds
    return {name: sorted(judge) for name, judge in told.items() if judge}


def _is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("summary_train.json", "summary_val.json", "audit.json"))


def _run_folders(folder: Path) -> list[Path]:
    """The folder itself if it is a run's, else the runs' in it."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder")
    runs = [folder] if _is_run(folder) else sorted(filter(_is_run, filter(Path.is_dir, folder.iterdir())))
    if not runs:
        raise BadInput(
            f"{folder}: holds no run; each run is a folder with summary_train.json or summary_val.json, "
            "which eval_all.py --summary writes, or with audit.json, which audit.py does"
        )
    return runs


def _named_apart(runs: list[Run]) -> list[Run]:
    """Runs of the same name (of several seeds, say) told apart by the folder they lie in, or else by their paths."""
    times = Counter(run.name for run in runs)
    above = Counter((run.name, run.folder.resolve().parent.name) for run in runs)
    apart = []
    for run in runs:
        parent = run.folder.resolve().parent
        if times[run.name] > 1:
            where = parent.name if above[run.name, parent.name] == 1 else str(parent)
            run = replace(run, name=f"{where}/{run.name}", title=f"{run.title} ({where})")
        apart.append(run)
    return apart


def _read_run(folder: Path) -> Run:
    parts = {}
    for split in ("train", "val"):
        parts[split] = read(folder / f"summary_{split}.json", Summary, None)
        if parts[split] and parts[split].split != split:
            raise BadInput(f"{folder / f'summary_{split}.json'}: was scored on split '{parts[split].split}'")
    name = folder.resolve().name
    return Run(
        folder,
        name,
        METHODS.get(name, name),
        parts["train"],
        parts["val"],
        read(folder / "specificity.json", Specificity, None),
        read(folder / "train_log.jsonl", list[Step], []),
        read(folder / "probe.jsonl", list[Probed], []),
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
