"""Heat maps: tables with a figure in each cell, which a screen reader reads, on a colour that shows where to look."""

from typing import NamedTuple

import matplotlib as mpl
from matplotlib.colors import to_hex

from safeeraser.benchmark.metrics import METRICS, Figure
from safeeraser.benchmark.records import CATEGORIES
from safeeraser.report.runs import Run
from safeeraser.report.tables import RATES, Row, Table

_MAP = mpl.colormaps["cividis"]  # looks the same to the colour-blind, and darkens evenly in grey
_MIDDLE = 0.468  # there it stands out from black as much as from white


class Shade(NamedTuple):
    """A cell's colour and its text's."""

    paper: str
    ink: str


def heat_maps(runs: list[Run], kind: str) -> list[Table]:
    """A map for each rate that some run has by `kind` (`category` or `keyword`) on val.

    Runs go down the page; but a benchmark has many keywords and few runs, so keywords do.
    """
    maps = []
    for metric in RATES:
        found = {run.title: getattr(run.val, f"by_{kind}").get(metric) for run in runs if run.val}
        rows = [Row(title, group) for title, group in found.items() if group]
        columns = sorted(set().union(*(row.cells for row in rows)), key=lambda name: (name not in CATEGORIES, name))
        if kind == "keyword":
            turned = [Row(name, {row.name: row.cells[name] for row in rows if name in row.cells}) for name in columns]
            rows, columns = turned, [row.name for row in rows]
        if rows:
            title, corner = f"{METRICS[metric].title} {METRICS[metric].arrow}", kind if kind == "keyword" else "method"
            heads = {column: column for column in columns}
            maps.append(Table(f"{kind}-{metric}", title, f"By {kind}, per cent.", heads, rows, corner))
    return maps


def shade(figure: Figure) -> Shade | None:
    """The figure's colour, where there is one, and black or white: whichever stands out more on it, by 4.5 to 1."""
    if figure.value is None or figure.withheld:
        return None
    return Shade(to_hex(_MAP(figure.value)), "#000" if figure.value > _MIDDLE else "#fff")


def scale() -> str:
    """The colours from 0 to 100 as a CSS gradient, for the legend."""
    return f"linear-gradient(to right, {', '.join(to_hex(_MAP(step / 8)) for step in range(9))})"
