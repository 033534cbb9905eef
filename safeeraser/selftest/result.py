"""What a check finds: figures, each with the bounds that it is to keep, and how the check came out."""

import math
from dataclasses import dataclass, field
from typing import Any


class Skip(Exception):
    """The check cannot be made on this machine, for the reason that the message gives."""


@dataclass(frozen=True)
class Figure:
    """Something measured, and between what it is to lie; neither bound: it is only told.

    `value` None: it could not be had here, for the reason in `note`.
    """

    name: str
    value: float | None
    least: float | None = None
    most: float | None = None
    unit: str = ""
    note: str = ""

    @property
    def good(self) -> bool:
        """Whether it keeps its bounds; a number that is none never does."""
        if self.value is None:
            return True
        low, high = -math.inf if self.least is None else self.least, math.inf if self.most is None else self.most
        return low <= self.value <= high and math.isfinite(self.value)

    @property
    def measured(self) -> str:
        """The value as a table shows it."""
        return f"({self.note})" if self.value is None else _number(self.value, self.unit)

    @property
    def bound(self) -> str:
        """The bounds as a table shows them."""
        sides = {"at least": self.least, "at most": self.most}
        if self.least is not None and self.least == self.most:
            sides = {"exactly": self.least}
        return ", ".join(f"{word} {_number(side, self.unit)}" for word, side in sides.items() if side is not None)

    @property
    def record(self) -> dict[str, Any]:
        """As the file holds it; a value that JSON has no number for is written as a word."""
        value = self.value if self.value is None or math.isfinite(self.value) else str(self.value)
        found = {"name": self.name, "value": value, "least": self.least, "most": self.most, "unit": self.unit}
        return found | {"note": self.note, "good": self.good}


def _number(value: float, unit: str) -> str:
    if unit == "%":
        return f"{100 * value:.1f}%"
    told = f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e9 else f"{value:.3g}"
    return f"{told} {unit}".rstrip()


@dataclass
class Result:
    """A check that was made, or could not be."""

    check: str
    figures: list[Figure] = field(default_factory=list)
    skipped: str = ""  # why
    error: str = ""  # the last lines of what went wrong
    seconds: float = 0.0

    @property
    def outcome(self) -> str:
        """`pass`, `fail` or `skipped`."""
        if self.error or not all(figure.good for figure in self.figures):
            return "fail"
        return "pass" if any(figure.value is not None for figure in self.figures) else "skipped"

    @property
    def record(self) -> dict[str, Any]:
        """As the file holds it."""
        told = {"outcome": self.outcome, "seconds": round(self.seconds, 1)}
        told |= {key: getattr(self, key) for key in ("skipped", "error") if getattr(self, key)}
        return told | {"figures": [figure.record for figure in self.figures]}
