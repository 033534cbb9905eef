"""Who forgets, who over-forgets, and at what cost: the order of the methods, and one sentence that the figures bear."""

from collections.abc import Iterable
from typing import NamedTuple

from safeeraser.benchmark.figures import Row
from safeeraser.benchmark.metrics import COLUMNS, METRICS
from safeeraser.report.sources import list_some
from safeeraser.report.tables import Line

UNTOUCHED = "vanilla"
HALF = 0.5  # of the untouched model's ASR (of all questions, where there is none), and of harmless pictures
# What is measured on the retain view, or on other data.
_UTILITIES = [key for key, column in COLUMNS.items() if METRICS[column.metric].view in ("retain", "")]
# Groups in their order, as the sentence words them for one method and for several.
FORGETS, OVER, KEEPS, OPEN = "forgets", "over-forgets", "keeps", "open"
WORDS = {
    FORGETS: ("forgets, and answers on benign pictures", "forget, and answer on benign pictures"),
    OVER: ("forgets, and over-forgets", "forget, and over-forget"),
    KEEPS: ("does not forget", "do not forget"),
}


class Ranking(NamedTuple):
    """Methods, best group first; those that no group can be told of come last, the untouched model before them.

    Attributes:
        groups: the group of each line, by its label.
        utility: the column that stands for utility: of those, the first that most lines have.
        bound: the ASR below which a method forgets.
    """

    rows: list[Line]
    published: list[Line]
    groups: dict[str, str]
    utility: str
    bound: float

    @property
    def rule(self) -> str:
        """The order in words."""
        return (
            "In order: methods that forget and answer on benign pictures, that over-forget, that do not forget, as "
            f"whole intervals lie below or above half (ASR {100 * self.bound:.1f}%, SARR 50.0%); then all others."
        )


def measures(utility: str) -> list[str]:
    """The columns that a method is judged by at a glance."""
    return ["asr_gen", "sarr", utility]


def rank(lines: list[Line], published: list[Line]) -> Ranking:
    """The lines in their groups, best first."""
    utility = max(_UTILITIES, key=lambda key: sum(line.cell(key).per_cent[0] is not None for line in lines))
    untouched = next((line.measured("asr_gen").value for line in lines if line.name == UNTOUCHED), None)
    bound = HALF * (1.0 if untouched is None else untouched)
    groups = {line.label: _group(line, bound) for line in lines}
    shown = sorted(lines, key=lambda line: _order(line, groups[line.label]))
    others = sorted(published, key=lambda line: _order(line, _group(line, bound, certain=True)))
    return Ranking(shown, others, groups, utility, bound)


def _group(line: Line, bound: float, *, certain: bool = False) -> str:
    """By which sides of the bounds the intervals of ASR and SARR lie on; `certain`: figures without intervals."""
    asr, sarr = (_interval(line.measured(key), certain=certain) for key in ("asr_gen", "sarr"))
    if asr and asr[0] >= bound:
        return KEEPS
    if not asr or not sarr or asr[1] >= bound or sarr[0] < HALF <= sarr[1]:
        return OPEN
    return FORGETS if sarr[1] < HALF else OVER


def _interval(figure: Row, *, certain: bool) -> tuple[float, float] | None:
    if figure.interval:
        return figure.interval[1:]
    return (figure.value, figure.value) if certain and figure.value is not None else None


def _order(line: Line, group: str) -> tuple:
    asr, sarr = (line.measured(key).sort_key for key in ("asr_gen", "sarr"))
    within = {FORGETS: max(asr, sarr), OVER: sarr, KEEPS: asr, OPEN: max(asr, sarr)}[group]
    return [*WORDS, OPEN].index(group), line.name == UNTOUCHED, within


def headline(ranking: Ranking) -> str:
    """What the figures show in words, each claim with the range of its figures; empty where they show nothing."""
    lines = [line for line in ranking.rows if line.name != UNTOUCHED]
    parts = []
    for group, (one, several) in WORDS.items():
        members = [line for line in lines if ranking.groups[line.label] == group]
        if members:
            names = list_some([line.label for line in members])
            keys = {"ASR": "asr_gen"} | ({} if group == KEEPS else {"SARR": "sarr"})
            rates = ", ".join(f"{title} {_span(line.measured(key) for line in members)}" for title, key in keys.items())
            parts.append(f"{names} {one if len(members) == 1 else several} ({rates})")
    if not parts:
        return ""
    if undecided := [line.label for line in lines if ranking.groups[line.label] == OPEN]:
        parts.append(f"of {list_some(undecided)} the intervals do not tell")
    return f"{'; '.join(parts)}.{_cost(ranking, lines)}"


def _cost(ranking: Ranking, lines: list[Line]) -> str:
    """What utility the methods have that forget, beside the untouched model's."""
    title = METRICS[COLUMNS[ranking.utility].metric].title
    untouched = next((line for line in ranking.rows if line.name == UNTOUCHED), None)
    known = [line for line in lines if ranking.groups[line.label] in (FORGETS, OVER)]
    figures = [line.measured(ranking.utility) for line in known]
    if (
        not untouched
        or not figures
        or any(figure.value is None for figure in [*figures, untouched.measured(ranking.utility)])
    ):
        return ""
    asr = untouched.measured("asr_gen")
    return (
        f" {title} of those that forget is {_span(figures)}; the untouched model has {title} "
        f"{untouched.measured(ranking.utility).text}%" + (f" and ASR {asr.text}%." if asr.value is not None else ".")
    )


def _span(figures: Iterable[Row]) -> str:
    """From the lowest to the highest of some figures, in per cent; of one with its interval."""
    known = sorted(figures, key=lambda figure: figure.sort_key)
    if len(known) == 1:
        return f"{known[0].text}%" + (f" ({known[0].range})" if known[0].range else "")
    return f"{known[0].text} to {known[-1].text}%"
