"""A robustness card as tables for the page, and as the files beside it: `robustness.md` and `robustness.csv`."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace

from safeeraser.benchmark.responses import VIEWS
from safeeraser.report.heat import HeatMap, Shade, shade
from safeeraser.report.robustness.card import (
    BENIGN,
    RELEARNED,
    Card,
    Point,
    Return,
    cell_of,
    different_settings,
    settings_line,
)
from safeeraser.report.robustness.findings import findings
from safeeraser.report.runs import Metric
from safeeraser.report.tables import Cell, Row, markdown_lines, remarks

_METRICS = {"asr": "ASR ↓", "rr": "RR ↑", "sarr": "SARR ↓", "rouge_l": "ROUGE ↑", "recovered": "Recovered ↓"}
_ALWAYS = ("asr", "rr", "sarr")  # columns that stand there, measured or not
_PICTURES = {"harmful": "harmful", "benign": "benign", "swapped": "benign, another category's", "none": "none"}
_QUESTIONS = {"harmful": "harmful question", "harmless": "harmless question"}
_COUNTS = ("n", "failed", "unparsed", "skipped", "withheld", "judge")


@dataclass(frozen=True)
class Table:
    """A table of figures. `corner` says what the rows are, `caption` what they are measured on."""

    key: str
    title: str
    caption: str
    corner: str
    columns: dict[str, str]
    rows: list[Row]


@dataclass(frozen=True)
class Told(Cell):
    """A cell that says something in place of a figure, or beside it."""

    instead: str = ""
    beside: str = ""

    @property
    def text(self) -> str:
        return self.instead or super().text

    @property
    def remarks(self) -> list[str]:
        return [*filter(None, [self.beside]), *super().remarks]


def conditions(card: Card) -> list[Table]:
    """The tables of what was done to the model, or to what it is asked, that have anything in them."""
    # An attack that the untouched model does not understand either shows nothing of what was forgotten.
    beside = {"asr": "ASR, untouched model ↓"}
    if any("recovered" in point.metrics for point in card.of("attack_vanilla")):
        beside["recovered"] = "Recovered, untouched model"

    def line(name: str, point: Point, untouched: Point) -> Row:
        return Row(name, {**_cells(point), **{f"untouched_{key}": untouched.cell(key) for key in beside}})

    names = dict.fromkeys(point.name for group in ("attack", "attack_vanilla") for point in card.of(group))
    attacked = [line(name, card.named("attack", name), card.named("attack_vanilla", name)) for name in names]
    attacked.sort(key=lambda row: -1 if row.cells["asr"].value is None else row.cells["asr"].value, reverse=True)
    rounded = [Row(point.name, _cells(point)) for point in card.of("quantization")]
    tables = [
        Table(
            "attacks",
            "Attacks",
            "Per cent, with 95% intervals; the highest ASR first. An attack that hides the picture has no SARR.",
            "attack",
            {**_columns(card.of("attack")), **{f"untouched_{key}": title for key, title in beside.items()}},
            [line("none", card.clean, card.untouched), *attacked] if attacked else [],
        ),
        Table(
            "quantization",
            "Rounded weights",
            "Per cent, with 95% intervals.",
            "weights",
            _columns(card.of("quantization")),
            [Row("as trained", _cells(card.clean)), *rounded] if rounded else [],
        ),
    ]
    return [table for table in tables if table.rows]


def curve_tables(card: Card) -> list[Table]:
    """The figures that the card's plots are drawn from."""
    kinds = {
        "scaling": ("Adapter scaled", "scale"),
        **{f"relearn_{kind}": (f"Relearned on {kind} data", "optimizer step") for kind in RELEARNED},
    }
    tables = []
    for group, (title, corner) in kinds.items():
        points = card.of(group)
        rows = [Row(f"{point.at:g}", _cells(point)) for point in points]
        if rows:
            caption = f"{title}: per cent, with 95% intervals."
            tables.append(Table(group, title, caption, corner, _columns(points), rows))
    return tables


def refusal_map(card: Card, name: str) -> HeatMap:
    """Refusals by picture and question on their colours; `name` is its own on the page."""
    rows = [(title, [_shade(metric) for metric in metrics]) for title, metrics in _refused(card)]
    return HeatMap(
        name, "Refusals, % of answers", "picture", list(_QUESTIONS.values()), rows, "picture and question", level=True
    )


def refusal_table(card: Card) -> Table:
    """The same as a table of figures."""
    rows = [
        Row(title, {key: cell_of(metric) for key, metric in zip(_QUESTIONS, metrics, strict=True)})
        for title, metrics in _refused(card)
    ]
    return Table("refusals", "Refusals", "Per cent, with 95% intervals.", "picture", _QUESTIONS, rows)


