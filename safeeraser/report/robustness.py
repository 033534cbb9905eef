"""The robustness card: a run's audit as tables, all of them picked from its rows of the table of figures."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safeeraser.benchmark.audits import CURVES, Audit
from safeeraser.benchmark.conclusions import Conclusions
from safeeraser.benchmark.figures import AUDITED, CONTROLS, NOTHING, SUBJECTS, Row, find, pick
from safeeraser.benchmark.metrics import METRICS
from safeeraser.benchmark.responses import VIEWS
from safeeraser.report.read import Run
from safeeraser.report.tables import RATES, Line, Table

TITLES = {key: f"{metric.title} {metric.arrow}" for key, metric in METRICS.items() if metric.view} | {"blank": "Blank"}
INSIDE = {"gap": "NLL gap, nats", "exact_3": "Extracted", "depth": "Depth, nats", "probe": "Probe"}
BOUNDS = {"0.1": "Steps to ASR 10%", "0.5": "Steps to ASR 50%"}
PICTURES = {"harmful": "harmful", "benign": "benign", "swapped": "benign, another category's", "none": "none"}
QUESTIONS = {"harmful": "harmful question", "harmless": "harmless question"}
BESIDE = {"asr": "ASR", "recovered": "Recovered"}  # what controls are shown by beside the audited model
CAPTION = "Per cent, with 95% intervals."


@dataclass(frozen=True)
class Card:
    """A run's audit, as the page shows it."""

    name: str
    title: str
    audit: Audit
    rows: list[Row]
    conclusions: Conclusions

    def of(self, condition: str, metric: str = "asr", subject: str = AUDITED) -> list[Row]:
        """A subject's figures of a condition; of a curve in the order in which they stand on it."""
        return sorted(
            pick(self.rows, subject=subject, condition=condition, metric=metric), key=lambda row: row.position
        )

    def figure(self, metric: str, condition: str = "clean", **where: Any) -> Row:
        """One figure, of the audited model unless a subject is named."""
        return find(self.rows, **{"subject": AUDITED, "condition": condition, "metric": metric} | where)


def read_cards(runs: list[Run]) -> list[Card]:
    """The cards of the runs that were audited, in the runs' order."""
    audited = [(run, run.audit) for run in runs if run.audit]
    return [Card(run.name, run.title, audit, run.audit_rows, audit.conclusions()) for run, audit in audited]


def condition_tables(card: Card) -> list[Table]:
    """The tables of who was asked, and of what was done to the model, that have anything in them."""
    clean = _line(card, "as trained", {"condition": "clean"}, ())
    rounded = [_line(card, name, {"condition": "quantized", "name": name}, ()) for name in _places(card, "quantized")]
    lines = [clean, *rounded] if rounded else []
    weights = Table("quantization", "Rounded weights", CAPTION, _columns(rounded), lines, "weights")
    tables = [_controls(card), _way(card), _attacks(card), _relearning(card), _sampling(card), weights]
    return [table for table in tables if table.rows]


def _places(card: Card, condition: str) -> dict[str, Row]:
    """Where some subject was measured in a condition, by its name; the first figure there stands for it."""
    order = {subject: place for place, subject in enumerate(SUBJECTS)}
    rows = sorted((row for row in card.rows if row.condition == condition), key=lambda row: order[row.subject])
    places: dict[str, Row] = {}
    for row in rows:
        places.setdefault(row.name, row)
    return places


def _cells(card: Card, subject: str, **where: Any) -> dict[str, Row]:
    """What a subject's responses show in one place, by metric; of blank responses those to the forget view."""
    rows = pick(card.rows, subject=subject, **where)
    return {row.metric: row for row in rows if row.metric != "refusal" and row.view in ("", _view(row.metric))}


def _view(metric: str) -> str:
    return METRICS[metric].view or "forget" if metric in METRICS else "forget"


def _line(card: Card, name: str, where: dict[str, Any], controls: Collection[str] = CONTROLS) -> Line:
    """The audited model's figures in one place, and the controls' behind their names."""
    cells: dict[Any, Row] = dict(_cells(card, AUDITED, **where))
    for subject in controls:
        cells |= {_key(subject, metric): row for metric, row in _cells(card, subject, **where).items()}
    return Line(name, cells)


def _key(subject: str, metric: str) -> str:
    """The column of a control's figure."""
    return f"{subject} {metric}"


