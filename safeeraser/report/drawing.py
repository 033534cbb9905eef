"""Code that all plots share: a matplotlib figure as a part of the page, and the forest plot."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from safeeraser.benchmark.files import write_whole
from safeeraser.report.writing import Line, shade

INK = "#1a1b1c"  # text and axes; on the page it is replaced by the page's text colour
WIDTH = 4.8  # inches; so narrow that a phone shows letters at full size
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

# Sizes in a forest plot, in points: side margin, key, axis, name of a row, lane of a metric, gap between rows.
_SIDE, _KEY, _AXIS, _NAME, _LANE, _GAP = 12, 20, 19, 15, 11, 7
_SHAPES = "osD"
_LONGEST_NAME = 27  # letters that fit on a phone


@dataclass(frozen=True)
class Plot:
    """A figure with its caption and a description in words for readers who cannot see it.

    Attributes:
        name: the name from which `slug` makes the file's name.
        form: the format of the file, `png` or `svg`.
    """

    name: str
    caption: str
    description: str
    figure: Drawing
    form: str = "png"

    @property
    def slug(self) -> str:
        """The name in characters that are allowed in file names and in HTML ids."""
        return quote(self.name, safe="").replace("%", ".")

    def svg(self) -> str:
        """The figure as an SVG element for a page, in the page's text colour and with ids that no other plot has."""
        svg = self._save("svg", {"Date": None}, transparent=True).decode()
        svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
        svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{self.slug}-", svg)
        box = svg.partition('viewBox="')[2].partition('"')[0]
        opening = f'<svg viewBox="{box}" role="img" aria-label="{escape(self.description)}" xmlns="http://www.w3.org/2000/svg"'
        return f'{opening} xmlns:xlink="http://www.w3.org/1999/xlink">{svg[svg.index(">") + 1 :]}'

    def write(self, folder: Path) -> None:
        """Write the figure to a file in `folder`, on white. The same figure always gives the same bytes."""
        metadata = {"Date": None, "Creator": None, "Title": self.caption} if self.form == "svg" else {"Software": None}
        with write_whole(folder / f"{self.slug}.{self.form}", "wb") as handle:
            handle.write(self._save(self.form, metadata, facecolor="white"))

    def _save(self, form: str, metadata: Mapping[str, str | None], **how: Any) -> bytes:
        data = io.BytesIO()
        with mpl.rc_context({**STYLE, "svg.hashsalt": self.name}):
            self.figure.savefig(data, format=form, dpi=150, metadata=metadata, **how)
        # The page's fonts are narrower than matplotlib's own.
        return re.sub(rb"'DejaVu Sans'[^;\"]*", FONTS.encode(), data.getvalue()) if form == "svg" else data.getvalue()


@mpl.rc_context(STYLE)
def forest(
    name: str,
    caption: str,
    contents: str,
    columns: Mapping[str, tuple[str, str]],
    lines: Sequence[Line],
    *,
    abreast: bool = False,
) -> Plot | None:
    """A forest plot: each line's figures as points with 95% intervals on an axis from 0 to 100; None without figures.

    The names are above their figures, so that the plot fits a phone.

    Args:
        contents: the beginning of the description for readers who cannot see the plot.
        columns: key -> title, and whether `lower` or `higher` is better, which decides the colour. If it is empty, the
            mark is hollow, for comparison; published figures are always hollow. Each column has a lane of its own in a
            line, and a key above the plot explains its mark.
        abreast: all figures of a line belong to one metric and share a lane; only the first is written at the right.
    """
    if all(line.measured(key).per_cent[0] is None for line in lines for key in columns):
        return None
    titles = [title for title, _ in columns.values()]
    lanes, head = (1, 0) if abreast else (len(columns), _KEY)
    step = _NAME + lanes * _LANE + _GAP
    width, above, below = 72 * WIDTH, head + _AXIS, len(lines) * step
    figure = Drawing(figsize=(WIDTH, (above + below) / 72))
    axes = figure.add_axes((_SIDE / width, 0, 1 - 2 * _SIDE / width, below / (above + below)))
    axes.set(xlim=(0, 100), ylim=(below, 0), yticks=[], xticks=[0, 25, 50, 75, 100], autoscale_on=False)
    axes.spines[:].set_visible(False)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, pad=4, labelsize=10.5)
    axes.grid(color=INK, alpha=0.22)
    for number, line in enumerate(lines):
        _write_line(axes, line, list(columns)[: 1 if abreast else None], number * step + _NAME - 3)
    for place, (key, (_, better)) in enumerate(columns.items()):
        lane = place % lanes
        heights = [number * step + _NAME + (lane + 0.5) * _LANE for number in range(len(lines))]
        _draw_column(axes, key, lines, heights, better, _SHAPES[lane])
    if head:
        handles = [Line2D([], [], color=INK, marker=shape, ls="", mfc="none", ms=7) for shape in _SHAPES[:lanes]]
        where = {"loc": "upper left", "bbox_to_anchor": (0, 1), "borderaxespad": 0, "handletextpad": 0}
        figure.legend(handles, titles, ncols=lanes, columnspacing=1.2, fontsize=11, **where)
    spoken = [f"{line.label}{' (published)' * line.published}: {_say_figures(columns, line)}" for line in lines]
    return Plot(name, caption, f"{contents}. {'; '.join(spoken)}.", figure, "svg")


def _write_line(axes: Axes, line: Line, keys: Sequence[str], height: float) -> None:
    """Write a line's name at the left, and its figures in the columns `keys` at the right."""
    shown = line.label if len(line.label) <= _LONGEST_NAME else f"{line.label[: _LONGEST_NAME - 1]}…"
    slant, weight = ("italic", 400) if line.published else ("normal", 700)
    axes.text(0, height, shown, size=11.5, style=slant, weight=weight)
    figures = [line.measured(key) for key in keys]
    text = " · ".join("–" if figure.withheld else figure.text for figure in figures)
    axes.text(100, height, text, size=11.5, ha="right")


def _draw_column(
    axes: Axes, key: str, lines: Sequence[Line], heights: Sequence[float], better: str, shape: str
) -> None:
    """Draw a column's figures as points at the heights of their lines, on top of their intervals and seeds."""
    points, colours = [], []
    for line, height in zip(lines, heights, strict=True):
        value, low, high = line.measured(key).per_cent
        if low is not None and high is not None:
            axes.hlines(height, low, high, color=INK, linewidth=1.4, clip_on=False)
        seeds = [place for seed in line.seeds if (place := seed.measured(key).per_cent[0]) is not None]
        axes.vlines(seeds, height - 4, height + 4, color=INK, linewidth=1.2, clip_on=False)
        if value is not None:
            colour = shade(line.measured(key), better) if better and not line.published else None
            points.append((value, height))
            colours.append(colour.paper if colour else "none")
    size = 36 if shape == "D" else 48
    look: dict[str, Any] = {"edgecolors": INK, "linewidths": 1.2, "clip_on": False, "zorder": 3}
    axes.scatter([x for x, _ in points], [y for _, y in points], s=size, c=colours, marker=shape, **look)


def _say_figures(columns: Mapping[str, tuple[str, str]], line: Line) -> str:
    """A line's figures in words: `ASR 10.0 (5.0 to 15.0), SARR 20.0`."""
    said = []
    for key, (title, _) in columns.items():
        figure = line.measured(key)
        between = f" ({figure.range.replace('–', ' to ')})" if figure.range else ""
        said += [f"{title.rstrip(' ↓↑')} {figure.text}{between}".strip()] if figure.per_cent[0] is not None else []
    return ", ".join(said)
