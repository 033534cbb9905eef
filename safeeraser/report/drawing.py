"""What all plots share: the colour scale, how a matplotlib figure becomes a part of the page, and the forest plot."""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from safeeraser.benchmark.files import write_whole
from safeeraser.benchmark.metrics import Figure

INK = "#1a1b1c"  # text and axes; in a page it becomes the page's own text colour
WIDTH = 4.8  # inches: a phone shows letters as large as they are here
FONTS = "system-ui, 'Liberation Sans', sans-serif"
STYLE: dict[str, Any] = {
    "font.size": 10,
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}
# Looks the same to the colour-blind, and brightens evenly in grey: worse is brighter.
_SCALE = mpl.colormaps["cividis"]
_MIDDLE = 0.468  # a colour that stands out from black as much as from white

# A forest plot's measures, in points: margins at its sides, key, axis, a row's name, a metric's lane, between rows.
_SIDE, _KEY, _AXIS, _NAME, _LANE, _GAP = 12, 20, 19, 15, 11, 7
_SHAPES = "osD"
_LONGEST_NAME = 27  # letters that a phone has room for


class Shade(NamedTuple):
    """A colour, and black or white: whichever stands out more on it, by 4.5 to 1."""

    paper: str
    ink: str


def shade(figure: Figure, better: str) -> Shade | None:
    """The colour of a figure that stands, by how good it is; `better`: whether `lower` or `higher` is."""
    if figure.value is None or figure.withheld:
        return None
    worse = figure.value if better == "lower" else 1 - figure.value
    return Shade(to_hex(_SCALE(worse)), "#000" if worse > _MIDDLE else "#fff")


def gradient() -> str:
    """The colours from better to worse as a CSS gradient, for the legend."""
    return f"linear-gradient(to right, {', '.join(to_hex(_SCALE(step / 8)) for step in range(9))})"


@dataclass(frozen=True)
class Plot:
    """A figure with its caption, and what it shows in words, for those who cannot see it.

    Attributes:
        name: what its file is named for.
        form: of the file, `png` or `svg`.
    """

    name: str
    caption: str
    description: str
    figure: Drawing
    form: str = "png"

    @property
    def slug(self) -> str:
        """The name with nothing in it that a file's name or an id could not hold."""
        return quote(self.name, safe="").replace("%", ".")

    def svg(self) -> str:
        """The figure as an SVG element of a page: in the page's text colour, with ids that no other plot has."""
        svg = self._save("svg", {"Date": None}, transparent=True).decode()
        svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
        svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{self.slug}-", svg)
        box = svg.partition('viewBox="')[2].partition('"')[0]
        opening = f'<svg viewBox="{box}" role="img" aria-label="{escape(self.description)}" xmlns="http://www.w3.org/2000/svg"'
        return f'{opening} xmlns:xlink="http://www.w3.org/1999/xlink">{svg[svg.index(">") + 1 :]}'

    def write(self, folder: Path) -> None:
        """Write the figure as a file of its own, on white. The same figure gives the same bytes."""
        metadata = {"Date": None, "Creator": None, "Title": self.caption} if self.form == "svg" else {"Software": None}
        with write_whole(folder / f"{self.slug}.{self.form}", "wb") as handle:
            handle.write(self._save(self.form, metadata, facecolor="white"))

    def _save(self, form: str, metadata: Mapping[str, str | None], **how: Any) -> bytes:
        data = io.BytesIO()
        with mpl.rc_context({**STYLE, "svg.hashsalt": self.name}):
            self.figure.savefig(data, format=form, dpi=150, metadata=metadata, **how)
        # The page's fonts, which are narrower than matplotlib's own.
        return re.sub(rb"'DejaVu Sans'[^;\"]*", FONTS.encode(), data.getvalue()) if form == "svg" else data.getvalue()


class Mark(NamedTuple):
    """A figure in a row of a forest plot.

    Attributes:
        better: `lower` or `higher`, which its colour follows; empty: a hollow mark, for comparison.
        seeds: of the figure, each a small mark.
    """

    figure: Figure
    better: str = ""
    seeds: tuple[Figure, ...] = ()


class ForestRow(NamedTuple):
    """A method or a condition, with a mark for each title of its plot."""

    name: str
    marks: list[Mark]
    published: bool = False


