"""Heat maps: tables with a figure in each cell, which a screen reader reads, on a colour that shows where to look."""

from typing import NamedTuple

import matplotlib as mpl
from matplotlib.colors import to_hex

from safeeraser.benchmark.metrics import METRICS, Figure
from safeeraser.benchmark.records import CATEGORIES
from safeeraser.report.runs import Run
from safeeraser.report.tables import RATES, Row, Table

_MAP = mpl.colormaps["cividis"]  # looks the same to the colour-blind, and darkens evenly in grey


class Shade(NamedTuple):
    """A cell's colour and its text's."""

    paper: str
    ink: str


def by_category(runs: list[Run]) -> list[Table]:
    """Runs by categories on val, one map for each rate that some run has by category."""
    maps = []
    for metric, groups in _groups(runs, "by_category"):
        names = sorted(set().union(*groups.values()), key=lambda name: (name not in CATEGORIES, name))
        rows = [Row(title, group) for title, group in groups.items()]
        maps.append(_map(metric, "category", names, rows, corner="method"))
    return maps


def by_keyword(runs: list[Run]) -> list[Table]:
    """Keywords by runs on val: a benchmark has many keywords and few runs, so the keywords go down the page."""
    maps = []
    for metric, groups in _groups(runs, "by_keyword"):
        names = sorted(set().union(*groups.values()))
        rows = [Row(name, {title: group[name] for title, group in groups.items() if name in group}) for name in names]
        maps.append(_map(metric, "keyword", list(groups), rows, corner="keyword"))
    return maps


def shade(figure: Figure) -> Shade | None:
    """The figure's colour, and black or white, whichever stands out more on it (4.5 to 1 at the least).

    None where there is no figure.
    """
    if figure.value is None or figure.withheld:
        return None
    red, green, blue, _ = _MAP(figure.value)
    linear = [(part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4) for part in (red, green, blue)]
    luminance = sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return Shade(to_hex((red, green, blue)), "#000" if luminance > 0.179 else "#fff")


def scale() -> str:
    """The colours from 0 to 100 as a CSS gradient, for the legend."""
    return f"linear-gradient(to right, {', '.join(to_hex(_MAP(step / 8)) for step in range(9))})"


def _groups(runs: list[Run], kind: str) -> list[tuple[str, dict[str, dict[str, Figure]]]]:
    """Each rate with the figures of each run that has them, by the run's title."""
    found = []
    for metric in RATES:
        shown = {run.title: getattr(run.val, kind).get(metric) for run in runs if run.val}
        found.append((metric, {title: group for title, group in shown.items() if group}))
    return [(metric, groups) for metric, groups in found if groups]


def _map(metric: str, kind: str, columns: list[str], rows: list[Row], corner: str) -> Table:
    title = f"{METRICS[metric].title} {METRICS[metric].arrow}"
    return Table(
        f"{kind}-{metric}", title, f"By {kind}, per cent.", dict(zip(columns, columns, strict=True)), rows, corner
    )
