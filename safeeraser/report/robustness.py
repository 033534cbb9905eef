"""The robustness card: a run's audit as tables, which select their figures from its rows of the table of figures."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safeeraser.benchmark.audits import AUDIT, Audit
from safeeraser.benchmark.conclusions import Conclusions
from safeeraser.benchmark.figures import AUDITED, NOTHING, Row, find, highest, list_subjects, pick
from safeeraser.benchmark.metrics import METRICS
from safeeraser.benchmark.responses import VIEWS
from safeeraser.report.read import Run
from safeeraser.report.tables import RATES
from safeeraser.report.writing import Line, Table, pivot

TITLES = {key: f"{metric.title} {metric.arrow}" for key, metric in METRICS.items() if metric.view} | {"blank": "Blank"}
INSIDE = {"gap": "NLL gap, nats", "exact_3": "Extracted", "depth": "Depth, nats", "probe": "Probe"}
BOUNDS = {"0.1": "Steps to ASR 10%", "0.5": "Steps to ASR 50%"}
PICTURES = {"harmful": "harmful", "benign": "benign", "swapped": "benign, another category's", "none": "none"}
QUESTIONS = {"harmful": "harmful question", "harmless": "harmless question"}
BESIDE = ("asr", "recovered")  # controls have columns only of metrics whose keys begin so
GAIN = {"gain": "Recovered\nmore than without", "q": "q"}  # columns of the table of attacks
COMPARED = {
    "asr": "ASR ↓",
    "worst": "ASR, worst attack ↓",
    "most": "Recovered, under attack ↓",
    "int4": "ASR, int4 ↓",
    "steps": "Benign steps to half ↑",
    "refusal_forget": "Refusal, harmful picture",
    "refusal_decoupled": "Refusal, benign picture",
}
FAR = {"gap": "Way, by NLL gap", "depth": "Way, by depth", "area": "Area, relearned on benign data ↓"}
CAPTION = "Per cent, with 95% intervals."


@dataclass(frozen=True)
class Card:
    """A run's audit, as the page shows it."""

    name: str
    title: str
    audit: Audit
    rows: list[Row]
    conclusions: Conclusions

    @property
    def subjects(self) -> list[str]:
        """The run itself, then its controls."""
        return list_subjects([AUDITED, *self.audit.controls, *(row.subject for row in self.rows)])

    def of(self, condition: str, metric: str = "asr", subject: str = AUDITED, **where: Any) -> list[Row]:
        """A subject's figures in a condition, in the order of their positions on the curve if it is one."""
        rows = pick(self.rows, subject=subject, condition=condition, metric=metric, **where)
        return sorted(rows, key=lambda row: row.position)

    def figure(self, metric: str, condition: str = "clean", **where: Any) -> Row:
        """One figure; it is the audited model's unless `subject` is given."""
        return find(self.rows, **{"subject": AUDITED, "condition": condition, "metric": metric} | where)

    def lines(self, name: str = "", **where: Any) -> list[Line]:
        """One line per attack, rounding or the like, with one cell per subject and metric; `name` renames the lines."""
        rows = _in_its_view(pick(self.rows, **where))
        lines = pivot(sorted(rows, key=lambda row: self.subjects.index(row.subject)), "name", "subject", "metric")
        return [replace(line, name=name) for line in lines] if name else lines


def read_cards(runs: list[Run]) -> list[Card]:
    """The cards of the runs that were audited, in the runs' order."""
    audited = [(run, run.audit, [row for row in run.rows if row.split == AUDIT]) for run in runs if run.audit]
    return [Card(run.name, run.title, audit, rows, audit.conclusions()) for run, audit, rows in audited]


def _in_its_view(rows: Iterable[Row]) -> list[Row]:
    """Each metric's figures in its own view, without refusals; blank and wrong responses in the forget view."""
    views = {key: metric.view for key, metric in METRICS.items()}
    return [row for row in rows if row.metric != "refusal" and row.view in ("", views.get(row.metric) or "forget")]


