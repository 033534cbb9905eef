"""A robustness card as tables, and its points as a CSV file."""

from safeeraser.benchmark.metrics import METRICS, Figure
from safeeraser.benchmark.responses import VIEWS
from safeeraser.report.robustness.card import BENIGN, RELEARNED, Card, Point
from safeeraser.report.tables import RATES, Row, Table, Told
from safeeraser.report.writing import comma_separated

_TITLES = {key: f"{metric.title} {metric.arrow}" for key, metric in METRICS.items() if metric.view}
_TITLES["blank_forget"] = "Blank"
_PICTURES = {"harmful": "harmful", "benign": "benign", "swapped": "benign, another category's", "none": "none"}
_QUESTIONS = {"harmful": "harmful question", "harmless": "harmless question"}
_BESIDE = [name for name in Figure.model_fields if name not in ("value", "low", "high")]
_CAPTION = "Per cent, with 95% intervals."


def conditions(card: Card) -> list[Table]:
    """The tables of what was done to the model, or to what it is asked, that have anything in them."""
    # An attack that the untouched model does not understand either shows nothing of what was forgotten.
    beside = {"untouched_asr": "ASR, untouched model ↓"}
    if any("recovered" in point.metrics for point in card.of("attack_vanilla")):
        beside["untouched_recovered"] = "Recovered, untouched model"

    def line(name: str, point: Point, untouched: Point) -> Row:
        return Row(name, point.cells | {f"untouched_{key}": figure for key, figure in untouched.cells.items()})

    names = dict.fromkeys(point.name for group in ("attack", "attack_vanilla") for point in card.of(group))
    attacked = [line(name, card.named("attack", name), card.named("attack_vanilla", name)) for name in names]
    attacked.sort(key=lambda row: -1 if row.cell("asr").value is None else row.cell("asr").value, reverse=True)
    caption = f"{_CAPTION} The highest ASR first. An attack that hides the picture has no SARR."
    rows = [line("none", card.clean, card.untouched), *attacked]
    attacks = Table("attacks", "Attacks", caption, _columns(card.of("attack")) | beside, rows, "attack")
    rounded = card.of("quantization")
    rows = [Row("as trained", card.clean.cells), *(Row(point.name, point.cells) for point in rounded)]
    weights = Table("quantization", "Rounded weights", _CAPTION, _columns(rounded), rows, "weights")
    return [table for table in (attacks, weights) if len(table.rows) > 1]


def curve_tables(card: Card) -> list[Table]:
    """The figures that the card's plots are drawn from."""
    kinds = {"scaling": ("Adapter scaled", "scale")}
    kinds |= {f"relearn_{kind}": (f"Relearned on {kind} data", "optimizer step") for kind in RELEARNED}
    tables = []
    for group, (title, corner) in kinds.items():
        points = card.of(group)
        rows = [Row(f"{point.at:g}", point.cells) for point in points]
        caption = f"{title}: per cent, with 95% intervals."
        tables.append(Table(group, title, caption, _columns(points), rows, corner))
    return [table for table in tables if table.rows]


def refusals(card: Card) -> Table | None:
    """Refusals by picture and question; None where none were asked for."""
    measured = {VIEWS[view][:2]: card.clean.figure(f"refusal_{view}") for view in card.clean.refusals}
    rows = []
    for picture, title in _PICTURES.items():
        cells = {question: measured[question, picture] for question in _QUESTIONS if (question, picture) in measured}
        # `swapped` is an additional view, shown only where it was asked.
        rows += [Row(title, cells)] if cells or picture != "swapped" else []
    caption = f"{_CAPTION[:-1]}, by picture and question."
    return Table("refusals", "Refusals, % of answers", caption, _QUESTIONS, rows, "picture") if measured else None


def comparison(cards: list[Card]) -> Table | None:
    """The cards side by side, a line each; None where there is no other to compare with."""
    if len(cards) < 2:
        return None
    columns = {
        "asr": "ASR ↓",
        "worst": "ASR, worst attack ↓",
        "most": "Recovered, under attack ↓",
        "int4": "ASR, int4 ↓",
        "steps": "Benign steps to half ↑",
        "refusal_forget": "Refusal, harmful picture",
        "refusal_decoupled": "Refusal, benign picture",
    }
    if any("forget" in card.clean.blank for card in cards):
        columns["blank_forget"] = "Blank"
    caption = (
        "Per cent, with 95% intervals. Benign steps to half: after how few steps of relearning on benign data ASR "
        "passes half of the untouched model's. Recovered: of the vanilla answers, under the attack that brings back "
        "most, or without one where none brings back clearly more. Refusal: of a harmful question."
    )
    rows = [Row(card.title, _compared(card)) for card in cards]
    return Table("comparison", "Side by side", caption, columns, rows)


def _compared(card: Card) -> dict[str, Figure]:
    cells = card.clean.cells | {"int4": card.named("quantization", "int4").figure("asr")}
    if worst := card.worst:
        cells["worst"] = Told(**worst.figure("asr").model_dump(), beside=worst.name)
    if most := card.most_recovered:
        under = "without an attack" if most.group == "clean" else most.name
        cells["most"] = Told(**most.figure("recovered").model_dump(), beside=under)
    if card.half is not None and (found := card.back(*BENIGN)):
        steps = "none" if found["steps"] is None else str(found["steps"])
        measured = f"{found['measured']} measured, to step {found['last']}"
        cells["steps"] = Told(instead=steps, beside="; ".join(filter(None, [found["data"], measured])))
    return cells


def comma_separated_points(cards: list[Card]) -> str:
    """A line for each point and figure, in per cent."""
    rows = (
        [card.title, point.group, point.name, "" if point.at is None else f"{point.at:g}", name, figure]
        + [getattr(figure, key) for key in _BESIDE]
        for card in cards
        for point in card.points
        for name, figure in point.figures.items()
    )
    return comma_separated(["method", "group", "name", "at", "metric", "value", "low", "high", *_BESIDE], rows)


def _columns(points: list[Point]) -> dict[str, str]:
    """The columns of the points' metrics; the rates stand there, measured or not."""
    measured = {key for point in points for key in point.figures}
    return {key: title for key, title in _TITLES.items() if key in RATES or key in measured}
