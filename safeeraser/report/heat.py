"""Heat maps: tables with a figure in each cell, which a screen reader reads, on a colour that shows where to look."""

from safeeraser.benchmark.metrics import METRICS
from safeeraser.benchmark.records import CATEGORIES
from safeeraser.report.runs import Run
from safeeraser.report.tables import RATES, Row, Table


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
            told, corner = METRICS[metric], kind if kind == "keyword" else "method"
            heads = {column: column for column in columns}
            title, caption = f"{told.title} {told.arrow}", f"By {kind}, per cent."
            maps.append(Table(f"{kind}-{metric}", title, caption, heads, rows, corner, better=told.better))
    return maps
