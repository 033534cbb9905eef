"""Tables of figures, as every form of the report shows them (safeeraser.report.writing)."""

import re
from dataclasses import dataclass, field

from safeeraser.benchmark.metrics import METRICS, UNKNOWN, Figure

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
    """A line of a table: the figures that are known, by column. It may have more than the table shows.

    Of the mean of several seeds, `seeds` has the lines.
    """

    name: str
    cells: dict[str, Figure]
    seeds: tuple["Row", ...] = ()

    @property
    def label(self) -> str:
        """The name, with how many seeds it stands for, where there are several."""
        return f"{self.name} ({len(self.seeds)} seeds)" if self.seeds else self.name

    def cell(self, key: str) -> Figure:
        """The figure of a column."""
        return self.cells.get(key, UNKNOWN)

    def measured(self, key: str) -> Figure:
        """The figure of a column; ASR on unseen questions, or else on the training ones."""
        unseen = self.cell(key)
        return self.cell("asr_eff") if key == "asr_gen" and unseen.value is None and not unseen.withheld else unseen


@dataclass(frozen=True)
class Table:
    """A table of figures.

    Attributes:
        key: its own among the tables that are shown together.
        caption: what the figures are, and what they are measured on.
        columns: key -> title; a second line of it says more in small print.
        corner: what the rows are.
        remarks: what a reader must know beside the remarks of the figures themselves.
        published: published figures, to stand under the rows.
        better: whether `lower` or `higher` figures are, where all of them are coloured by that.
    """

    key: str
    title: str
    caption: str
    columns: dict[str, str]
    rows: list[Row]
    corner: str = "method"
    remarks: list[str] = field(default_factory=list)
    published: list[Row] = field(default_factory=list)
    better: str = ""

    def line(self, row: Row) -> list[Figure]:
        """The row's figures, one a column."""
        return [row.cell(key) for key in self.columns]

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
