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


def heat_maps(runs: list[Run], kind: str) -> list[Table]:
    """A map for each rate that some run has by `kind` (`category` or `keyword`) on val.

    Runs go down the page; but a benchmark has many keywords and few runs, so keywords do.
    """
    maps = []
    for metric in RATES:
        found = {run.title: getattr(run.val, f"by_{kind}").get(metric) for run in runs if run.val}
        groups = {title: group for title, group in found.items() if group}
        names = sorted(set().union(*groups.values()), key=lambda name: (name not in CATEGORIES, name))
        rows, columns, corner = [Row(title, group) for title, group in groups.items()], names, "method"
        if kind == "keyword":
            by_name = {name: {title: group[name] for title, group in groups.items() if name in group} for name in names}
            rows, columns, corner = [Row(name, cells) for name, cells in by_name.items()], list(groups), kind
        if rows:
            title, caption = f"{METRICS[metric].title} {METRICS[metric].arrow}", f"By {kind}, per cent."
            heads = {column: column for column in columns}
            maps.append(Table(f"{kind}-{metric}", title, caption, heads, rows, corner))
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
