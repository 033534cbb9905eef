"""Tables of figures, and the forms in which they leave the report: Markdown, CSV, LaTeX, and a terminal's.

All write per cent, so that the same number stands on the page, in the paper and in the spreadsheet.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table as TerminalTable

from safeeraser.benchmark.metrics import METRICS, UNKNOWN, Figure

_LATEX = {
    **{sign: "\\" + sign for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "–": "--",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
}
RATES = [key for key, metric in METRICS.items() if metric.asked and metric.rate]  # those that a judge decides


class Told(Figure):
    """A figure that says something in place of its value, or beside it."""

    value: float | None = None
    instead: str = ""
    beside: str = ""

    @property
    def text(self) -> str:
        return self.instead or super().text

    @property
    def remarks(self) -> list[str]:
        return [*filter(None, [self.beside]), *super().remarks]


@dataclass(frozen=True)
class Row:
    """A line of a table: its figures by column, those that are known."""

    name: str
    cells: dict[str, Figure]


@dataclass(frozen=True)
class Table:
    """A table of figures.

    Attributes:
        key: its own among the tables that are shown together.
        caption: what the figures are, and what they are measured on.
        columns: key -> title; a second line of it says more in small print.
        corner: what the rows are.
        remarks: what a reader must know beside the remarks of the figures themselves.
    """

    key: str
    title: str
    caption: str
    columns: dict[str, str]
    rows: list[Row]
    corner: str = "method"
    remarks: list[str] = field(default_factory=list)

    def line(self, row: Row) -> list[Figure]:
        """The row's figures, one a column."""
        return [row.cells.get(key, UNKNOWN) for key in self.columns]

    @property
    def heads(self) -> list[str]:
        """The columns' titles, each in one line."""
        return [re.sub(r"\n(.*)", r" (\1)", title) for title in self.columns.values()]

    @property
    def notes(self) -> list[str]:
        """All remarks, for the forms whose cells have no room for them."""
        told = []
        for row in self.rows:
            for head, cell in zip(self.heads, self.line(row), strict=True):
                said = ["withheld"] * bool(cell.withheld) + cell.remarks
                told += [f"{row.name}, {head.rstrip(' ↓↑')}: {', '.join(said)}"] if said else []
        return told + self.remarks


def markdown(table: Table, published: Sequence[Row] = ()) -> str:
    """The table for a README or an issue: intervals in brackets, under it its caption and all remarks."""

    def line(texts: Iterable[str]) -> str:
        return "| " + " | ".join(texts) + " |"

    def cells(row: Row) -> Iterator[str]:
        yield _escape_markdown(row.name)
        for cell in table.line(row):
            yield cell.text + (f" [{cell.range}]" if cell.range else "")

    marked = [replace(row, name=f"{row.name} (published)") for row in published]
    lines = [line(map(_escape_markdown, [table.corner, *table.heads])), "|---|" + "---:|" * len(table.columns)]
    lines += [line(cells(row)) for row in [*table.rows, *marked]]
    under = [f"- {text}" for text in table.notes]
    return "\n\n".join(filter(None, ["\n".join(lines), table.caption, "\n".join(under)]))


def comma_separated(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """The text of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return text.getvalue()


def in_csv(figure: Figure) -> list[str]:
    """Value, low and high as CSV files have them: in per cent, empty where nothing is known."""
    return ["" if part is None else f"{part:.6g}" for part in figure.per_cent]


def run_csv(tables: Sequence[Table]) -> str:
    """One row a run with value, low and high of each column of the tables, which are of the same runs."""
    columns = [key for table in tables for key in table.columns]
    rows = (
        [lines[0].name, *(part for table, row in zip(tables, lines, strict=True) for part in _parts(table, row))]
        for lines in zip(*(table.rows for table in tables), strict=True)
    )
    return comma_separated(["method", *(f"{key}_{part}" for key in columns for part in ("value", "low", "high"))], rows)


def _parts(table: Table, row: Row) -> Iterator[str]:
    for cell in table.line(row):
        yield from in_csv(cell)


def latex(tables: Sequence[Table], published: Sequence[Row], note: str = "") -> str:
    """The tables for a paper, for booktabs: under the figures of a run its intervals, in small print.

    The published rows stand in the first one.
    """
    notes = [text for table in tables for text in table.notes]
    lines = [f"% {text}" for text in (r"needs \usepackage{booktabs}", *note.splitlines(), *notes)]
    for number, table in enumerate(tables):
        lines += [f"% {table.title}"] * bool(number)
        lines += [rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}", r"\toprule"]
        lines += [_latex_line([table.corner, *table.heads]), r"\midrule"]
        lines += [line for row in table.rows for line in _latex_rows(table, row)]
        if published and not number:
            lines += [r"\midrule", rf"\multicolumn{{{len(table.columns) + 1}}}{{l}}{{\emph{{published}}}} \\"]
            lines += [line for row in published for line in _latex_rows(table, row)]
        lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def _latex_rows(table: Table, row: Row) -> Iterator[str]:
    cells = table.line(row)
    yield _latex_line([row.name, *(cell.text for cell in cells)])
    if any(cell.range for cell in cells):
        small = [rf"{{\scriptsize {escape_latex(cell.range)}}}" if cell.range else "" for cell in cells]
        yield " & ".join(["", *small]).strip() + r" \\"


def _latex_line(texts: Iterable[str]) -> str:
    return " & ".join(map(escape_latex, texts)) + r" \\"


def escape_latex(text: str) -> str:
    """The text as LaTeX prints it, whatever signs a run's name holds."""
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\|`*_<\[\]])", r"\\\1", text)


def show(table: Table, published: Sequence[Row] = ()) -> None:
    """Print the table, its remarks under it; the published figures, if any, stand under a line."""
    # Headings break into short lines, so that the table fits a terminal of 80 columns.
    shown = TerminalTable(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column(table.corner, no_wrap=True)
    for head in table.heads:
        shown.add_column(head.replace("-", " "), justify="right", min_width=5)

    def add(row: Row) -> None:
        # "withheld" would widen a column; why there is no figure stands below the table.
        shown.add_row(escape(row.name), *("–" if cell.withheld else cell.text for cell in table.line(row)))

    for row in table.rows:
        add(row)
    if published:
        shown.add_section()
        shown.add_row("published:")
    for row in published:
        add(row)
    console = Console()
    console.print(shown)
    for line in table.notes:
        console.print(escape(line))
