"""Which method does best, by a stated rule, and what the figures allow to be said of it in one sentence."""

from math import hypot
from typing import NamedTuple

from safeeraser.benchmark.metrics import COLUMNS, METRICS
from safeeraser.report.tables import Row

_COSTS = ("asr_gen", "sarr")
# What is measured on the retain view, or on other data.
_UTILITIES = [key for key, column in COLUMNS.items() if METRICS[column.metric].view in ("retain", "")]


class Ranking(NamedTuple):
    """Methods, best first; those that lack a figure that the rule needs stand last, in their own order.

    Attributes:
        utility: the column that stands for utility: of those, the first that most rows have.
    """

    rows: list[Row]
    published: list[Row]
    utility: str

    @property
    def what(self) -> str:
        """What the rows are ordered by."""
        return f"the mean of ASR, SARR and 100 − {title(self.utility)}"

    @property
    def rule(self) -> str:
        """The order in words."""
        return f"Best first, by {self.what}; a row that lacks one of them stands below."


def title(key: str) -> str:
    """A column's metric."""
    return METRICS[COLUMNS[key].metric].title


def measures(utility: str) -> list[str]:
    """The columns that a method is judged by at a glance."""
    return [*_COSTS, utility]


def rank(rows: list[Row], published: list[Row]) -> Ranking:
    """The rows in the order of the rule."""
    utility = max(_UTILITIES, key=lambda key: sum(row.cell(key).per_cent[0] is not None for row in rows))

    def order(row: Row) -> float:
        missed = _missed(row, utility)
        return float("inf") if missed is None else missed[0]

    return Ranking(sorted(rows, key=order), sorted(published, key=order), utility)


def finding(ranking: Ranking) -> str:
    """One sentence of what the figures show, with its uncertainty; empty where they do not show anything.

    The first is said to be best only where it clearly is against each of the others.
    """
    known = {row.label: found for row in ranking.rows if (found := _missed(row, ranking.utility))}
    if not known or any(None in found for found in known.values()):
        return ""
    (best, its), *others = known.items()
    figures = [(title(key), ranking.rows[0].measured(key)) for key in measures(ranking.utility)]
    told = ", ".join(f"{name} {figure.text}% ({figure.range})" for name, figure in figures)
    if not others:
        return f"{best}: {told}."
    # Not always the next: one further down may be so uncertain that it may be better.
    rival, other = next((one for one in others if _less(its, one[1])[1] <= 0), others[0])
    by, low, high = _less(its, other)
    if low > 0:
        whom = f"{len(known)}" if len(known) == len(ranking.rows) else f"the {len(known)} that have all three figures"
        return (
            f"{best} does best of {whom}: {told}; {ranking.what} is {by:.1f} points "
            f"({low:.1f} to {high:.1f}) below that of the next, {rival}."
        )
    return (
        f"No one is best: {best} and {rival} are not told apart by {ranking.what}, "
        f"{its[0]:.1f} and {other[0]:.1f}, a difference of {by:.1f} points ({low:.1f} to {high:.1f})."
    )


def _missed(row: Row, utility: str) -> tuple[float, float | None, float | None] | None:
    """How far a row is from perfect on the average of its three figures, in points; None where it lacks one.

    The interval is as wide as it can be, whatever the three have in common: the mean of theirs.
    """
    *costs, (value, low, high) = (row.measured(key).per_cent for key in measures(utility))
    lacking = [None if part is None else 100 - part for part in (value, high, low)]
    columns = zip(*costs, lacking, strict=True)
    value, low, high = (None if None in column else sum(column) / len(column) for column in columns)
    return None if value is None else (value, low, high)


def _less(one: tuple, other: tuple) -> tuple[float, float, float]:
    """By how much `one` is less than `other`, with its interval: the two taken as independent, which their having
    pictures in common only narrows."""
    by = other[0] - one[0]
    return by, by - hypot(other[0] - other[1], one[2] - one[0]), by + hypot(other[2] - other[0], one[0] - one[1])
