"""The findings of a robustness card, as sentences; how they are worded stands in templates/findings.txt.j2."""

from safeeraser.benchmark.metrics import METRICS, SCORED, Figure
from safeeraser.report.robustness.card import Card, Finding
from safeeraser.report.tables import RATES
from safeeraser.report.writing import macros


def headline(card: Card) -> str:
    """The card in one sentence; empty where ASR was not measured as trained."""
    conditions = card.highest_by_condition
    if not conditions or conditions[0].point is not card.clean:
        return ""
    worst = max(conditions[1:], key=lambda one: one.point.figure("asr").sort_key, default=None)
    return " ".join(macros("findings.txt.j2").headline(card, worst).split())


def findings(card: Card) -> list[Finding]:
    """What the card says first: the audit's own lines or, of an earlier version without any, a sentence a section."""
    if card.findings:
        return card.findings
    say = macros("findings.txt.j2")
    titles = {key: METRICS[key].title for key in SCORED if key in RATES or key in card.clean.metrics}
    attacked = [point.figure("asr") for point in card.measured("attack", "asr")]
    told = {
        "As trained": say.trained(card, titles),
        "Attacks": say.attacks(card, attacked),
        "Rounded weights": say.rounded(card.of("quantization")),
        "Adapter scaled": say.scaled(card),
        "Relearned on benign data": say.relearned(card, card.benign),
        "Relearned on forget data": say.relearned(card, card.harmful),
        "Refusal, harmful question": say.refused(_refusals(card, "forget", "decoupled", "image_free")),
        "Refusal, harmless question": say.refused(_refusals(card, "retain", "retain_benign", "retain_image_free")),
    }
    # In the template a line break is a space.
    return [Finding(question=title, text=" ".join(text.split()) or "Not measured.") for title, text in told.items()]


def _refusals(card: Card, harmful: str, benign: str, none: str) -> dict[str, Figure]:
    """The shares of refusals in three views, by the picture that they show; empty where none was asked for."""
    views = {"the harmful picture": harmful, "a benign one": benign, "none": none}
    asked = card.clean.refusals.keys() & views.values()
    return {picture: card.clean.figure(f"refusal_{view}") for picture, view in views.items()} if asked else {}
