"""Tables of figures, and the forms in which the report is written: templates, Markdown, CSV, LaTeX, the terminal's.

All write per cent, so that the same number is on the page, in the paper and in the spreadsheet.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.colors import to_hex
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table as TerminalTable

from safeeraser import __version__
from safeeraser.benchmark.figures import NOTHING, Row
from safeeraser.benchmark.metrics import COLUMNS, METRICS, Figure

# Looks the same to the colour-blind, and brightens evenly in grey: worse is brighter.
_SCALE = mpl.colormaps["cividis"]
_MIDDLE = 0.468  # a colour that stands out from black as much as from white
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


@dataclass(frozen=True)
class Line:
    """A line of a table: the figures that are known, by column. It may have more than the table shows.

    Of the mean of several seeds, `seeds` has the lines. What was `published` is under what was measured here.
    """

    name: str
    cells: dict[Any, Row]
    seeds: tuple["Line", ...] = ()
    published: bool = False

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
        better: whether `lower` or `higher` figures are, where all of them are coloured by that.
    """

    key: str
    title: str
    caption: str
    columns: Mapping[Any, str]
    rows: list[Line]
    corner: str = "method"
    remarks: list[str] = field(default_factory=list)
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
    """A line for each value that the rows have in one of their columns; in it each row goes by its other columns."""
    lines: dict[Any, Line] = {}
    for row in rows:
        name = getattr(row, line)
        lines.setdefault(name, Line(name if isinstance(name, str) else f"{name:g}", {}))
        lines[name].cells[attrgetter(*columns)(row)] = row
    return list(lines.values())


def escape_latex(text: str) -> str:
    """The text as LaTeX prints it, whatever signs a run's name holds."""
    return "".join(_LATEX.get(sign, sign) for sign in text)


def escape_markdown(text: str) -> str:
    """The text as a Markdown table shows it."""
    return re.sub(r"([\\|`*_<\[\]])", r"\\\1", text)


def as_markdown(rows: Iterable[Iterable[str]]) -> str:
    """Rows as a Markdown table, the first as its head."""
    head, *others = (list(row) for row in rows)
    return "\n".join(f"| {' | '.join(row).lstrip()} |" for row in [head, ["---"] * len(head), *others])


def with_table(text: str, table: str) -> str | None:
    """A Markdown text with this table in place of the one with the same corner, or if that is empty the same columns.

    None if it has none.
    """
    head = table.splitlines()[0]
    corner = head.split("|")[1].strip()
    same = rf"\| {re.escape(corner)} \|.*" if corner else re.escape(head)
    place = re.compile(rf"^{same}\n(\|.*\n?)+", re.MULTILINE)
    return place.sub(lambda _: f"{table}\n", text, count=1) if place.search(text) else None


def comma_separated(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """The text of a CSV file; None becomes an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    for row in rows:
        writer.writerow(f"{entry:.6g}" if isinstance(entry, float) else entry for entry in row)
    return text.getvalue()


def show(table: Table) -> None:
    """Print the table, its remarks under it; the published figures, if any, are under a line.

    A column in which nothing is said of any row is left out: a terminal is narrow.
    """
    filled = [key for key in table.columns if any(row.cell(key).text != NOTHING.text for row in table.rows)]
    table = replace(table, columns={key: table.columns[key] for key in filled or table.columns})
    # Headings break into short lines, so that the table fits a terminal of 80 columns.
    shown = TerminalTable(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column(table.corner, no_wrap=True)
    for head in table.heads:
        shown.add_column(head.replace("-", " "), justify="right", min_width=5)
    for published, rows in groupby(table.rows, attrgetter("published")):
        if published:
            shown.add_section()
            shown.add_row("published:")
        for row in rows:
            # "withheld" would widen a column; the reason is below the table.
            shown.add_row(escape(row.label), *("–" if cell.withheld else cell.text for cell in table.line(row)))
    console = Console()
    console.print(shown)
    for line in table.notes:
        console.print(escape(line))


class Shade(NamedTuple):
    """A colour, and black or white: whichever stands out more on it, by 4.5 to 1."""

    paper: str
    ink: str


def shade(figure: Figure, better: str) -> Shade | None:
    """The colour of a figure that is not withheld, by how good it is; `better`: whether `lower` or `higher` is."""
    if figure.value is None or figure.withheld:
        return None
    worse = figure.value if better == "lower" else 1 - figure.value
    return Shade(to_hex(_SCALE(worse)), "#000" if worse > _MIDDLE else "#fff")


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=StrictUndefined,
    autoescape=lambda name: name is not None and ".html" in name,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
# The legend has the colours from better to worse as a CSS gradient.
TEMPLATES.globals["scale"] = f"linear-gradient(to right, {', '.join(to_hex(_SCALE(step / 8)) for step in range(9))})"
TEMPLATES.globals |= {"columns": COLUMNS, "metrics": METRICS, "version": __version__}
TEMPLATES.filters |= {"svg": lambda plot: Markup(plot.svg()), "shade": shade}
TEMPLATES.filters |= {"short_commit": lambda commit: re.sub(r"^(\w{12})\w*", r"\1", commit)}
TEMPLATES.filters |= {"latex": escape_latex, "escape_markdown": escape_markdown, "json": json.dumps}
