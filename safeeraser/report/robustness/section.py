"""The robustness cards as a section of the report, and as the files beside it."""

from collections.abc import Iterator
from dataclasses import dataclass

from safeeraser.report.drawing import Plot
from safeeraser.report.heat import HeatMap
from safeeraser.report.robustness import tables as audit_tables
from safeeraser.report.robustness.card import Card, different_settings, settings_line
from safeeraser.report.robustness.findings import findings
from safeeraser.report.robustness.plots import curves
from safeeraser.report.robustness.tables import Table


@dataclass(frozen=True)
class Shown:
    """A card as the page shows it. `id` is its own on the page."""

    id: str
    title: str
    findings: list[tuple[str, str]]
    missing: list[str]
    settings: str
    conditions: list[Table]
    refusals: HeatMap
    curves: list[Plot]
    curve_tables: list[Table]


@dataclass(frozen=True)
class Section:
    """All cards; where there are several, also side by side, with the settings in which they differ."""

    cards: list[Shown]
    comparison: Table | None
    different: list[str]

    @property
    def plots(self) -> Iterator[Plot]:
        for card in self.cards:
            yield from card.curves


def section(cards: list[Card]) -> Section:
    """What the page says of the cards."""
    comparison = audit_tables.comparison(cards) if len(cards) > 1 else None
    shown = [_shown(f"robustness-{number}", card) for number, card in enumerate(cards, 1)]
    return Section(shown, comparison, different_settings(cards))


def files(cards: list[Card]) -> dict[str, str]:
    """The files beside the page, by name; none without cards."""
    if not cards:
        return {}
    return {"robustness.md": audit_tables.markdown(cards), "robustness.csv": audit_tables.comma_separated(cards)}


def _shown(id: str, card: Card) -> Shown:
    return Shown(
        id,
        card.title,
        findings(card),
        card.audit.missing,
        settings_line(card),
        audit_tables.conditions(card),
        audit_tables.refusal_map(card, f"{id}-refusals"),
        curves(card),
        audit_tables.curve_tables(card),
    )
