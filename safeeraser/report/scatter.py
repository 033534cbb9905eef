"""Forgetting against what it costs: a point a run, its 95% intervals, and an arrow from a method to its PD variant."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from safeeraser.benchmark.metrics import COLUMNS, METRICS, UNKNOWN, Figure
from safeeraser.report.drawing import COLOURS, SIZE, Plot, drawing
from safeeraser.report.tables import Row

_OWN, _PUBLISHED = COLOURS[:2]
_NEAR = 4  # per cent: points closer than this share one label, and no arrow is drawn between them
_X, _Y = (-3, 103), (-3, 110)  # the axes' limits, per cent
_WIDEST = 34  # letters to a label's line


@dataclass(frozen=True)
class _Point:
    x: Figure
    y: Figure
    name: str

    @property
    def at(self) -> tuple[float, float]:
        return self.x.per_cent[0], self.y.per_cent[0]

    def near(self, other: "_Point") -> bool:
        return all(abs(a - b) < _NEAR for a, b in zip(self.at, other.at, strict=True))


def scatters(rows: list[Row], published: list[Row]) -> Iterator[Plot]:
    """Forgetting against SARR, and against each utility that some run has: what is measured on the retain view."""
    caption = "Forgetting against over-forgetting: the lower left is best."
    yield _scatter("forgetting", "sarr", "lower: over-forgets less", caption, rows, published)
    for key, column in COLUMNS.items():
        known = any(row.cells.get(key, UNKNOWN).value is not None for row in rows)
        if METRICS[column.metric].view == "retain" and known:
            caption = "Forgetting against utility: the upper left is best."
            yield _scatter(f"utility_{key}", key, "higher: more useful", caption, rows, published)


def _scatter(name: str, key: str, better: str, caption: str, rows: list[Row], published: list[Row]) -> Plot:
    """One plot, of the column `key` on the vertical axis."""
    title = METRICS[COLUMNS[key].metric].title
    figure = drawing(*SIZE)
    axes = figure.add_subplot()
    axes.set(
        xlim=_X, ylim=_Y, xlabel="ASR on unseen questions, % (lower: forgets more)", ylabel=f"{title}, % ({better})"
    )
    axes.set_yticks(range(0, 101, 20))
    axes.grid(alpha=0.25)
    own, others = _points(rows, key), _points(published, key)
    for points, colour, shape in ((others, _PUBLISHED, "s"), (own, _OWN, "o")):
        _draw(axes, points, colour, shape)
    if others:
        for label, colour, shape in (("these runs", _OWN, "o"), ("published", _PUBLISHED, "s")):
            axes.plot([], [], ls="none", marker=shape, color=colour, ms=7, label=label)
        figure.legend(frameon=False, fontsize=9, loc="outside upper right", ncols=2)
    _label(figure, axes, [(own, "normal"), (others, "italic")])
    told = [_told(point, title, "") for point in own] + [_told(point, title, " (published)") for point in others]
    description = f"Scatter of {title} against ASR in per cent. " + ("; ".join(told) or "No run has both") + "."
    return Plot(name, caption, description, figure)


def _told(point: _Point, title: str, addition: str) -> str:
    parts = []
    for name, figure in (("ASR", point.x), (title, point.y)):
        value, low, high = figure.per_cent
        parts.append(f"{name} {value:.0f}" + (f" ({low:.0f} to {high:.0f})" if figure.range else ""))
    return f"{point.name}{addition}: {', '.join(parts)}"


def _points(rows: list[Row], key: str) -> list[_Point]:
    """The rows that have both figures; ASR on unseen questions, or else on the training ones."""
    points = []
    for row in rows:
        unseen, seen, other = (row.cells.get(name, UNKNOWN) for name in ("asr_gen", "asr_eff", key))
        point = _Point(seen if unseen.value is None else unseen, other, row.name)
        if None not in point.at:
            points.append(point)
    return points


def _draw(axes: Axes, points: list[_Point], colour: str, shape: str) -> None:
    """Points, hollow without PD, with their intervals, and arrows to the PD variants."""
    by_name = {point.name: point for point in points}
    for point in points:
        face = colour if "+PD" in point.name else "none"
        bars = {"xerr": _bar(point.x), "yerr": _bar(point.y), "elinewidth": 1.2, "ecolor": colour}
        axes.errorbar(*point.at, fmt=shape, color=colour, ms=7, mfc=face, alpha=0.9, **bars)
        base = by_name.get(point.name.replace("+PD", ""))
        if base and not base.near(point):
            style = {"arrowstyle": "-|>", "color": colour, "alpha": 0.6, "shrinkA": 7, "shrinkB": 7}
            style["connectionstyle"] = "arc3,rad=0.12"
            axes.annotate("", point.at, base.at, arrowprops=style)


def _bar(figure: Figure) -> list[list[float]]:
    """The lengths of the error bar below and above the value; nothing where no interval is known."""
    value, low, high = figure.per_cent
    return [[max(0.0, value - low)], [max(0.0, high - value)]] if figure.range else [[0.0], [0.0]]


def _label(figure: Drawing, axes: Axes, groups: list[tuple[list[_Point], str]]) -> None:
    """Write each point's name where it covers the least of the other names, of the points and of their bars."""
    figure.draw_without_rendering()  # which gives the axes their place
    taken = [box for points, _ in groups for point in points for box in _ink(axes, point)]
    for points, style in groups:
        for point, text in _clusters(points):
            place = {"textcoords": "offset points", "xytext": (0, 0), "va": "center"}
            label = axes.annotate(text, point.at, fontsize=9, style=style, linespacing=1.1, **place)
            label.set_in_layout(False)
            up = 3 + 6 * len(text.split("\n"))
            places = product(((9, "left"), (-9, "right"), (55, "left")), (0, up, -up, 2 * up, -2 * up, 3 * up))
            _put(label, *min(places, key=lambda place: _cost(label, place, axes.bbox, taken)))
            taken.append(label.get_window_extent())