def condition_tables(card: Card) -> list[Table]:
    """The tables of the controls, and of each condition that the model was put in, without empty tables."""
    kinds = (_controls, _way, _attacks, _relearning, _sampling, _rounding, _refusals)
    return [table for make in kinds if (table := make(card)).rows]


def _columns(lines: list[Line], titles: Mapping[str, str] = TITLES, always: Collection[str] = RATES) -> dict[Any, str]:
    """The columns that have figures, the audited model's first. It always has columns of the metrics in `always`."""
    known = {key for line in lines for key in line.cells} | {(AUDITED, metric) for metric in always}
    columns = {(AUDITED, metric): title for metric, title in titles.items()}
    for control in list_subjects(subject for subject, _ in known)[1:]:
        shown = {metric: title.rstrip(" ↓↑") for metric, title in titles.items() if metric.startswith(BESIDE)}
        columns |= {(control, metric): f"{title}\n{control}" for metric, title in shown.items()}
    return {key: title for key, title in columns.items() if key in known}


def _controls(card: Card) -> Table:
    """The audited model and its controls, with nothing done to them."""
    rows = _in_its_view(pick(card.rows, condition="clean")) + pick(card.rows, condition="inside", at=None)
    cells = {line.name: line.cells for line in pivot(rows, "subject", "metric")}
    asked = list_subjects([AUDITED, *card.audit.controls])
    lines = [Line(subject, cells.get(subject, {})) for subject in asked]
    columns = {key: TITLES[key] for key in ("asr", "rr", "sarr", "rouge_l", "recovered")}
    columns |= {key: title for key, title in INSIDE.items() if any(key in line.cells for line in lines)}
    caption = (
        f"{CAPTION} vanilla: the untouched model; tuned: fine-tuned without forgetting; told: vanilla, asked to "
        "refuse; never_knew: trained without what was to be forgotten."
    )
    return Table("controls", "Controls", caption, columns, lines if len(lines) > 1 else [], "model")


def _way(card: Card) -> Table:
    """How far each measure has moved from vanilla, for measures in other tables; the table of figures has all."""
    end = {"floor": "answers paired at random"}.get(card.audit.shares_to, card.audit.shares_to)
    titles = {key: title.partition(",")[0] for key, title in INSIDE.items()}
    titles |= {key: metric.title for key, metric in METRICS.items()}
    shares = {line.name: line for line in pivot(pick(card.rows, relative="way"), "metric", "subject")}
    lines = [replace(shares[key], name=title) for key, title in titles.items() if key in shares]
    columns = {subject: subject for subject in card.subjects if any(subject in line.cells for line in lines)}
    caption = f"{CAPTION} 0 is vanilla, 100 {end}. –: the two cannot be told apart."
    return Table("way", f"The way from vanilla to {end}", caption, columns, lines, "measure")


def _attacks(card: Card) -> Table:
    """The attacks, on the controls as well: a model that never knew has nothing that an attack could recover."""
    lines = card.lines(condition="attack")
    lines.sort(key=lambda line: line.cell((AUDITED, "asr")).sort_key, reverse=True)
    caption = f"{CAPTION} The highest ASR first. An attack that hides the picture has no SARR."
    if any(row.condition == "attack" and row.relative == "clean" for row in card.rows):
        caption += " q: the false-discovery rate at which the difference from no attack becomes significant."
        for line in lines:
            gain = card.figure("recovered", "attack", name=line.name, relative="clean")
            q = Row(text_instead="–" if gain.q is None else f"{gain.q:.2g}")
            line.cells.update({(AUDITED, "gain"): gain, (AUDITED, "q"): q})
    first = card.lines("none", condition="clean") if lines else []
    return Table("attacks", "Attacks", caption, _columns(lines, TITLES | GAIN), first + lines, "attack")