@mpl.rc_context(STYLE)
def forest(
    name: str, caption: str, contents: str, titles: list[str], rows: list[ForestRow], *, abreast: bool = False
) -> Plot | None:
    """Each row's figures as points with their 95% intervals on one axis from 0 to 100; None where there is no figure.

    Names stand above their figures, so that the plot fits a phone.

    Args:
        contents: what the description for those who cannot see it begins with.
        titles: what a row's marks are, each in a lane of its own, with a key above the plot.
        abreast: all marks of a row are of one metric and share a lane; the first one's figure stands at the right.
    """
    if all(mark.figure.per_cent[0] is None for row in rows for mark in row.marks):
        return None
    lanes, key = (1, 0) if abreast else (len(titles), _KEY)
    step = _NAME + lanes * _LANE + _GAP
    width, above, below = 72 * WIDTH, key + _AXIS, len(rows) * step
    figure = Drawing(figsize=(WIDTH, (above + below) / 72))
    axes = figure.add_axes((_SIDE / width, 0, 1 - 2 * _SIDE / width, below / (above + below)))
    axes.set(xlim=(0, 100), ylim=(below, 0), yticks=[], xticks=[0, 25, 50, 75, 100], autoscale_on=False)
    axes.spines[:].set_visible(False)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, pad=4, labelsize=10.5)
    axes.grid(color=INK, alpha=0.22)
    for number, row in enumerate(rows):
        shown = row.name if len(row.name) <= _LONGEST_NAME else f"{row.name[: _LONGEST_NAME - 1]}…"
        figures = [mark.figure for mark in row.marks[: 1 if abreast else None]]
        slant, weight = ("italic", 400) if row.published else ("normal", 700)
        axes.text(0, number * step + _NAME - 3, shown, size=11.5, style=slant, weight=weight)
        text = " · ".join("–" if one.withheld else one.text for one in figures)
        axes.text(100, number * step + _NAME - 3, text, size=11.5, ha="right")
    for lane in range(lanes):
        middle = _NAME + (lane + 0.5) * _LANE
        marks = [(n * step + middle, mark) for n, row in enumerate(rows) for mark in row.marks[lane::lanes]]
        _draw_marks(axes, marks, _SHAPES[lane])
    if key:
        handles = [Line2D([], [], color=INK, marker=shape, ls="", mfc="none", ms=7) for shape in _SHAPES[:lanes]]
        place = {"loc": "upper left", "bbox_to_anchor": (0, 1), "borderaxespad": 0, "handletextpad": 0}
        figure.legend(handles, titles, ncols=lanes, columnspacing=1.2, fontsize=11, **place)
    spoken = "; ".join(f"{row.name}{' (published)' * row.published}: {_say_marks(titles, row.marks)}" for row in rows)
    return Plot(name, caption, f"{contents}. {spoken}.", figure, "svg")


def _draw_marks(axes: Axes, marks: list[tuple[float, Mark]], shape: str) -> None:
    """Points at their heights, over their intervals and seeds."""
    places, heights, colours = [], [], []
    for height, mark in marks:
        value, low, high = mark.figure.per_cent
        if low is not None and high is not None:
            axes.hlines(height, low, high, color=INK, linewidth=1.4, clip_on=False)
        seeds = [place for seed in mark.seeds if (place := seed.per_cent[0]) is not None]
        axes.vlines(seeds, height - 4, height + 4, color=INK, linewidth=1.2, clip_on=False)
        if value is not None:
            colour = shade(mark.figure, mark.better) if mark.better else None
            places.append(value)
            heights.append(height)
            colours.append(colour.paper if colour else "none")
    size = 36 if shape == "D" else 48
    look: dict[str, Any] = {"edgecolors": INK, "linewidths": 1.2, "clip_on": False, "zorder": 3}
    axes.scatter(places, heights, s=size, c=colours, marker=shape, **look)


def _say_marks(titles: list[str], marks: list[Mark]) -> str:
    """`ASR 10.0 (5.0 to 15.0), SARR 20.0`."""
    said = []
    for title, (figure, *_) in zip(titles, marks, strict=True):
        value, low, high = figure.per_cent
        between = f" ({low:.1f} to {high:.1f})" if figure.range else ""
        said += [f"{title.rstrip(' ↓↑')} {value:.1f}{between}".strip()] if value is not None else []
    return ", ".join(said)