def _put(label: Annotation, across: tuple[float, str], dy: float) -> None:
    dx, side = across
    label.set(position=(dx, dy), ha=side)


def _cost(label: Annotation, place: tuple, frame: Bbox, taken: list[Bbox]) -> float:
    """What a label would cover there, and a little for its distance, which leaves a name without its point.

    To leave the frame, behind which stand the axes' own labels, costs more than anything.
    """
    _put(label, *place)
    box = label.get_window_extent()
    (dx, _), dy = place
    outside = box.width * box.height - _shared(box, frame)
    return sum(_shared(box, other) for other in taken) + 0.6 * (abs(dx) + abs(dy)) + 100 * outside


def _shared(one: Bbox, other: Bbox) -> float:
    """The area that two boxes share, in pixels."""
    both = Bbox.intersection(one, other)
    return both.width * both.height if both else 0.0


def _clusters(points: list[_Point]) -> list[tuple[_Point, str]]:
    """The points, those whose names would print over each other joined under one label."""
    clusters: list[tuple[_Point, list[str]]] = []
    for point in points:
        near = next((names for first, names in clusters if first.near(point)), None)
        if near is None:
            clusters.append((point, [point.name]))
        else:
            near.append(point.name)
    return [(point, _lines(names)) for point, names in clusters]


def _lines(names: list[str]) -> str:
    """The names, broken into short lines between, never within, them."""
    return fill(", ".join(name.replace(" ", "\N{NO-BREAK SPACE}") for name in names), _WIDEST)


def _ink(axes: Axes, point: _Point) -> Iterator[Bbox]:
    """What the point itself and its error bars cover, in pixels."""
    x, y = point.at
    (left,), (right,) = _bar(point.x)
    (below,), (above,) = _bar(point.y)
    for low, high, pad in (
        ((x, y), (x, y), 7),
        ((x - left, y), (x + right, y), 1),
        ((x, y - below), (x, y + above), 1),
    ):
        yield Bbox(axes.transData.transform([low, high])).padded(pad)