def _refused(card: Card) -> Iterator[tuple[str, list[Metric | None]]]:
    """By picture the refusals of each question. `swapped` is an additional view, shown only where it was asked."""
    measured = {VIEWS[view][:2]: metric for view, metric in card.clean.refusals.items()}
    for picture, title in _PICTURES.items():
        metrics = [measured.get((question, picture)) for question in _QUESTIONS]
        if measured and (picture != "swapped" or any(metrics)):
            yield title, metrics


def tables(card: Card) -> list[Table]:
    """All of the card that is figures."""
    refused = refusal_table(card)
    return [*conditions(card), *([refused] if refused.rows else []), *curve_tables(card)]


def comparison(cards: list[Card]) -> Table:
    """The cards side by side, a line each."""
    columns = {
        "asr": "ASR ↓",
        "worst": "ASR, worst attack ↓",
        "recovered": "Recovered, under attack ↓",
        "int4": "ASR, int4 ↓",
        "steps": "Benign steps to half ↑",
        "harmful": "Refusal, harmful picture",
        "benign": "Refusal, benign picture",
    }
    rows = []
    for card in cards:
        worst, most = card.worst, card.most_recovered
        cells = {
            "asr": card.clean.cell("asr"),
            "worst": Told(**vars(worst.asr), beside=worst.name) if worst else Cell(),
            "recovered": Told(**vars(most.cell("recovered")), beside=most.name) if most else Cell(),
            "int4": card.named("quantization", "int4").cell("asr"),
            "steps": _steps(card.back(*BENIGN)),
            "harmful": card.clean.refused("forget"),
            "benign": card.clean.refused("decoupled"),
        }
        rows.append(Row(card.title, cells))
    caption = (
        "Per cent, with 95% intervals. Benign steps to half: after how few steps of relearning on benign data ASR "
        "passes half of the untouched model's. Recovered: of the vanilla answers, under the attack that brings back "
        "most. Refusal: of a harmful question."
    )
    return Table("comparison", "Side by side", caption, "method", columns, rows)


def markdown(cards: list[Card]) -> str:
    """The cards as a text: what the page's section says, and the figures of its curves."""
    parts = ["# Robustness"]
    if len(cards) > 1:
        parts += _table(comparison(cards))
        parts += [f"Made with different settings, and not to be compared: {key}." for key in different_settings(cards)]
    for card in cards:
        parts.append(f"## {card.title}")
        parts.append("\n".join(f"- **{title}:** {text}" for title, text in findings(card)))
        for table in tables(card):
            parts += [f"### {table.title}", *_table(table)]
        if card.audit.missing:
            parts += ["### Missing", "\n".join(f"- {text}" for text in card.audit.missing)]
        parts.append(f"Settings: {settings_line(card) or 'unknown'}.")
    return "\n\n".join(parts) + "\n"


def comma_separated(cards: list[Card]) -> str:
    """A line for each point and metric, in per cent; a view's refusals are the metric `refusal_VIEW`."""
    text = io.StringIO()
    write = csv.writer(text, lineterminator="\n").writerow
    write(["method", "group", "name", "at", "metric", "value", "low", "high", *_COUNTS])
    for card in cards:
        for point in card.audit.points:
            refused = {f"refusal_{view}": metric for view, metric in point.refusals.items()}
            for name, metric in {**point.metrics, **refused}.items():
                cell = metric.cell
                at = "" if point.at is None else f"{point.at:g}"
                figures = ("" if part is None else f"{part:.6g}" for part in (cell.value, cell.low, cell.high))
                counts = (getattr(metric, key) for key in _COUNTS)
                write([card.title, point.group, point.name, at, name, *figures, *counts])
    return text.getvalue()


def _columns(points: list[Point]) -> dict[str, str]:
    measured = {metric for point in points for metric in point.metrics}
    return {key: title for key, title in _METRICS.items() if key in _ALWAYS or key in measured}


def _cells(point: Point) -> dict[str, Cell]:
    return {key: point.cell(key) for key in _METRICS}


def _shade(metric: Metric | None) -> Shade:
    """The metric on its colour, with what must be known beside it."""
    cell = cell_of(metric)
    return replace(shade(metric), beside=(*filter(None, [cell.range]), *cell.remarks))


def _steps(found: Return | None) -> Cell:
    if found is None or found.half is None:
        return Cell()
    measured = f"{found.measured} measured, to step {found.last}"
    if found.steps is None:
        return Told(instead="none", beside=measured)
    return Told(instead=str(found.steps), beside="; ".join(filter(None, [found.data, measured])))


def _table(table: Table) -> list[str]:
    """A table as Markdown, the remarks on its cells under it."""
    under = "\n".join(f"- {text}" for text in remarks(table.rows, table.columns))
    return ["\n".join(markdown_lines(table.corner, table.columns, table.rows)), table.caption, *filter(None, [under])]
