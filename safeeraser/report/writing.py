"""Tables of figures, and the formats of the report: templates, Markdown, CSV, LaTeX and the terminal's.

All formats show per cent, so that the page, the paper and the spreadsheet have the same number.
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

from safeeraser.benchmark.figures import NOTHING, Row
from safeeraser.benchmark.metrics import COLUMNS, METRICS, Figure
from safeeraser.benchmark.origin import VERSION

# This scale looks the same to colour-blind readers, and it brightens evenly in grey. Brighter is worse.
_SCALE = mpl.colormaps["cividis"]
_MIDDLE = 0.468  # the colour here contrasts with black as much as with white
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
    """A line of a table: the known figures by column, maybe more than the table shows.

    The line of a mean over seeds has a line for each seed in `seeds`. `published` lines come after measured ones.
    """

    name: str
    cells: dict[Any, Row]
    seeds: tuple["Line", ...] = ()
    published: bool = False

    @property
    def label(self) -> str:
        """The name, with the number of seeds if there are several."""
        return f"{self.name} ({len(self.seeds)} seeds)" if self.seeds else self.name

    def cell(self, key: Any) -> Row:
        """The figure of a column."""
        return self.cells.get(key, NOTHING)

    def measured(self, key: str) -> Row:
        """The figure of a column. If ASR on val (`asr_gen`) was not measured, it is ASR on train."""
        held_out = self.cell(key)
        missing = held_out.value is None and not held_out.withheld
        return self.cell("asr_eff") if key == "asr_gen" and missing else held_out


@dataclass(frozen=True)
class Table:
    """A table of figures.

    Attributes:
        key: unique among the tables that are shown together.
        caption: the meaning of the figures, and the data that they were measured on.
        columns: key -> title; a second line of a title is in small print.
        corner: the title of the first column, for the kind of the lines.
        remarks: the notes that a reader needs in addition to the figures' own remarks.
        better: whether `lower` or `higher` figures are better, if all figures are coloured by it.
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
        """The line's figures, one per column."""
        return [row.cell(key) for key in self.columns]

    @property
    def heads(self) -> list[str]:
        """The columns' titles, each in one line."""
        return [re.sub(r"\n(.*)", r" (\1)", title) for title in self.columns.values()]

    @property
    def notes(self) -> list[str]:
        """All remarks, for formats whose cells have no room for remarks."""
        notes = []
        for row in self.rows:
            for head, cell in zip(self.heads, self.line(row), strict=True):
                remarks = ["withheld"] * bool(cell.withheld) + cell.remarks
                notes += [f"{row.name}, {head.rstrip(' ↓↑')}: {', '.join(remarks)}"] if remarks else []
        return notes + self.remarks


def pivot(rows: Iterable[Row], line: str, *columns: str) -> list[Line]:
    """One line for each value of the rows' attribute `line`; its cells are the rows, by their attributes `columns`."""
    lines: dict[Any, Line] = {}
    for row in rows:
        name = getattr(row, line)
        lines.setdefault(name, Line(name if isinstance(name, str) else f"{name:g}", {}))
        lines[name].cells[attrgetter(*columns)(row)] = row
    return list(lines.values())


def escape_latex(text: str) -> str:
    """The text with the signs escaped that LaTeX would not print, since a run's name may hold any."""
    return "".join(_LATEX.get(sign, sign) for sign in text)


def escape_markdown(text: str) -> str:
    """The text escaped for a cell of a Markdown table."""
    return re.sub(r"([\\|`*_<\[\]])", r"\\\1", text)


def as_markdown(rows: Iterable[Iterable[str]]) -> str:
    """Rows as a Markdown table, the first as its head."""
    head, *others = (list(row) for row in rows)
    return "\n".join(f"| {' | '.join(row).lstrip()} |" for row in [head, ["---"] * len(head), *others])


def with_table(text: str, table: str) -> str | None:
    """The Markdown text with `table` in place of its table with the same corner (the same head if the corner is empty).

    None if the text has no such table.
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
    """Print the table and below it its remarks; published figures, if any, form a section of their own.

    Columns without any figure are left out, because a terminal is narrow.
    """
    filled = [key for key in table.columns if any(row.cell(key).text != NOTHING.text for row in table.rows)]
    table = replace(table, columns={key: table.columns[key] for key in filled or table.columns})
    # Headings may wrap, so that the table fits a terminal of 80 columns.
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
    """A background colour, and black or white for text on it: the one with more contrast, at least 4.5 to 1."""

    paper: str
    ink: str


def shade(figure: Figure, better: str) -> Shade | None:
    """The colour that shows how good a figure is, if it is known and not withheld; `better`: `lower` or `higher`."""
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
# The colours of the legend, from better to worse, as a CSS gradient.
TEMPLATES.globals["scale"] = f"linear-gradient(to right, {', '.join(to_hex(_SCALE(step / 8)) for step in range(9))})"
TEMPLATES.globals |= {"columns": COLUMNS, "metrics": METRICS, "version": VERSION}
TEMPLATES.filters |= {"svg": lambda plot: Markup(plot.svg()), "shade": shade}
TEMPLATES.filters |= {"short_commit": lambda commit: re.sub(r"^(\w{12})\w*", r"\1", commit)}
TEMPLATES.filters |= {"latex": escape_latex, "escape_markdown": escape_markdown, "json": json.dumps}
