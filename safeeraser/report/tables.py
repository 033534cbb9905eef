"""Tables of figures: the lines of the runs' methods under the columns of the paper's table, and what stands with it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from safeeraser.benchmark.figures import NOTHING, Row, find, pick
from safeeraser.benchmark.files import read_json
from safeeraser.benchmark.metrics import COLUMNS, METRICS
from safeeraser.benchmark.records import CATEGORIES
from safeeraser.benchmark.responses import VIEWS
from safeeraser.report.methods import Method
from safeeraser.report.read import Run, columns_by_view
from safeeraser.report.sources import agreements

RATES = [key for key, metric in METRICS.items() if metric.asked and metric.rate]  # those that a judge decides
TITLES = {key: column.title for key, column in COLUMNS.items()}
BY_VIEW = {  # a metric that is measured in every view: its table's title, what it is, and why it may not be there
    "blank": ("Blank responses, %", "", "the summary does not tell"),
    "wrong": ("Wrong responses, %", "Neither the right answer nor a refusal. ", "the judge did not know the answers"),
}


@dataclass(frozen=True)
class Line:
    """A line of a table: the figures that are known, by column. It may have more than the table shows.

    Of the mean of several seeds, `seeds` has the lines.
    """

    name: str
    cells: dict[Any, Row]
    seeds: tuple["Line", ...] = ()

    @property
    def label(self) -> str:
        """The name, with how many seeds it stands for, where there are several."""
        return f"{self.name} ({len(self.seeds)} seeds)" if self.seeds else self.name

    def cell(self, key: Any) -> Row:
        """The figure of a column."""
        return self.cells.get(key, NOTHING)

    def measured(self, key: str) -> Row:
        """The figure of a column; ASR on held-out questions, or else on the training ones."""
        held_out = self.cell(key)
        missing = held_out.value is None and not held_out.withheld
        return self.cell("asr_eff") if key == "asr_gen" and missing else held_out


@dataclass(frozen=True)
class Table:
    """A table of figures.

    Attributes:
        key: its own among the tables that are shown together.
        caption: what the figures are, and what they are measured on.
        columns: key -> title; a second line of it says more in small print.
        corner: what the lines are.
        remarks: what a reader must know beside the remarks of the figures themselves.
        published: published figures, to stand under the lines.
        better: whether `lower` or `higher` figures are, where all of them are coloured by that.
    """

    key: str
    title: str
    caption: str
    columns: Mapping[Any, str]
    rows: list[Line]
    corner: str = "method"
    remarks: list[str] = field(default_factory=list)
    published: list[Line] = field(default_factory=list)
    better: str = ""

    def line(self, row: Line) -> list[Row]:
        """The line's figures, one a column."""
        return [row.cell(key) for key in self.columns]

    @property
    def heads(self) -> list[str]:
        """The columns' titles, each in one line."""
        return [re.sub(r"\n(.*)", r" (\1)", title) for title in self.columns.values()]

    @property
    def notes(self) -> list[str]:
        """All remarks, for the forms whose cells have no room for them."""
        notes = []
        for row in self.rows:
            for head, cell in zip(self.heads, self.line(row), strict=True):
                remarks = ["withheld"] * bool(cell.withheld) + cell.remarks
                notes += [f"{row.name}, {head.rstrip(' ↓↑')}: {', '.join(remarks)}"] if remarks else []
        return notes + self.remarks


def pivot(rows: Iterable[Row], line: str, *columns: str) -> list[Line]:
    """A line for each value that the rows have in one of their columns; in it each row stands by its other columns."""
    lines: dict[Any, Line] = {}
    for row in rows:
        name = getattr(row, line)
        lines.setdefault(name, Line(name if isinstance(name, str) else f"{name:g}", {}))
        lines[name].cells[attrgetter(*columns)(row)] = row
    return list(lines.values())


def method_line(method: Method) -> Line:
    """A method's figures, and its seeds'."""
    lines = [Line(run.title, _with_corrected(run)) for run in (method.run, *method.seeds)]
    return replace(lines[0], seeds=tuple(lines[1:])) if len(method.seeds) > 1 else lines[0]


def _with_corrected(run: Run) -> dict[str, Row]:
    """The run's figures; beside a rate what labels make of it, where there are any."""
    cells = dict(run.figures)
    for key, column in COLUMNS.items():
        corrected = find(run.rows, metric=column.metric, split=column.split, relative="labels")
        if corrected.value is not None and key in cells:
            between = f" ({corrected.range})" if corrected.range else ""
            cells[key] = cells[key].model_copy(update={"note": f"† {corrected.text}{between}"})
    return cells