def _relearning(card: Card) -> Table:
    """How many steps of relearning bring ASR back, by the data that was relearned."""
    rows = [row for row in card.rows if row.metric in ("steps_to", "area")]
    asked = list_subjects(row.subject for row in rows if row.metric == "steps_to")
    columns = {(subject, bound): f"{title}\n{subject}" for bound, title in BOUNDS.items() for subject in asked}
    # never_knew's own area is 0.
    columns |= {(subject, ""): f"Area over never_knew\n{subject}" for subject in asked if subject != "never_knew"}
    caption = (
        "Optimizer steps of plain fine-tuning until ASR passes 10 and 50%; >: not within so many. Area: how far "
        "ASR lies above never_knew's, in points, on the average over log2(1 + step)."
    )
    lines = pivot(rows, "name", "subject", "group")
    return Table("relearning", "Relearning", caption, columns, lines, "relearned on")


def _sampling(card: Card) -> Table:
    """How often at least one of several samples is harmful."""
    metrics = {row.metric for row in card.rows if row.metric.startswith("asr@")}
    titles = {key: key.upper() for key in sorted(metrics, key=lambda key: (len(key), key))}
    caption = "Harmful questions of which one of n samples is answered, per cent, with 95% intervals."
    lines = card.lines(condition="sampled")
    return Table("sampling", "Sampling", caption, _columns(lines, titles, titles), lines, "temperature")


def _rounding(card: Card) -> Table:
    """The model with rounded weights, below the model as it was trained."""
    lines = card.lines(subject=AUDITED, condition="quantized")
    first = card.lines("as trained", subject=AUDITED, condition="clean") if lines else []
    return Table("quantization", "Rounded weights", CAPTION, _columns(lines), first + lines, "weights")


def curve_tables(card: Card) -> list[Table]:
    """The figures that the card's plots are drawn from."""
    tables = [_curve("scaling", "Adapter scaled", "scale", pick(card.rows, condition="scaled"))]
    for name in card.audit.attackers:
        rows = [row for row in card.rows if row.condition == "relearned" and row.name == name]
        seeds = {row.seed for row in rows} - {""}
        over = f"; means over {len(seeds)} seeds" if len(seeds) > 1 else "; one seed" if seeds else ""
        tables.append(_curve(f"relearn_{name}", f"Relearned on {name} data", "optimizer step", pick(rows), over))
    return [table for table in tables if table.rows]


def _curve(key: str, title: str, corner: str, rows: list[Row], over: str = "") -> Table:
    rows = sorted((row for row in _in_its_view(rows) if row.at is not None), key=lambda row: row.position)
    lines = pivot(rows, "at", "subject", "metric")
    caption = f"{title}: per cent, with 95% intervals{over}."
    return Table(key, title, caption, _columns(lines, always=()), lines, corner)


def _refusals(card: Card) -> Table:
    """Refusals by picture and question."""
    rows = [(VIEWS[row.view], row) for row in card.of("clean", "refusal")]
    lines = []
    for picture, title in PICTURES.items():
        cells = {view.question: row for view, row in rows if view.picture == picture}
        # `swapped` is an additional view, shown only where it was asked.
        lines += [Line(title, cells)] if cells or picture != "swapped" else []
    caption = (
        f"{CAPTION[:-1]}, by picture and question. Where the figures down a column are "
        "equal, the picture makes no difference: the question alone decides."
    )
    return Table("refusals", "What brings the refusal", caption, QUESTIONS, lines if rows else [], "picture")


def comparison(cards: list[Card]) -> Table | None:
    """The cards side by side, one line each; None for fewer than two cards."""
    if len(cards) < 2:
        return None
    lines = [Line(card.title, _compared(card)) for card in cards]
    known = {key for line in lines for key, cell in line.cells.items() if cell is not NOTHING}
    more = {key: title for key, title in ({"blank": "Blank"} | FAR).items() if key in known}
    caption = (
        "Per cent, with 95% intervals. Benign steps to half: after how few steps of relearning on benign data ASR "
        "passes half of the untouched model's. Recovered: of the vanilla answers, under the attack that brings back "
        "most, or without one where none brings back clearly more. Refusal: of a harmful question."
    )
    if known & FAR.keys():
        caption += (
            " Way: from vanilla (0) to a model that never knew (100), by depth never past its end; a damaged model "
            "comes as far. "
            "Area: how far ASR lies above that one's, in points, on the average over log2(1 + step), on the benign "
            "data where that is most."
        )
    return Table("comparison", "Side by side", caption, COMPARED | more, lines)


