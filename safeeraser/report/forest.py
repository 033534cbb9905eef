"""Forest plots: a row a method or condition, its figures as points with their intervals on one axis from 0 to 100.

Drawn as SVG whose places are per cent of its width and whose letters are not: it fits a phone and a wide screen alike,
and what is written stays legible on both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from safeeraser.benchmark.metrics import COLUMNS, METRICS, Figure
from safeeraser.report.drawing import slug
from safeeraser.report.ranking import Ranking, measures
from safeeraser.report.scale import shade
from safeeraser.report.tables import Line as Row

AXIS, NAME, LANE, GAP = 20, 16, 12, 6  # heights in pixels: of the axis, a row's name, a figure's lane, between rows
_LONGEST = 27  # letters of a name, so that a phone has room for it
SHAPES = {
    "circle": "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",
    "square": "M-4.5-4.5h9v9h-9z",
    "diamond": "M0-6.2 6.2 0 0 6.2-6.2 0z",
}


class Mark(NamedTuple):
    """A figure in a row.

    Attributes:
        lane: how far down in the row.
        better: `lower` or `higher`, which its colour goes by; empty: a hollow mark, for comparison.
        seeds: of the figure, each a small mark.
    """

    lane: int
    figure: Figure
    better: str = ""
    seeds: tuple[Figure, ...] = ()

    @property
    def shape(self) -> str:
        """What is drawn, about its middle."""
        return list(SHAPES.values())[self.lane]

    @property
    def fill(self) -> str:
        """Its colour."""
        told = shade(self.figure, self.better) if self.better else None
        return told.paper if told else "none"


class Line(NamedTuple):
    """A row: its name, its figures in short, and its marks, those left out that stand for nothing measured."""

    name: str
    text: str
    marks: list[Mark]
    published: bool = False


@dataclass(frozen=True)
class Forest:
    """A forest plot, named for its file, with its caption, and what it shows in words, for those who cannot see it."""

    name: str
    caption: str
    description: str
    lines: list[Line]
    lanes: int

    @property
    def slug(self) -> str:
        """The name with nothing in it that a file's name could not hold."""
        return slug(self.name)

    @property
    def drawn(self) -> bool:
        """Whether there is anything to see."""
        return any(line.marks for line in self.lines)

    @property
    def height(self) -> int:
        """Of all rows, in pixels."""
        return AXIS + len(self.lines) * self.row

    @property
    def row(self) -> int:
        """The height of a row."""
        return NAME + self.lanes * LANE + GAP


def methods_forest(ranking: Ranking) -> Forest:
    """The methods by what is measured of forgetting, of over-forgetting and of use, then what was published."""
    columns = measures(ranking.utility)
    lines = [_line(row, columns) for row in ranking.rows]
    lines += [_line(row, columns, published=True) for row in ranking.published]
    told = "; ".join(f"{line.name}{' (published)' * line.published}: {_told(line, columns)}" for line in lines)
    return Forest("forest", ranking.rule, f"Forest plot, per cent with 95% intervals. {told}.", lines, len(columns))


def audit_forest(name: str, title: str, conditions: Sequence[tuple[str, Figure, Figure | None]]) -> Forest:
    """ASR in each condition, (what was done, the run's figure, the untouched model's where that was measured)."""
    lines = []
    for done, own, untouched in conditions:
        known = [(own, "lower"), (untouched, "")]
        marks = [Mark(0, figure, better) for figure, better in known if figure and figure.per_cent[0] is not None]
        lines.append(Line(done, own.text, marks))
    told = "; ".join(f"{line.name}: {', untouched '.join(said(mark.figure) for mark in line.marks)}" for line in lines)
    caption = "ASR, per cent, with 95% intervals; hollow: the untouched model's."
    return Forest(f"robustness_{name}", caption, f"ASR of {title}, per cent. {told}.", lines, 1)


def _line(row: Row, columns: list[str], *, published: bool = False) -> Line:
    marks = []
    for lane, key in enumerate(columns):
        figure = row.measured(key)
        if figure.per_cent[0] is not None:
            better = "" if published else METRICS[COLUMNS[key].metric].better
            seeds = tuple(seed.measured(key) for seed in row.seeds)
            marks.append(Mark(lane, figure, better, tuple(one for one in seeds if one.per_cent[0] is not None)))
    return Line(
        row.label, " · ".join("–" if f.withheld else f.text for f in map(row.measured, columns)), marks, published
    )


def _told(line: Line, columns: list[str]) -> str:
    return ", ".join(f"{METRICS[COLUMNS[columns[mark.lane]].metric].title} {said(mark.figure)}" for mark in line.marks)


def said(figure: Figure) -> str:
    """A figure in words: `10.0 (5.0 to 15.0)`."""
    value, low, high = figure.per_cent
    return f"{value:.1f}" + (f" ({low:.1f} to {high:.1f})" if figure.range else "")


def shortened(name: str) -> str:
    """A name of which a phone shows all."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
