"""Forgetting against what it costs: a point a run, its 95% intervals, and an arrow from a method to its PD variant."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from safeeraser.report.drawing import COLOURS, SIZE, Plot
from safeeraser.report.tables import Cell, Row

_OWN, _PUBLISHED = COLOURS[:2]
_NEAR = 4  # per cent: points closer than this share one label, and no arrow is drawn between them
_PLACE = (0.12, 0.135, 0.865, 0.78)  # of the axes in the figure: left, bottom, width, height
_X, _Y = (-3, 103), (-3, 110)  # the axes' limits, per cent
_POINTS_X = 72 * SIZE[0] * _PLACE[2] / (_X[1] - _X[0])  # typographic points to a per cent
_POINTS_Y = 72 * SIZE[1] * _PLACE[3] / (_Y[1] - _Y[0])
_LETTER, _LINE = 5.0, 11  # typographic points: a letter's width and a line's height in a label, nearly
_WIDEST = 34  # letters to a label's line

_Box = tuple[float, float, float, float]  # left, bottom, right, top, in typographic points from the origin
_Place = tuple[_Box, tuple[float, float, str]]  # what a label covers; its offset and the side that is aligned


@dataclass(frozen=True)
class _Point:
    x: Cell
    y: Cell
    name: str

    @property
    def at(self) -> tuple[float, float]:
        return self.x.value, self.y.value

    def near(self, other: "_Point") -> bool:
        return all(abs(a - b) < _NEAR for a, b in zip(self.at, other.at, strict=True))


def scatters(rows: list[Row], published: list[Row]) -> Iterator[Plot]:
    """Forgetting against SARR, and against each utility that some run has."""
    yield _scatter(
        ("forgetting", "SARR", "sarr"),
        "SARR, % (lower: over-forgets less)",
        "Forgetting against over-forgetting: the lower left is best.",
        rows,
        published,
    )
    for key, title in (("rouge_l", "ROUGE"), ("gpt_eval", "GPT-Eval")):
        if any(row.cells[key].value is not None for row in rows):
            axis, caption = f"{title}, % (higher: more useful)", "Forgetting against utility: the upper left is best."
            yield _scatter((f"utility_{key}", title, key), axis, caption, rows, published)


def _scatter(names: tuple[str, str, str], axis: str, caption: str, rows: list[Row], published: list[Row]) -> Plot:
    """One plot. `names`: of the file, of what is on the vertical axis, and the column it comes from."""
    name, title, key = names
    figure = Figure(figsize=SIZE)
    axes = figure.add_axes(_PLACE)
    own, others = _points(rows, key), _points(published, key)
    for points, colour, shape in ((others, _PUBLISHED, "s"), (own, _OWN, "o")):
        _draw(axes, points, colour, shape)
    _label(axes, [(own, "normal"), (others, "italic")])
    if others:
        for label, colour, shape in (("these runs", _OWN, "o"), ("published", _PUBLISHED, "s")):
            axes.plot([], [], ls="none", marker=shape, color=colour, ms=7, label=label)
        figure.legend(frameon=False, fontsize=9, loc="upper right", ncols=2)
    axes.set(xlim=_X, ylim=_Y, xlabel="ASR on unseen questions, % (lower: forgets more)", ylabel=axis)
    axes.set_yticks(range(0, 101, 20))
    axes.grid(alpha=0.25)
    told = [_told(point, title, "") for point in own] + [_told(point, title, " (published)") for point in others]
    description = f"Scatter of {title} against ASR in per cent. " + ("; ".join(told) or "No run has both") + "."
    return Plot(name, caption, description, figure)


def _told(point: _Point, title: str, addition: str) -> str:
    parts = (
        f"{name} {cell.value:.0f}" + (f" ({cell.low:.0f} to {cell.high:.0f})" if cell.range else "")
        for name, cell in (("ASR", point.x), (title, point.y))
    )
    return f"{point.name}{addition}: {', '.join(parts)}"


def _points(rows: list[Row], key: str) -> list[_Point]:
    """The rows that have both figures; ASR on unseen questions, or else on the training ones."""
    points = []
    for row in rows:
        unseen, seen = row.cells["asr_gen"], row.cells["asr_eff"]
        point = _Point(seen if unseen.value is None else unseen, row.cells[key], row.name)
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


def _bar(cell: Cell) -> list[list[float]]:
    """The lengths of the error bar below and above the value; nothing where no interval is known."""
    if not cell.range:
        return [[0.0], [0.0]]
    return [[max(0.0, cell.value - cell.low)], [max(0.0, cell.high - cell.value)]]


def _label(axes: Axes, groups: list[tuple[list[_Point], str]]) -> None:
    """Write each point's name where it covers the least of the other names, of the points and of their bars."""
    taken = [box for points, _ in groups for point in points for box in _ink(point)]
    for points, style in groups:
        for point, text in _clusters(points):
            box, (dx, dy, side) = min(_places(point, text), key=partial(_cost, taken))
            taken.append(box)
            place = {"textcoords": "offset points", "xytext": (dx, dy), "ha": side, "va": "center"}
            axes.annotate(text, point.at, fontsize=9, style=style, linespacing=1.1, **place)


def _cost(taken: list[_Box], place: _Place) -> float:
    """What a place for a label covers, and a little for its distance, which leaves a name without its point."""
    box, (dx, dy, _) = place
    return sum(_overlap(box, other) for other in taken) + 0.3 * (abs(dx) + abs(dy))


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


def _ink(point: _Point) -> Iterator[_Box]:
    """What the point itself and its error bars cover."""
    x, y = point.at
    (left,), (right,) = _bar(point.x)
    (below,), (above,) = _bar(point.y)
    yield _box(x, y, -5, -5, 10, 10)
    yield _box(x - left, y, 0, -1, (left + right) * _POINTS_X, 2)
    yield _box(x, y - below, -1, 0, 2, (below + above) * _POINTS_Y)


def _places(point: _Point, text: str) -> list[_Place]:
    """Where a label may stand within the plot, the most usual first; a name that fits nowhere, to the right."""
    lines = text.split("\n")
    width, height = _LETTER * max(map(len, lines)), _LINE * len(lines)
    up = 3 + height / 2
    places = []
    for (dx, side), dy in product(((9, "left"), (-9, "right"), (55, "left")), (0, up, -up, 2 * up, -2 * up, 3 * up)):
        left = dx if side == "left" else dx - width
        places.append((_box(*point.at, left, dy - height / 2, width, height), (dx, dy, side)))
    return list(filter(_inside, places)) or places[:1]


def _inside(place: _Place) -> bool:
    """Whether a label covers neither the axis nor the legend."""
    left, bottom, right, top = place[0]
    return left >= 0 and right <= _X[1] * _POINTS_X and _Y[0] * _POINTS_Y <= bottom and top <= (_Y[1] + 5) * _POINTS_Y


def _box(x: float, y: float, dx: float, dy: float, width: float, height: float) -> _Box:
    left, bottom = x * _POINTS_X + dx, y * _POINTS_Y + dy
    return left, bottom, left + width, bottom + height


def _overlap(a: _Box, b: _Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)
