"""Forgetting against what it costs: a point a run, its 95% intervals, and an arrow from a method to its PD variant."""

from itertools import product
from textwrap import fill
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.transforms import Bbox

from safeeraser.benchmark.metrics import COLUMNS, METRICS, Figure
from safeeraser.report.drawing import COLOURS, SIZE, STYLE, Plot
from safeeraser.report.tables import Row

_OWN, _PUBLISHED = COLOURS[:2]
_NEAR = 4  # per cent: points closer than this share one label, and no arrow is drawn between them
_PLACE = (0.12, 0.135, 0.865, 0.78)  # of the axes in the figure: left, bottom, width, height
_WIDEST = 34  # letters to a label's line


class _Point(NamedTuple):
    x: Figure
    y: Figure
    name: str

    @property
    def at(self) -> tuple[float, float]:
        return self.x.per_cent[0], self.y.per_cent[0]

    def near(self, other: "_Point") -> bool:
        return all(abs(a - b) < _NEAR for a, b in zip(self.at, other.at, strict=True))


@mpl.rc_context(STYLE)
def scatter_plots(rows: list[Row], published: list[Row]) -> list[Plot]:
    """Forgetting against SARR, and against each utility that some run has: what is measured on the retain view."""
    texts = ("SARR, % (lower: over-forgets less)", "Forgetting against over-forgetting: the lower left is best.")
    plots = [_scatter("forgetting", "sarr", texts, rows, published)]
    for key, column in COLUMNS.items():
        metric = METRICS[column.metric]
        if metric.view == "retain" and any(row.cell(key).value is not None for row in rows):
            texts = (f"{metric.title}, % (higher: more useful)", "Forgetting against utility: the upper left is best.")
            plots.append(_scatter(f"utility_{key}", key, texts, rows, published))
    return plots


def _scatter(name: str, key: str, texts: tuple[str, str], rows: list[Row], published: list[Row]) -> Plot:
    """One plot, of the column `key` on the vertical axis; `texts`: of this axis, and the caption."""
    title = METRICS[COLUMNS[key].metric].title
    figure = Drawing(figsize=SIZE)
    axes = figure.add_axes(_PLACE, xlim=(-3, 103), xlabel="ASR on unseen questions, % (lower: forgets more)")
    axes.set(ylim=(-3, 110), ylabel=texts[0], yticks=range(0, 101, 20))
    own, others = _points(rows, key), _points(published, key)
    taken = _draw(axes, others, _PUBLISHED, "s") + _draw(axes, own, _OWN, "o")
    if others:
        for label, colour, shape in (("these runs", _OWN, "o"), ("published", _PUBLISHED, "s")):
            axes.plot([], [], ls="none", marker=shape, color=colour, ms=7, label=label)
        figure.legend(fontsize=9, loc="upper right", ncols=2)
    _label(axes, [(own, "normal"), (others, "italic")], taken)
    told = [_told(point, title) for point in [*own, *(p._replace(name=f"{p.name} (published)") for p in others)]]
    description = f"Scatter of {title} against ASR in per cent. " + ("; ".join(told) or "No run has both") + "."
    return Plot(name, texts[1], description, figure)


def _told(point: _Point, title: str) -> str:
    parts = []
    for name, figure in (("ASR", point.x), (title, point.y)):
        value, low, high = figure.per_cent
        parts.append(f"{name} {value:.0f}" + (f" ({low:.0f} to {high:.0f})" if figure.range else ""))
    return f"{point.name}: {', '.join(parts)}"


def _points(rows: list[Row], key: str) -> list[_Point]:
    """The rows that have both figures; ASR on unseen questions, or else on the training ones."""
    points = []
    for row in rows:
        unseen = row.cell("asr_gen")
        points.append(_Point(row.cell("asr_eff") if unseen.value is None else unseen, row.cell(key), row.name))
    return [point for point in points if None not in point.at]


def _draw(axes: Axes, points: list[_Point], colour: str, shape: str) -> list[Bbox]:
    """Points, hollow without PD, with their bars, and arrows to the PD variants; gives what points and bars cover."""
    taken, by_name = [], {point.name: point for point in points}
    for point in points:
        face = colour if "+PD" in point.name else "none"
        bars = {"xerr": _bar(point.x), "yerr": _bar(point.y), "elinewidth": 1.2, "ecolor": colour}
        mark, _, lines = axes.errorbar(*point.at, fmt=shape, color=colour, ms=7, mfc=face, alpha=0.9, **bars)
        extents = [line.get_paths()[0].get_extents(axes.transData) for line in lines]
        taken += [box.padded(1) for box in (mark.get_window_extent(), *extents)]
        base = by_name.get(point.name.replace("+PD", ""))
        if base and not base.near(point):
            style = {"arrowstyle": "-|>", "color": colour, "alpha": 0.6, "shrinkA": 7, "shrinkB": 7}
            axes.annotate("", point.at, base.at, arrowprops=style | {"connectionstyle": "arc3,rad=0.12"})
    return taken


def _bar(figure: Figure) -> list[list[float]]:
    """The lengths of the error bar below and above the value; nothing where no interval is known."""
    value, low, high = figure.per_cent
    return [[max(0.0, value - low)], [max(0.0, high - value)]] if figure.range else [[0.0], [0.0]]


def _label(axes: Axes, groups: list[tuple[list[_Point], str]], marks: list[Bbox]) -> None:
    """Write each point's name near it: a point or bar that the name meets weighs as much as 22 points of distance.

    To meet another name, or to leave the frame, around which the axes have their own labels, is worse than anything.
    """
    names: list[Bbox] = []
    for point, text, style in ((*labelled, style) for points, style in groups for labelled in _joined(points).items()):
        label = axes.annotate(text, point.at, (0, 0), textcoords="offset points", va="center", fontsize=9, style=style)
        up = 4 + 6 * len(text.split("\n"))
        tried = []
        sides = ((9, "left"), (-9, "right"), (55, "left"))
        for (dx, side), dy in product(sides, (0, up, -up, 2 * up, -2 * up, 3 * up)):
            label.set(position=(dx, dy), ha=side)
            box = label.get_window_extent()
            bad = 4 - axes.bbox.count_contains(box.corners()) + box.count_overlaps(names)
            tried.append((bad, 22 * box.count_overlaps(marks) + abs(dx) + abs(dy), dx, dy, side))
        *_, dx, dy, side = min(tried, key=lambda place: place[:2])
        label.set(position=(dx, dy), ha=side)
        names.append(label.get_window_extent())


def _joined(points: list[_Point]) -> dict[_Point, str]:
    """The points with their names; of those whose names would print over each other, the first with all of them."""
    names: dict[_Point, list[str]] = {}
    for point in points:
        first = next((other for other in names if other.near(point)), point)
        # Broken into short lines between, never within, names.
        names.setdefault(first, []).append(point.name.replace(" ", "\N{NO-BREAK SPACE}"))
    return {point: fill(", ".join(joined), _WIDEST) for point, joined in names.items()}
