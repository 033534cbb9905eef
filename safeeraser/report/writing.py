"""The forms in which the report is written: its templates, tables as Markdown, CSV and LaTeX, and the terminal's.

All write per cent, so that the same number stands on the page, in the paper and in the spreadsheet.
"""

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table as TerminalTable

from safeeraser.benchmark.figures import NOTHING
from safeeraser.benchmark.metrics import Figure
from safeeraser.report.drawing import shade
from safeeraser.report.tables import Table

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


def escape_latex(text: str) -> str:
    """The text as LaTeX prints it, whatever signs a run's name holds."""
    return "".join(_LATEX.get(sign, sign) for sign in text)


def escape_markdown(text: str) -> str:
    """The text as a Markdown table shows it."""
    return re.sub(r"([\\|`*_<\[\]])", r"\\\1", text)


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
    """The text of a CSV file; a figure becomes its value, low and high in per cent, empty where nothing is known."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    for row in rows:
        parts = chain.from_iterable(entry.per_cent if isinstance(entry, Figure) else [entry] for entry in row)
        writer.writerow(f"{part:.6g}" if isinstance(part, float) else part for part in parts)
    return text.getvalue()


def show(table: Table) -> None:
    """Print the table, its remarks under it; the published figures, if any, stand under a line.

    A column in which nothing is told of anybody is left out: a terminal is narrow.
    """
    rows = [*table.rows, *table.published]
    told = [key for key in table.columns if any(row.cell(key).text != NOTHING.text for row in rows)]
    table = replace(table, columns={key: table.columns[key] for key in told or table.columns})
    # Headings break into short lines, so that the table fits a terminal of 80 columns.
    shown = TerminalTable(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column(table.corner, no_wrap=True)
    for head in table.heads:
        shown.add_column(head.replace("-", " "), justify="right", min_width=5)
    for rows, title in ((table.rows, ""), (table.published, "published:")):
        if rows and title:
            shown.add_section()
            shown.add_row(title)
        for row in rows:
            # "withheld" would widen a column; why there is no figure stands below the table.
            shown.add_row(escape(row.label), *("–" if cell.withheld else cell.text for cell in table.line(row)))
    console = Console()
    console.print(shown)
    for line in table.notes:
        console.print(escape(line))


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=StrictUndefined,
    autoescape=lambda name: name is not None and ".html" in name,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
TEMPLATES.filters |= {"svg": lambda plot: Markup(plot.svg()), "shade": shade}
TEMPLATES.filters |= {"short_commit": lambda commit: re.sub(r"^(\w{12})\w*", r"\1", commit)}
TEMPLATES.filters |= {"latex": escape_latex, "escape_markdown": escape_markdown}


def macros(template: str) -> Any:
    """A template's macros, each a function that gives its text."""
    return TEMPLATES.get_template(template).module


def render(template: str, **context: Any) -> str:
    """The text that a template makes of what it is given."""
    return TEMPLATES.get_template(template).render(context)