def _columns(
    lines: list[Line],
    always: Collection[str] = RATES,
    more: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """The columns of what was measured; metrics of `always` are there in any case.

    Args:
        more: columns between the metrics and the controls.
    """
    known = {key for line in lines for key in line.cells}
    own = {metric: title for metric, title in TITLES.items() if metric in always or metric in known}
    return own | dict(more) | _control_columns(lines, BESIDE)


def _control_columns(lines: list[Line], titles: Mapping[str, str]) -> dict[str, str]:
    """The columns of the controls' figures; `titles`: the heads of those that are shown, by metric."""
    known = {key for line in lines for key in line.cells}
    columns = {_key(one, metric): f"{head}\n{one}" for one in CONTROLS for metric, head in titles.items()}
    return {column: head for column, head in columns.items() if column in known}


def _controls(card: Card) -> Table:
    """Each model as it is."""
    asked = [subject for subject in SUBJECTS if subject in card.audit.controls or subject == AUDITED]
    inside = {
        subject: {row.metric: row for row in pick(card.rows, subject=subject, condition="inside", at=None)}
        for subject in asked
    }
    lines = [Line(one, _cells(card, one, condition="clean") | inside[one]) for one in asked]
    columns = {key: TITLES[key] for key in ("asr", "rr", "sarr", "rouge_l", "recovered")}
    columns |= {key: title for key, title in INSIDE.items() if any(key in line.cells for line in lines)}
    caption = (
        f"{CAPTION} vanilla: the untouched model; tuned: fine-tuned without forgetting; told: vanilla, asked to "
        "refuse; never_knew: trained without what was to be forgotten."
    )
    return Table("controls", "Controls", caption, columns, lines if len(lines) > 1 else [], "model")


def _way(card: Card) -> Table:
    """How far each measure has come, those that the other tables show; the table of figures has all."""
    end = {"floor": "answers paired at random"}.get(card.audit.shares_to, card.audit.shares_to)
    titles = {key: title.partition(",")[0] for key, title in INSIDE.items()}
    titles |= {key: metric.title for key, metric in METRICS.items()}
    shares: dict[str, dict[str, Row]] = {key: {} for key in titles}
    for row in pick(card.rows, relative="way"):
        shares.setdefault(row.metric, {})[row.subject] = row
    lines = [Line(titles[key], shares[key]) for key in titles if shares[key]]
    columns = {one: one for one in SUBJECTS if any(one in line.cells for line in lines)}
    caption = f"{CAPTION} 0 is vanilla, 100 {end}. –: the two cannot be told apart."
    return Table("way", f"The way from vanilla to {end}", caption, columns, lines, "measure")


def _attacks(card: Card) -> Table:
    """The attacks, and what they bring out of the controls: who never knew recovers nothing."""
    lines = [_line(card, name, {"condition": "attack", "name": name}) for name in _places(card, "attack")]
    lines.sort(key=lambda line: line.cell("asr").sort_key, reverse=True)
    more: dict[str, str] = {}
    caption = f"{CAPTION} The highest ASR first. An attack that hides the picture has no SARR."
    if any(row.condition == "attack" and row.relative == "clean" for row in card.rows):
        more = {"gain": "Recovered\nmore than without", "q": "q"}
        caption += " q: the false-discovery rate at which the difference to no attack would be told."
    columns = _columns(lines, more=more)
    for line in lines:
        gain = card.figure("recovered", "attack", name=line.name, relative="clean")
        q = Row(text_instead="–" if gain.q is None else f"{gain.q:.2g}")
        line.cells.update(gain=gain, q=q)
    first = [_line(card, "none", {"condition": "clean"})] if lines else []
    return Table("attacks", "Attacks", caption, columns, first + lines, "attack")


def _relearning(card: Card) -> Table:
    """What it takes to bring ASR back, by what was relearned."""
    subjects = {row.subject for row in card.rows if row.metric == "steps_to"}
    asked = [subject for subject in SUBJECTS if subject in subjects]
    lines: dict[str, Line] = {}
    for row in card.rows:
        if row.metric in ("steps_to", "area"):
            line = lines.setdefault(row.name, Line(row.name, {}))
            line.cells[_key(row.subject, row.group or "area")] = row
    columns = {_key(one, bound): f"{title}\n{one}" for bound, title in BOUNDS.items() for one in asked}
    # never_knew's own area is 0.
    columns |= {_key(one, "area"): f"Area over never_knew\n{one}" for one in asked if one != "never_knew"}
    caption = (
        "Optimizer steps of plain fine-tuning until ASR passes 10 and 50%; >: not within so many. Area: how far "
        "ASR lies above never_knew's, in points, on the average over log2(1 + step)."
    )
    return Table("relearning", "Relearning", caption, columns, list(lines.values()), "relearned on")


def _sampling(card: Card) -> Table:
    """How often one of several samples is harmful."""
    lines = [_line(card, name, {"condition": "sampled", "name": name}) for name in _places(card, "sampled")]
    metrics = {row.metric for row in card.rows if row.metric.startswith("asr@")}
    titles = {key: key.upper() for key in sorted(metrics, key=lambda key: (len(key), key))}
    caption = "Harmful questions of which one of n samples is answered, per cent, with 95% intervals."
    return Table("sampling", "Sampling", caption, titles | _control_columns(lines, titles), lines, "temperature")


def curve_tables(card: Card) -> list[Table]:
    """The figures that the card's plots are drawn from."""
    tables = [_curve(card, "scaling", "Adapter scaled", "scale", {"condition": "scaled"}, "")]
    for name in card.audit.attackers:
        seeds = {row.seed for row in card.rows if row.condition == "relearned" and row.name == name} - {""}
        over = f"; means over {len(seeds)} seeds" if len(seeds) > 1 else "; one seed" if seeds else ""
        title, where = f"Relearned on {name} data", {"condition": "relearned", "name": name}
        tables.append(_curve(card, f"relearn_{name}", title, "optimizer step", where, over))
    return [table for table in tables if table.rows]


def _curve(card: Card, key: str, title: str, corner: str, where: dict[str, Any], over: str) -> Table:
    steps = sorted({row.at for row in card.rows if row.at is not None and _is_at(row, where)})
    lines = [_line(card, f"{at:g}", where | {"at": at}) for at in steps]
    caption = f"{title}: per cent, with 95% intervals{over}."
    return Table(key, title, caption, _columns(lines, ()), lines, corner)


def _is_at(row: Row, where: dict[str, Any]) -> bool:
    return row.condition in CURVES and all(getattr(row, name) == value for name, value in where.items())


def refusal_table(card: Card) -> Table | None:
    """Refusals by picture and question; None where none were asked for."""
    rows = pick(card.rows, subject=AUDITED, condition="clean", metric="refusal")
    measured = {(VIEWS[row.view].question, VIEWS[row.view].picture): row for row in rows}
    lines = []
    for picture, title in PICTURES.items():
        cells = {question: measured[question, picture] for question in QUESTIONS if (question, picture) in measured}
        # `swapped` is an additional view, shown only where it was asked.
        lines += [Line(title, cells)] if cells or picture != "swapped" else []
    caption = f"{CAPTION[:-1]}, by picture and question."
    return Table("refusals", "Refusals, % of answers", caption, QUESTIONS, lines, "picture") if measured else None


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
    lines = [Line(card.title, _compared(card)) for card in cards]
    known = {key for line in lines for key in line.cells}
    may_be = {"blank": "Blank", "gone_gap": "Gone, by NLL gap ↑", "gone_depth": "Gone, by depth ↑"}
    may_be["area"] = "Area, relearned on benign data ↓"
    columns |= {key: title for key, title in may_be.items() if key in known}
    caption = (
        "Per cent, with 95% intervals. Benign steps to half: after how few steps of relearning on benign data ASR "
        "passes half of the untouched model's. Recovered: of the vanilla answers, under the attack that brings back "
        "most, or without one where none brings back clearly more. Refusal: of a harmful question."
    )
    if known & {"gone_gap", "gone_depth", "area"}:
        caption += (
            " Gone: share of the way from vanilla (0) to a model that never knew (100), by depth never past its end. "
            "Area: how far ASR lies above that one's, in points, on the average over log2(1 + step), on the benign "
            "data where that is most."
        )
    return Table("comparison", "Side by side", caption, columns, lines)


def _compared(card: Card) -> dict[str, Row]:
    concluded = card.conclusions
    cells = _cells(card, AUDITED, condition="clean") | {"int4": card.figure("asr", "quantized", name="int4")}
    for view in ("forget", "decoupled"):
        cells[f"refusal_{view}"] = card.figure("refusal", view=view)
    if concluded.worst is not None:
        worst = card.figure("asr", "attack", name=concluded.worst)
        cells["worst"] = worst.model_copy(update={"note": concluded.worst})
    if concluded.most_recovered is not None:
        name = concluded.most_recovered
        most = card.figure("recovered", "attack", name=name) if name else card.figure("recovered")
        cells["most"] = most.model_copy(update={"note": name or "without an attack"})
    if concluded.half is not None and (back := concluded.back["benign"]):
        steps = "none" if back.steps is None else str(back.steps)
        note = "; ".join(filter(None, [back.data, f"{back.measured} measured, to step {back.last}"]))
        cells["steps"] = Row(text_instead=steps, note=note)
    for metric in ("gap", "depth"):
        if (share := find(card.rows, subject=AUDITED, metric=metric, relative="way")) is not NOTHING:
            cells[f"gone_{metric}"] = share
    areas = pick(card.rows, subject=AUDITED, metric="area", relative="never_knew")
    if areas := [row for row in areas if row.name in concluded.benign]:
        most_area = max(areas, key=lambda row: row.sort_key)
        cells["area"] = most_area.model_copy(update={"note": most_area.name})
    return cells


def different_settings(cards: Iterable[Card]) -> list[str]:
    """The settings that keep the cards' figures from being compared."""
    settings = [
        {
            "model_path": card.audit.model_path,
            "never_knew": card.audit.controls.get("never_knew", {}).get("base"),
            **card.audit.settings,
        }
        for card in cards
    ]
    # Where a file lies makes no difference; what is in it has a hash of its own.
    keys = dict.fromkeys(key for one in settings for key in one if not key.endswith("_file"))
    return [key for key in keys if any(one.get(key) != settings[0].get(key) for one in settings)]


def spell_settings(card: Card) -> str:
    """What the audit was made with, for a caption: `limit 5, relearning (rank 8, steps 1 2)`."""
    digest = {"checkpoint_sha256": card.audit.checkpoint_sha256} if card.audit.checkpoint_sha256 else {}
    return _spell(card.audit.settings | digest)


def _spell(value: Any, key: str = "") -> str:
    """As much of a setting as tells it from another: a hash's beginning, a file's name."""
    if isinstance(value, dict):
        parts = ", ".join(f"{name} {_spell(part, name)}" for name, part in value.items() if part != {})
        return f"({parts})" if key else parts
    if isinstance(value, list):
        return " ".join(map(str, value))
    text = "none" if value is None else str(value)
    return text[:12] if key.endswith("_sha256") else Path(text).name if key.endswith("_file") else text


def card_json(card: Card) -> dict[str, Any]:
    """The card in the run's entry of `summary.json`: fractions 0..1, null where not measured."""
    concluded, audit = card.conclusions, card.audit
    worst = concluded.worst
    attack = worst and {
        "name": worst,
        "asr": card.figure("asr", "attack", name=worst).value,
        "untouched_asr": card.figure("asr", "attack", name=worst, subject="vanilla").value,
        "measured": sum(row.value is not None for row in card.of("attack")),
    }
    back = {name: of and of.model_dump() for name, of in concluded.back.items()}
    by_view = {name: pick(card.rows, subject=AUDITED, condition="clean", metric=name) for name in ("refusal", "blank")}
    return {
        "asr": card.figure("asr").value,
        "untouched_asr": card.figure("asr", subject="vanilla").value,
        "worst_attack": attack,
        "quantization": {row.name: row.value for row in card.of("quantized")},
        "relearning_to_half": {name: concluded.half and of for name, of in back.items()},
        "refusals": {row.view: row.value for row in by_view["refusal"]},
        "blank": {row.view: row.value for row in by_view["blank"]},
        "findings": [finding.model_dump() for finding in audit.findings],
        "shares": {
            measure: {subject: one.model_dump(include={"value", "low", "high", "n"}) for subject, one in of.items()}
            for measure, of in audit.shares.items()
        },
        "relearning": {
            attacker: {subject: curve.model_dump() for subject, curve in of.items()}
            for attacker, of in audit.relearning.items()
        },
        "settings": audit.settings,
        "missing": audit.missing,
    }
