"""The runs' results as tables: the paper's, with what was published, and how much was answered with nothing at all."""

import json
from pathlib import Path

from safeeraser.benchmark.metrics import COLUMNS, METRICS, Figure
from safeeraser.benchmark.responses import VIEWS
from safeeraser.report.tables import Row, Table

_TITLES = {key: column.title for key, column in COLUMNS.items()}


def paper_table(rows: list[Row], published: list[Row]) -> Table:
    """The paper's table of the runs."""
    caption = (
        "Per cent, with 95% intervals where known. Efficacy on the training questions, all else on all_val. "
        "↓: lower is better. –: not measured."
    )
    return Table("runs", "Results", caption, _TITLES, rows, published=published)


def published_table() -> Table:
    """The published figures in the same columns."""
    told = json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))
    rows = []
    for row in told["rows"]:
        figures = zip(told["columns"], row["values"], strict=True)
        rows.append(Row(row["name"], {key: Figure(value=number / 100) for key, number in figures}))
    caption = f"Per cent, on the full benchmark with GPT-4o as the judge. Source: {told['source']}."
    return Table("published", "Published figures", caption, _TITLES, rows)


def blank_table(rows: list[Row]) -> Table:
    """The share of blank responses by view: those that the metrics are measured on, and others that some run has.

    Blank responses are no refusals, so ASR and RR together do not tell how many there are.
    """
    measured = [metric.view for metric in METRICS.values() if metric.view]
    views = dict.fromkeys(measured + [view for view in VIEWS if any(f"blank_{view}" in row.cells for row in rows)])
    titles = {"blank_forget_eff": "forget, train"} | {f"blank_{view}": view.replace("_", " ") for view in views}
    caption = (
        "Per cent of the responses that are there, by view, on all_val but for the first column. –: the summary does "
        "not tell."
    )
    return Table("blank", "Blank responses, %", caption, titles, rows)
