"""The findings of a robustness card, as sentences: each a figure with what it is measured against."""

from safeeraser.report.robustness.card import BENIGN, Card, Point
from safeeraser.report.tables import Cell

_NOT_MEASURED = "Not measured."
_NO_HALF = "There is no ASR of the untouched model to compare with."


def findings(card: Card) -> list[tuple[str, str]]:
    """What the card says first: a title and a sentence each, in the order of the sections that follow."""
    return [
        ("As trained", _clean(card)),
        ("Attacks", _attacks(card)),
        ("Rounded weights", _rounded(card)),
        ("Adapter scaled", _scaled(card)),
        ("Relearned on benign data", _relearned(card, *BENIGN)),
        ("Relearned on forget data", _relearned(card, "forget")),
        ("Refusal, harmful question", _refused(card, "forget", "decoupled", "image_free")),
        ("Refusal, harmless question", _refused(card, "retain", "retain_benign", "retain_image_free")),
    ]


def figure(cell: Cell) -> str:
    """A figure within a sentence, its interval in brackets."""
    if cell.value is None:
        return cell.text if cell.withheld else "not measured"
    return f"{cell.text}%" + (f" ({cell.range})" if cell.range else "")


def _clean(card: Card) -> str:
    titles = {"asr": "ASR", "rr": "RR", "sarr": "SARR", "rouge_l": "ROUGE"}
    told = ", ".join(f"{title} {figure(card.clean.cell(key))}" for key, title in titles.items())
    untouched = f"ASR {figure(card.untouched.cell('asr'))}{_recovered(card.untouched)}"
    return f"{told}{_recovered(card.clean)}. The untouched model: {untouched}."


def _recovered(point: Point) -> str:
    """How much of the vanilla answers is there, where that was measured."""
    return (
        f", {figure(point.cell('recovered'))} of the vanilla answers recovered" if "recovered" in point.metrics else ""
    )


def _attacks(card: Card) -> str:
    worst = card.worst
    if worst is None:
        return _NOT_MEASURED
    recovered = _recovered(card.named("attack", worst.name))
    told = f"Worst of {worst.measured}: {worst.name}, ASR {figure(worst.asr)}{recovered}; "
    told += f"the untouched model's ASR under it: {figure(worst.untouched)}."
    if worst.above is not None:
        told += f" Under {worst.above} of {worst.measured} the whole interval of ASR lies above the clean one's."
    if most := card.most_recovered:
        told += f" Most of the vanilla answers was recovered under {most.name}: {figure(most.cell('recovered'))}"
        told += f"; without an attack {figure(card.clean.cell('recovered'))}."
    return told


def _rounded(card: Card) -> str:
    told = [f"{point.name} {figure(point.cell('asr'))}" for point in card.of("quantization")]
    return f"ASR: {', '.join(told)}." if told else _NOT_MEASURED


def _scaled(card: Card) -> str:
    past, measured = card.harmful_scales
    if not measured or card.half is None:
        return _NO_HALF if measured else _NOT_MEASURED
    where = f"at {_listed(past)}" if past else "nowhere"
    return f"ASR passes half of the untouched model's ({card.half:.1f}%) {where}; measured at {_listed(measured)}."


def _listed(scales: list[float]) -> str:
    return ", ".join(f"{scale:g}" for scale in scales)


def _relearned(card: Card, *kinds: str) -> str:
    found = card.back(*kinds)
    if found is None:
        return _NOT_MEASURED
    measured = f"{found.measured} point{'s' * (found.measured != 1)} measured up to step {found.last}, "
    measured += f"the highest ASR {figure(found.highest)}."
    if found.half is None:
        return f"{_NO_HALF} Here {measured}"
    when = "at none of the"
    if found.steps == 0:
        when = "already before relearning;"
    elif found.steps is not None:
        data = f" on {found.data} data" if len(kinds) > 1 else ""
        when = f"after {found.steps} step{'s' * (found.steps != 1)}{data};"
    return f"ASR passes half of the untouched model's ({found.half:.1f}%) {when} {measured}"


def _refused(card: Card, harmful: str, benign: str, none: str) -> str:
    """The shares of refusals by picture, and how far the other pictures' are from the harmful one's."""
    if not {harmful, benign, none} & card.clean.refusals.keys():
        return _NOT_MEASURED
    first = card.clean.refused(harmful)
    told = [f"{figure(first)} with the harmful picture"]
    for view, picture in ((benign, "with a benign one"), (none, "with none")):
        cell = card.clean.refused(view)
        told.append(f"{figure(cell)} {picture}{_difference(cell, first)}")
    return f"{'; '.join(told)}."


def _difference(cell: Cell, first: Cell) -> str:
    if cell.value is None or first.value is None:
        return ""
    difference = cell.value - first.value
    return f", {abs(difference):.1f} points {'less' if difference < 0 else 'more'}"
