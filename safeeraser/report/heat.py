"""Heat maps as tables: a figure in each cell, which a screen reader reads, on a colour that shows where to look."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.colors import to_hex

from safeeraser.benchmark.records import CATEGORIES
from safeeraser.report.runs import METRICS, Metric, Run

_METRICS = ("asr", "rr", "sarr")
_MAP = mpl.colormaps["cividis"]  # looks the same to the colour-blind, and darkens evenly in grey


@dataclass(frozen=True)
class Shade:
    """A cell: its text on its colour, and the text's own colour; both empty where nothing was measured.

    `beside` is what stands under it in small print.
    """

    text: str
    paper: str = ""
    ink: str = ""
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class HeatMap:
    """A table of shades. `corner` says what the rows are, `columns` and each row's name stand at its edges.

    `by` says to those who cannot see it what the figures are broken down by; `level`: there is room for columns'
    names to lie.
    """

    name: str
    title: str
    corner: str
    columns: list[str]
    rows: list[tuple[str, list[Shade]]]
    by: str
    level: bool = False


def by_category(runs: list[Run]) -> list[HeatMap]:
    """Runs by categories on val, one map for each metric that some run has by category."""
    maps = []
    for metric in _METRICS:
        shown = [(run.title, _group(run, "by_category", metric)) for run in runs]
        names = sorted(_union(shown), key=lambda name: (name not in CATEGORIES, name))
        rows = [(title, [shade(group.get(name)) for name in names]) for title, group in shown if group]
        if rows:
            maps.append(HeatMap(f"category-{metric}", METRICS[metric], "method", names, rows, "category"))
    return maps


def by_keyword(runs: list[Run]) -> list[HeatMap]:
    """Keywords by runs on val: a benchmark has many keywords and few runs, so the keywords go down the page."""
    maps = []
    for metric in _METRICS:
        shown = [(run.title, _group(run, "by_keyword", metric)) for run in runs]
        shown = [(title, group) for title, group in shown if group]
        rows = [(name, [shade(group.get(name)) for _, group in shown]) for name in _union(shown)]
        if rows:
            titles = [title for title, _ in shown]
            maps.append(HeatMap(f"keyword-{metric}", METRICS[metric], "keyword", titles, rows, "keyword"))
    return maps


def shade(metric: Metric | None) -> Shade:
    """The metric in per cent on its colour, in black or white, whichever stands out more (4.5 to 1 at the least)."""
    if metric is None or metric.value is None:
        return Shade("–")
    red, green, blue, _ = _MAP(metric.value)
    linear = [(part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4) for part in (red, green, blue)]
    luminance = sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return Shade(metric.cell.text, to_hex((red, green, blue)), "#000" if luminance > 0.179 else "#fff")


def scale() -> str:
    """The colours from 0 to 100 as a CSS gradient, for the legend."""
    return f"linear-gradient(to right, {', '.join(to_hex(_MAP(step / 8)) for step in range(9))})"


def _group(run: Run, kind: str, metric: str) -> dict[str, Metric]:
    return getattr(run.val, kind).get(metric, {}) if run.val else {}


def _union(shown: Sequence[tuple[str, dict[str, Metric]]]) -> list[str]:
    return sorted(set().union(*(group for _, group in shown)))