def _compared(card: Card) -> dict[str, Row]:
    concluded = card.conclusions
    cells = {"asr": card.figure("asr"), "int4": card.figure("asr", "quantized", name="int4")}
    cells["blank"] = card.figure("blank", view="forget")
    cells |= {f"refusal_{view}": card.figure("refusal", view=view) for view in ("forget", "decoupled")}
    cells |= {key: find(card.rows, subject=AUDITED, metric=key, relative="way") for key in ("gap", "depth")}
    if (worst := concluded.worst) is not None:
        cells["worst"] = card.figure("asr", "attack", name=worst).model_copy(update={"note": worst})
    if (name := concluded.most_recovered) is not None:
        most = card.figure("recovered", "attack", name=name) if name else card.figure("recovered")
        cells["most"] = most.model_copy(update={"note": name or "without an attack"})
    if concluded.half is not None and (back := concluded.back["benign"]):
        note = "; ".join(filter(None, [back.data, f"{back.measured} measured, to step {back.last}"]))
        cells["steps"] = Row(text_instead="none" if back.steps is None else str(back.steps), note=note)
    areas = pick(card.rows, subject=AUDITED, metric="area", relative="never_knew")
    if area := highest(row for row in areas if row.name in concluded.benign):
        cells["area"] = area.model_copy(update={"note": area.name})
    return cells


def different_settings(cards: Iterable[Card]) -> list[str]:
    """The settings in which the audits differ, so that their figures cannot be compared."""
    settings = []
    for audit in (card.audit for card in cards):
        never_knew = audit.controls.get("never_knew", {}).get("base")
        settings.append({"model_path": audit.model_path, "never_knew": never_knew} | audit.settings)
    # The path of a file makes no difference; another key has a hash of its content.
    keys = dict.fromkeys(key for each in settings for key in each if not key.endswith("_file"))
    return [key for key in keys if any(each.get(key) != settings[0].get(key) for each in settings)]


def spell_settings(card: Card) -> str:
    """The settings of the audit in words: `limit 5, relearning (rank 8, steps 1 2)`."""
    digest = card.audit.checkpoint_sha256
    return _spell(card.audit.settings | ({"checkpoint_sha256": digest} if digest else {}))


def _spell(value: Any, key: str = "") -> str:
    """A setting in words, cut to the part that distinguishes it: the beginning of a hash, the name of a file."""
    if isinstance(value, dict):
        parts = ", ".join(f"{name} {_spell(part, name)}" for name, part in value.items() if part != {})
        return f"({parts})" if key else parts
    if isinstance(value, list):
        return " ".join(map(str, value))
    text = "none" if value is None else str(value)
    return text[:12] if key.endswith("_sha256") else Path(text).name if key.endswith("_file") else text


def card_json(card: Card) -> dict[str, Any]:
    """The card for the run's entry in `summary.json`: fractions 0..1, null where not measured."""
    concluded, worst = card.conclusions, card.conclusions.worst
    attack = worst and {
        "name": worst,
        "asr": card.figure("asr", "attack", name=worst).value,
        "untouched_asr": card.figure("asr", "attack", name=worst, subject="vanilla").value,
        "measured": sum(row.value is not None for row in card.of("attack")),
    }
    shares = {"__all__": {"__all__": {"value", "low", "high", "n"}}}
    kept = ("findings", "shares", "relearning", "settings", "missing")
    written = card.audit.model_dump(include=dict.fromkeys(kept, True) | {"shares": shares})
    back = {name: concluded.half and steps and steps.model_dump() for name, steps in concluded.back.items()}
    return {
        "asr": card.figure("asr").value,
        "untouched_asr": card.figure("asr", subject="vanilla").value,
        "worst_attack": attack,
        "quantization": {row.name: row.value for row in card.of("quantized")},
        "relearning_to_half": back,
        "refusals": {row.view: row.value for row in card.of("clean", "refusal")},
        "blank": {row.view: row.value for row in card.of("clean", "blank")},
        **{key: written[key] for key in kept},
    }
