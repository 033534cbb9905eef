"""The runs' results as tables: the paper's and what was published, blank responses, and Specificity by benchmark."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from safeeraser.benchmark.files import read_json
from safeeraser.benchmark.metrics import COLUMNS, METRICS, Figure
from safeeraser.benchmark.responses import VIEWS
from safeeraser.report.provenance import agreements, corrected
from safeeraser.report.runs import Run
from safeeraser.report.seeds import Method
from safeeraser.report.tables import Row, Table, Told

_OF_RESPONSES = "Per cent of the responses that are there, by view, on all_val but for the first column."
_TITLES = {key: column.title for key, column in COLUMNS.items()}


def method_row(method: Method) -> Row:
    """A method's figures, rates corrected for the judge's errors beside those of the judge; and its seeds' likewise."""
    rows = [Row(run.title, _with_corrected(run)) for run in (method.run, *method.seeds)]
    return replace(rows[0], seeds=tuple(rows[1:])) if len(method.seeds) > 1 else rows[0]


def _with_corrected(run: Run) -> dict[str, Figure]:
    beside = corrected(run)
    return {
        key: Told(**figure.model_dump(exclude={"beside"}), beside=beside[key]) if key in beside else figure
        for key, figure in run.figures.items()
    }


def paper_table(rows: list[Row], found: list[Method], published: list[Row]) -> Table:
    """The paper's table of the methods."""
    caption = (
        "Per cent, with 95% intervals where known. Efficacy on the training questions, all else on all_val. "
        "↓: lower is better. –: not measured."
    )
    remarks = []
    if any(row.seeds for row in rows):
        remarks.append("Of several seeds: their mean, with an interval over seeds and pictures")
    runs = [run for method in found for run in method.seeds]
    if told := [line for run in runs for line in agreements(run, labelled=True)]:
        remarks.append(f"†: corrected for the judge's errors, as labelled responses show them ({'; '.join(told)})")
    if told := [line for run in runs for line in agreements(run, labelled=False)]:
        remarks.append(f"Two judges on the same responses, neither of which is the truth ({'; '.join(told)})")
    return Table("runs", "Results", caption, _TITLES, rows, remarks=remarks, published=published)


def seeds_table(rows: list[Row]) -> Table | None:
    """The seeds of each row that stands for several, a line each; None where no row does."""
    seeds = [seed for row in rows for seed in row.seeds]
    return Table("seeds", "Each seed", "Per cent, with 95% intervals over pictures.", _TITLES, seeds) if seeds else None


def published_table() -> Table:
    """The published figures in the same columns."""
    told = read_json(Path(__file__).parent / "published.json")
    rows = []
    for row in told["rows"]:
        figures = zip(told["columns"], row["values"], strict=True)
        rows.append(Row(row["name"], {key: Figure(value=number / 100) for key, number in figures}))
    caption = f"Per cent, on the full benchmark with GPT-4o as the judge. Source: {told['source']}."
    return Table("published", "Published figures", caption, _TITLES, rows)


def blank_table(rows: list[Row]) -> Table:
    """The share of blank responses by view: those that the metrics are measured on, and others that some run has.

    Blank responses are no refusals, so ASR and RR together do not tell how many there are.
    """
    measured = [metric.view for metric in METRICS.values() if metric.view]
    views = dict.fromkeys(measured + [view for view in VIEWS if any(f"blank_{view}" in row.cells for row in rows)])
    titles = {"blank_forget_eff": "forget, train"} | {f"blank_{view}": view.replace("_", " ") for view in views}
    return Table("blank", "Blank responses, %", f"{_OF_RESPONSES} –: the summary does not tell.", titles, rows)


def wrong_table(rows: list[Row]) -> Table:
    """The share of responses that are neither the right answer nor a refusal, as far as a judge knew the answer."""
    views = [view for view in VIEWS if any(f"wrong_{view}" in row.cells for row in rows)]
    titles = {"wrong_forget_eff": "forget, train"} | {f"wrong_{view}": view.replace("_", " ") for view in views}
    caption = f"Neither the right answer nor a refusal. {_OF_RESPONSES} –: the judge did not know the answers."
    return Table("wrong", "Wrong responses, %", caption, titles, rows)


def task_table(runs: Sequence[Run]) -> Table | None:
    """A line a run, a column a benchmark; two figures or splits of a benchmark are two columns.

    None if no run's Specificity is made of benchmarks.
    """
    measured = [(run.title, of) for run in runs if (of := run.specificity) and (of.tasks or of.missing)]
    if not measured:
        return None
    rows, remarks = [], []
    for title, specificity in measured:
        cells: dict[str, Figure] = {}
        for name, task in specificity.tasks.items():
            head = f"{name}\n{', '.join(filter(None, (task.metric, task.split)))}"
            error = "" if task.standard_error is None else f" ± {100 * task.standard_error:.1f}"
            cells[head] = Told(value=task.value, instead=f"{100 * task.value:.1f}{error}")
        rows.append(Row(title, cells))
        said = [f"{name}: no figure: {reason}" for name, reason in specificity.missing.items()]
        said += [f"{stand_in} stands for {name}" for name, stand_in in specificity.replaced.items()]
        said += [f"the first {specificity.limit} items of each alone"] if specificity.limit else []
        remarks += [f"{title}, {remark}" for remark in said]
    heads = {head: head for row in rows for head in row.cells}
    caption = "Per cent ± standard error where known. Spec above is the mean of a run's line."
    return Table("benchmarks", "Specificity by benchmark", caption, heads, rows, remarks=remarks)
