"""The paper's table: what a cell holds, and the forms in which the table leaves the report: Markdown, CSV, LaTeX.

Values are per cent throughout, so that the same number stands on the page, in the paper and in the spreadsheet.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

# The columns: key -> title.
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
class Cell:
    """A figure in per cent with its 95% interval and the calls it lacks; `value` is None where nothing is shown."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    failed: int = 0
    unparsed: int = 0
    skipped: int = 0
    withheld: str = ""

    @property
    def text(self) -> str:
        """The figure: one decimal, a dash where nothing was measured, `withheld` where too much of it failed."""
        if self.value is None:
            return "withheld" if self.withheld else "–"
        return f"{self.value:.1f}"

    @property
    def range(self) -> str:
        """The interval, empty where there is none."""
        if self.value is None or self.low is None or self.high is None:
            return ""
        return f"{self.low:.1f}–{self.high:.1f}"

    @property
    def remarks(self) -> list[str]:
        """What a reader must know beside the figure: why it is withheld, which replies or responses it lacks."""
        if self.withheld:
            return [self.withheld]
        counts = {"failed": self.failed, "unparsed": self.unparsed, "skipped": self.skipped}
        return [f"{count} {name}" for name, count in counts.items() if count]


@dataclass(frozen=True)
class Row:
    """A line of the table: a cell for each column of `COLUMNS`."""

    name: str
    cells: dict[str, Cell]


def published_rows() -> tuple[list[Row], str]:
    """The published figures as rows of the same table, and where they come from."""
    value = json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))
    rows = []
    for row in value["rows"]:
        figures = dict(zip(value["columns"], row["values"], strict=True))
        rows.append(Row(row["name"], {key: Cell(figures[key]) for key in COLUMNS}))
    return rows, value["source"]


def remarks(rows: list[Row], columns: dict[str, str] = COLUMNS) -> Iterator[str]:
    """The cells' remarks as lines under a table, for the forms whose cells have no room for them."""
    for row in rows:
        for key, title in columns.items():
            told = ["withheld"] * bool(row.cells[key].withheld) + row.cells[key].remarks
            if told:
                yield f"{row.name}, {title.rstrip(' ↓↑')}: {', '.join(told)}"


def markdown(rows: list[Row], published: list[Row], note: str = "") -> str:
    """The table for a README or an issue, its intervals in brackets."""
    marked = [replace(row, name=f"{row.name} (published)") for row in published]
    lines = markdown_lines("", COLUMNS, rows + marked)
    under = [f"- {text}" for text in remarks(rows)]
    told = "Per cent; in brackets 95% intervals." if _any_range(rows) else "Per cent."
    return "\n\n".join(filter(None, ["\n".join(lines), told, note, "\n".join(under)])) + "\n"


def markdown_lines(corner: str, columns: dict[str, str], rows: list[Row]) -> list[str]:
    """Any table of rows, line by line."""

    def line(name: str, texts: Iterable[str]) -> str:
        return "| " + " | ".join([re.sub(r"([\\|`*_<\[\]])", r"\\\1", name), *texts]) + " |"

    lines = [line(corner, columns.values()), "|---|" + "---:|" * len(columns)]
    for row in rows:
        cells = (row.cells[key] for key in columns)
        lines.append(line(row.name, (cell.text + (f" [{cell.range}]" if cell.range else "") for cell in cells)))
    return lines


def comma_separated(rows: list[Row]) -> str:
    """One row a run with value, low and high of each column, in per cent; empty where nothing is known."""
    text = io.StringIO()
    write = csv.writer(text, lineterminator="\n").writerow
    write(["method", *(f"{key}_{part}" for key in COLUMNS for part in ("value", "low", "high"))])
    for row in rows:
        cells = (row.cells[key] for key in COLUMNS)
        parts = (part for cell in cells for part in (cell.value, cell.low, cell.high))
        write([row.name, *("" if part is None else f"{part:.6g}" for part in parts)])
    return text.getvalue()


def latex(rows: list[Row], published: list[Row], note: str = "") -> str:
    """The table for a paper, for booktabs: under the figures of a run its intervals, in small print."""
    lines = [f"% {text}" for text in (r"needs \usepackage{booktabs}", *note.splitlines(), *remarks(rows))]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(COLUMNS)}}}", r"\toprule"]
    lines += [_latex_line("method", list(COLUMNS.values())), r"\midrule"]
    lines += [line for row in rows for line in _latex_row(row)]
    if published:
        lines += [r"\midrule", rf"\multicolumn{{{len(COLUMNS) + 1}}}{{l}}{{\emph{{published}}}} \\"]
        lines += [line for row in published for line in _latex_row(row)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _latex_row(row: Row) -> Iterator[str]:
    cells = [row.cells[key] for key in COLUMNS]
    yield _latex_line(row.name, [cell.text for cell in cells])
    if _any_range([row]):
        small = [rf"{{\scriptsize {escape_latex(cell.range)}}}" if cell.range else "" for cell in cells]
        yield " & ".join(["", *small]).strip() + r" \\"


def _latex_line(name: str, texts: list[str]) -> str:
    return " & ".join(map(escape_latex, [name, *texts])) + r" \\"


def escape_latex(text: str) -> str:
    """The text as LaTeX prints it, whatever signs a run's name holds."""
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _any_range(rows: list[Row]) -> bool:
    return any(cell.range for row in rows for cell in row.cells.values())
