"""The benchmarks whose mean is Specificity, one by one."""

from collections.abc import Iterator, Sequence

from safeeraser.report.runs import Run, TaskScore
from safeeraser.report.tables import Row, Table, Told


def task_table(runs: Sequence[Run]) -> Table | None:
    """A line a run, a column a benchmark; two figures or splits of a benchmark are two columns.

    None if no run's Specificity is made of benchmarks.
    """
    measured = [run for run in runs if run.specificity and (run.specificity.tasks or run.specificity.missing)]
    if not measured:
        return None
    rows = [
        Row(run.title, {_head(name, task): _cell(task) for name, task in run.specificity.tasks.items()})
        for run in measured
    ]
    heads = dict.fromkeys(head for row in rows for head in row.cells)
    return Table(
        "benchmarks",
        "Specificity by benchmark",
        "Per cent ± standard error where known. Spec above is the mean of a run's line.",
        {head: head for head in heads},
        rows,
        remarks=[f"{run.title}, {remark}" for run in measured for remark in _remarks(run)],
    )


def _head(name: str, task: TaskScore) -> str:
    return f"{name}\n{', '.join(filter(None, (task.metric, task.split)))}"


def _cell(task: TaskScore) -> Told:
    error = f" ± {100 * task.standard_error:.1f}" if task.standard_error is not None else ""
    return Told(value=task.value, instead=f"{100 * task.value:.1f}{error}")


def _remarks(run: Run) -> Iterator[str]:
    told = run.specificity
    for name, reason in told.missing.items():
        yield f"{name}: no figure: {reason}"
    for name, stand_in in told.replaced.items():
        yield f"{stand_in} stands for {name}"
    if told.limit:
        yield f"the first {told.limit} items of each alone"
