"""A results folder, read: one folder a run, with its summaries, its specificity and its training log."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from safeeraser.benchmark.files import read_json, read_json_lines
from safeeraser.errors import BadInput

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

# The columns of the paper's table: key -> title. Values are per cent.
COLUMNS = {
    "asr_eff": "ASR-Eff ↓",
    "rr_eff": "RR-Eff ↑",
    "asr_gen": "ASR-Gen ↓",
    "rr_gen": "RR-Gen ↑",
    "rouge_l": "ROUGE ↑",
    "gpt_eval": "GPT ↑",
    "specificity": "Spec ↑",
    "sarr": "SARR ↓",
}


class _Metric(BaseModel):
    value: float | None = Field(ge=0, le=1)
    n: int = 0


class _Summary(BaseModel):
    """The part of a summary that the report needs; it carries more."""

    split: str
    asr: _Metric
    rr: _Metric
    sarr: _Metric
    rouge_l: _Metric
    gpt_eval: _Metric
    protocol: str = "unknown"
    judge: str = "unknown"
    judge_model: str | None = None


class _Step(BaseModel):
    """A row of a training log."""

    step: int
    loss: float
    terms: dict[str, float] = {}


@dataclass(frozen=True)
class Row:
    """A line of the paper's table: per cent by column of `COLUMNS`, None where not measured."""

    name: str
    values: dict[str, float | None]


@dataclass(frozen=True)
class Run:
    """What is known of one run; whatever its folder lacks is None or empty."""

    name: str
    train: _Summary | None
    val: _Summary | None
    specificity: float | None
    log: list[_Step]

    @property
    def title(self) -> str:
        """The method as the paper writes it."""
        return METHODS.get(self.name, self.name)

    @property
    def judges(self) -> set[str]:
        """Protocol and judge of its figures: figures of different ones do not compare."""
        return {
            f"protocol {part.protocol}, judge {part.judge}" + (f" ({part.judge_model})" if part.judge_model else "")
            for part in (self.train, self.val)
            if part
        }

    def as_json(self) -> dict[str, Any]:
        """The run's entry in `summary.json`: fractions 0..1, null where not measured."""

        def value(part: _Summary | None, metric: str) -> float | None:
            return getattr(part, metric).value if part else None

        return {
            "efficacy": {"asr": value(self.train, "asr"), "rr": value(self.train, "rr")},
            "generality": {"asr": value(self.val, "asr"), "rr": value(self.val, "rr")},
            **{metric: value(self.val, metric) for metric in ("sarr", "rouge_l", "gpt_eval")},
            "specificity": self.specificity,
        }

    @property
    def row(self) -> Row:
        """The run's line in the table."""
        value = self.as_json()
        flat = {
            "asr_eff": value["efficacy"]["asr"],
            "rr_eff": value["efficacy"]["rr"],
            "asr_gen": value["generality"]["asr"],
            "rr_gen": value["generality"]["rr"],
            **value,
        }
        return Row(self.title, {key: None if flat[key] is None else 100 * flat[key] for key in COLUMNS})


def read_runs(folder: Path) -> list[Run]:
    """The runs of a results folder, vanilla first, methods in the paper's order, others by name.

    Raises:
        BadInput: the folder is missing or holds no run, or a file of a run cannot be used.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder")
    order = list(METHODS)
    runs = [run for run in map(_read_run, filter(Path.is_dir, folder.iterdir())) if run.train or run.val]
    if not runs:
        raise BadInput(
            f"{folder}: holds no run; each run is a folder with summary_train.json or summary_val.json, "
            "which eval_all.py --summary writes"
        )
    return sorted(runs, key=lambda run: (order.index(run.name) if run.name in order else len(order), run.name))


def published_rows() -> tuple[list[Row], str]:
    """The published figures as rows of the same table, and where they come from."""
    value = json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))
    rows = [Row(row["name"], dict(zip(value["columns"], row["values"], strict=True))) for row in value["rows"]]
    return rows, value["source"]


def _read_run(folder: Path) -> Run:
    parts = {}
    for split in ("train", "val"):
        path = folder / f"summary_{split}.json"
        parts[split] = _checked(path, _Summary, read_json(path)) if path.exists() else None
        if parts[split] and parts[split].split != split:
            raise BadInput(f"{path}: was scored on split '{parts[split].split}'")
    path = folder / "specificity.json"
    specificity = _checked(path, _Metric, read_json(path)).value if path.exists() else None
    path = folder / "train_log.jsonl"
    log = _checked(path, list[_Step], read_json_lines(path)) if path.exists() else []
    return Run(folder.name, parts["train"], parts["val"], specificity, log)


def _checked(path: Path, kind: Any, value: Any) -> Any:
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BadInput(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
