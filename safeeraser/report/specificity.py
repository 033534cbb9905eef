"""The benchmarks whose mean is Specificity, one by one: for the page and for table.md."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from safeeraser.report.runs import Run, TaskScore


@dataclass(frozen=True)
class TaskTable:
    """A line a run, a column a benchmark, in per cent; two figures or splits of a benchmark are two columns.

    `heads` are (benchmark, what of it: metric and split). `remarks` say what a reader must know of a run's mean.
    """

    heads: list[tuple[str, str]]
    rows: list[tuple[str, list[str]]]
    remarks: list[str]


def task_table(runs: Sequence[Run]) -> TaskTable | None:
    """The table of the runs whose Specificity is made of benchmarks; None if there is none."""
    measured = [run for run in runs if run.specificity and (run.specificity.tasks or run.specificity.missing)]
    if not measured:
        return None
    heads = list(dict.fromkeys(_head(name, task) for run in measured for name, task in run.specificity.tasks.items()))
    rows = []
    for run in measured:
        texts = {_head(name, task): _text(task) for name, task in run.specificity.tasks.items()}
        rows.append((run.title, [texts.get(head, "–") for head in heads]))
    return TaskTable(heads, rows, [remark for run in measured for remark in _remarks(run)])


def markdown(table: TaskTable | None) -> str:
    """The table behind the paper's in table.md; empty where there is none."""
    if not table:
        return ""

    def line(texts: Sequence[str]) -> str:
        return "| " + " | ".join(re.sub(r"([\\|`*_<\[\]])", r"\\\1", text) for text in texts) + " |"

    lines = [line(["Specificity", *(f"{name} ({what})" for name, what in table.heads)])]
    lines += ["|---|" + "---:|" * len(table.heads), *(line([name, *texts]) for name, texts in table.rows)]
    return "\n" + "\n".join(lines) + "\n" + "".join(f"\n- {remark}" for remark in table.remarks) + "\n"


def _head(name: str, task: TaskScore) -> tuple[str, str]:
    return name, ", ".join(filter(None, (task.metric, task.split)))


def _text(task: TaskScore) -> str:
    error = f" ± {100 * task.standard_error:.1f}" if task.standard_error is not None else ""
    return f"{100 * task.value:.1f}{error}"


def _remarks(run: Run) -> list[str]:
    told: Any = run.specificity
    remarks = [f"{name}: no figure: {reason}" for name, reason in told.missing.items()]
    remarks += [f"{stand_in} stands for {name}" for name, stand_in in told.replaced.items()]
    remarks += [f"the first {told.limit} items of each alone"] if told.limit else []
    return [f"{run.title}, {remark}" for remark in remarks]
