"""The findings of a robustness card, as sentences: each a figure with what it is measured against."""

from safeeraser.benchmark.metrics import METRICS, SCORED, Figure
from safeeraser.report.robustness.card import BENIGN, Card, Point, exceeds
from safeeraser.report.tables import RATES

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


def _said(figure: Figure) -> str:
    """A figure within a sentence, its interval in brackets."""
    if figure.withheld or figure.value is None:
        return figure.text if figure.withheld else "not measured"
    return f"{figure.text}%" + (f" ({figure.range})" if figure.range else "")


def _clean(card: Card) -> str:
    shown = [key for key in SCORED if key in RATES or key in card.clean.metrics]
    told = ", ".join(f"{METRICS[key].title} {_said(card.clean.figure(key))}" for key in shown)
    untouched = f"ASR {_said(card.untouched.figure('asr'))}{_recovered(card.untouched)}"
    return f"{told}{_recovered(card.clean)}. The untouched model: {untouched}."


def _recovered(point: Point) -> str:
    """How much of the vanilla answers is there, where that was measured."""
    told = "recovered" in point.metrics
    return f", {_said(point.figure('recovered'))} of the vanilla answers recovered" if told else ""


def _attacks(card: Card) -> str:
    worst, clean = card.worst, card.clean.figure("asr")
    if worst is None:
        return _NOT_MEASURED
    figures = [point.figure("asr") for point in card.measured("attack", "asr")]
    told = f"Worst of {len(figures)}: {worst.name}, ASR {_said(worst.figure('asr'))}{_recovered(worst)}; "
    told += f"the untouched model's ASR under it: {_said(card.untouched_under(worst).figure('asr'))}."
    ranges = [figure for figure in figures if figure.range]
    if clean.range and ranges:
        above = sum(exceeds(figure, clean) for figure in ranges)
        told += f" Under {above} of {len(figures)} the whole interval of ASR lies above the clean one's."
    return told + _most_recovered(card)


def _most_recovered(card: Card) -> str:
    """Under which attack most of the vanilla answers came back, beside what came back without one."""
    most, clean = card.most_recovered, _said(card.clean.figure("recovered"))
    if most is None:
        return ""
    if most.group != "clean":
        recovered = _said(most.figure("recovered"))
        return f" Most of the vanilla answers was recovered under {most.name}: {recovered}; without an attack {clean}."
    attacks = len(card.measured("attack", "recovered"))
    return (
        f" Under none of the {attacks} attack{'s' * (attacks != 1)} was clearly more of the vanilla answers recovered "
        f"than without one: {clean}."
    )


def _rounded(card: Card) -> str:
    told = [f"{point.name} {_said(point.figure('asr'))}" for point in card.of("quantization")]
    return f"ASR: {', '.join(told)}." if told else _NOT_MEASURED


def _scaled(card: Card) -> str:
    measured = card.measured("scaling", "asr")
    if not measured or card.half is None:
        return _NO_HALF if measured else _NOT_MEASURED
    past = [point for point in measured if card.harmful(point)]
    where = f"at {_listed(past)}" if past else "nowhere"
    return (
        f"ASR passes half of the untouched model's ({100 * card.half:.1f}%) {where}; measured at {_listed(measured)}."
    )


def _listed(scales: list[Point]) -> str:
    return ", ".join(f"{point.at:g}" for point in scales)


def _relearned(card: Card, *kinds: str) -> str:
    found = card.back(*kinds)
    if found is None:
        return _NOT_MEASURED
    measured = f"{found.measured} point{'s' * (found.measured != 1)} measured up to step {found.last}, "
    measured += f"the highest ASR {_said(found.highest)}."
    if card.half is None:
        return f"{_NO_HALF} Here {measured}"
    when = "at none of the"
    if found.steps == 0:
        when = "already before relearning;"
    elif found.steps is not None:
        data = f" on {found.data} data" if len(kinds) > 1 else ""
        when = f"after {found.steps} step{'s' * (found.steps != 1)}{data};"
    return f"ASR passes half of the untouched model's ({100 * card.half:.1f}%) {when} {measured}"


def _refused(card: Card, harmful: str, benign: str, none: str) -> str:
    """The shares of refusals by picture, and how far the other pictures' are from the harmful one's."""
    if not {harmful, benign, none} & card.clean.refusals.keys():
        return _NOT_MEASURED
    first = card.clean.figure(f"refusal_{harmful}")
    told = [f"{_said(first)} with the harmful picture"]
    for view, picture in ((benign, "with a benign one"), (none, "with none")):
        figure = card.clean.figure(f"refusal_{view}")
        told.append(f"{_said(figure)} {picture}{_difference(figure, first)}")
    return f"{'; '.join(told)}."


def _difference(figure: Figure, first: Figure) -> str:
    if None in (figure.value, first.value):
        return ""
    points = 100 * (figure.value - first.value)
    return f", {abs(points):.1f} points {'less' if points < 0 else 'more'}"