def paper_table(lines: list[Line], runs: list[Run], published: list[Line]) -> Table:
    """The paper's table of the methods; `runs`: all of theirs."""
    caption = (
        "Per cent, with 95% intervals where known. Efficacy on the training questions, all else on all_val. "
        "↓: lower is better. –: not measured."
    )
    remarks = []
    if any(line.seeds for line in lines):
        remarks.append("Of several seeds: their mean, with an interval over seeds and pictures")
    if notes := [note for run in runs for note in agreements(run, labelled=True)]:
        remarks.append(f"†: corrected for the judge's errors, as labelled responses show them ({'; '.join(notes)})")
    if notes := [note for run in runs for note in agreements(run, labelled=False)]:
        remarks.append(f"Two judges on the same responses, neither of which is the truth ({'; '.join(notes)})")
    return Table("runs", "Results", caption, TITLES, lines, remarks=remarks, published=published)


def seeds_table(lines: list[Line]) -> Table | None:
    """The seeds of each line that stands for several, a line each; None where no line does."""
    seeds = [seed for line in lines for seed in line.seeds]
    return Table("seeds", "Each seed", "Per cent, with 95% intervals over pictures.", TITLES, seeds) if seeds else None


def published_table() -> Table:
    """The published figures in the same columns."""
    file = read_json(Path(__file__).parent / "published.json")
    lines = []
    for row in file["rows"]:
        figures = zip(file["columns"], row["values"], strict=True)
        lines.append(Line(row["name"], {key: Row(metric=key, value=number / 100) for key, number in figures}))
    caption = f"Per cent, on the full benchmark with GPT-4o as the judge. Source: {file['source']}."
    return Table("published", "Published figures", caption, TITLES, lines)


def view_table(metric: str, lines: list[Line]) -> Table:
    """A metric that is measured in every view: in the views of the paper's metrics, and in others that some run has.

    Blank responses are no refusals, so ASR and RR together do not tell how many there are.
    """
    title, what, absent = BY_VIEW[metric]
    usual = [one.view for one in METRICS.values() if one.view] if metric == "blank" else []
    columns = columns_by_view(metric)
    known = {key for line in lines for key in line.cells}
    views = dict.fromkeys([*usual, *VIEWS])
    keys = [f"{metric}_forget_eff", *(key for view in views for key, one in columns.items() if one.view == view)]
    keys = [
        key
        for key in dict.fromkeys(keys)
        if key in known or columns[key].view in usual or columns[key].split == "train"
    ]
    caption = (
        f"{what}Per cent of the responses that are there, by view, on all_val but for the first column. –: {absent}."
    )
    return Table(metric, title, caption, {key: columns[key].title for key in keys}, lines)


def task_table(runs: Sequence[Run]) -> Table | None:
    """A line a run, a column a benchmark; two figures or splits of a benchmark are two columns.

    None if no run's Specificity is made of benchmarks.
    """
    measured = [(run.title, of) for run in runs if (of := run.specificity) and (of.tasks or of.missing)]
    if not measured:
        return None
    lines, remarks = [], []
    for title, specificity in measured:
        cells: dict[str, Row] = {}
        for name, task in specificity.tasks.items():
            head = f"{name}\n{', '.join(filter(None, (task.metric, task.split)))}"
            error = "" if task.standard_error is None else f" ± {100 * task.standard_error:.1f}"
            cells[head] = Row(metric=name, value=task.value, text_instead=f"{100 * task.value:.1f}{error}")
        lines.append(Line(title, cells))
        said = [f"{name}: no figure: {reason}" for name, reason in specificity.missing.items()]
        said += [f"{stand_in} stands for {name}" for name, stand_in in specificity.replaced.items()]
        said += [f"the first {specificity.limit} items of each alone"] if specificity.limit else []
        remarks += [f"{title}, {remark}" for remark in said]
    heads = {head: head for line in lines for head in line.cells}
    caption = "Per cent ± standard error where known. Spec above is the mean of a run's line."
    return Table("benchmarks", "Specificity by benchmark", caption, heads, lines, remarks=remarks)


def heat_maps(runs: list[Run], by: str) -> list[Table]:
    """A map for each rate that some run has by `category` or by `keyword` on val, each figure on its colour.

    Runs go down the page; but a benchmark has many keywords and few runs, so keywords do.
    """
    maps = []
    for metric in RATES:
        cells = {
            run.title: {row.group: row for row in pick(run.rows, metric=metric, split="val", by=by)} for run in runs
        }
        lines = [Line(title, groups) for title, groups in cells.items() if groups]
        columns = sorted(set().union(*(line.cells for line in lines)), key=lambda name: (name not in CATEGORIES, name))
        if by == "keyword":
            turned = [Line(key, {line.name: line.cells[key] for line in lines if key in line.cells}) for key in columns]
            lines, columns = turned, [line.name for line in lines]
        if lines:
            corner = by if by == "keyword" else "method"
            heads = {column: column for column in columns}
            title, better = f"{METRICS[metric].title} {METRICS[metric].arrow}", METRICS[metric].better
            maps.append(Table(f"{by}-{metric}", title, f"By {by}, per cent.", heads, lines, corner, better=better))
    return maps
