"""The one table of metrics, and the fields of a measured figure, for all code that measures, shows or audits.

A metric is a row of `METRICS` and a function that measures it (`safeeraser.score.metrics`). Columns, titles, directions
and the value of a blank response follow from the row.
"""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

SPLITS = {"train": "Eff", "val": "Gen"}  # each with the paper's name for figures on it: Efficacy, Generality


@dataclass(frozen=True)
class Metric:
    """A row of the table.

    Attributes:
        title: its name in texts and pages; `short`: its name in the paper's table.
        view: the view whose responses it is measured on; empty: measured in each view, or on other data.
        better: whether a `higher` or a `lower` value is better.
        splits: the splits on which the paper's table has it; empty: the paper does not have it.
        asked: the name under which a judge is asked for it; None: no judge is asked.
        blank: the value of a blank response (protocol `corrected`).
        rate: whether each item counts 0 or 1; else it is a mean of numbers within 0..1.
    """

    title: str
    view: str
    better: str
    splits: tuple[str, ...]
    short: str = ""
    asked: str | None = None
    blank: float = 0.0
    rate: bool = True

    @property
    def arrow(self) -> str:
        """The arrow that tables show for the better direction."""
        return {"lower": "↓", "higher": "↑"}[self.better]


# In the order of the paper's columns.
METRICS = {
    "asr": Metric("ASR", "forget", "lower", ("train", "val"), asked="asr"),
    "rr": Metric("RR", "forget", "higher", ("train", "val"), asked="rr"),
    "rouge_l": Metric("ROUGE-L", "retain", "higher", ("val",), short="ROUGE", rate=False),
    "gpt_eval": Metric("GPT-Eval", "retain", "higher", ("val",), short="GPT", asked="gpt", rate=False),
    "specificity": Metric("Specificity", "", "higher", ("val",), short="Spec"),
    "sarr": Metric("SARR", "decoupled", "lower", ("val",), asked="sarr", blank=1.0),
    "recovered": Metric("Recovered", "forget", "lower", (), rate=False),
    "blank": Metric("Blank", "", "lower", ()),  # measured on the responses in each view
    "wrong": Metric("Wrong", "", "lower", ()),  # in each view too: neither answer nor refusal, if the answer is known
}
ASKED = {metric.asked: key for key, metric in METRICS.items() if metric.asked}  # a judge's name of a metric -> its key
SCORED = tuple(key for key, metric in METRICS.items() if metric.view and metric.splits)  # what eval_all.py measures


@dataclass(frozen=True)
class Column:
    """A column of a table: a metric on a split; `view` or `concepts`, if given, restrict it further."""

    metric: str
    split: str
    title: str
    view: str = ""
    concepts: str = ""


def _columns() -> dict[str, Column]:
    columns = {}
    for split, suffix in SPLITS.items():
        for key, metric in METRICS.items():
            if split in metric.splits:
                several = len(metric.splits) > 1
                title = (metric.short or metric.title) + (f"-{suffix}" if several else "")
                columns[f"{key}_{suffix.lower()}" if several else key] = Column(key, split, f"{title} {metric.arrow}")
    return columns


COLUMNS = _columns()


class Figure(BaseModel):
    """A measured mean over `n` items; `value` is in 0..1, None if there was nothing to average.

    Attributes:
        low, high: the 95% interval.
        failed, unparsed, declined: how many replies are failed calls, cannot be read, or decline to judge.
        blank: how many responses are without a word, whether they count or not.
        skipped: how many responses were left out: missing ones, and blank ones under protocol `official`.
        differ: how many replies the release's substring rule reads otherwise than a strict reading does (`official`).
        withheld: why the value must not count as a result; empty if it may.
        judge: who decided, if a judge did.
    """

    model_config = ConfigDict(frozen=True)
    value: float | None = Field(ge=0, le=1)
    low: float | None = None
    high: float | None = None
    n: int = 0
    failed: int = 0
    unparsed: int = 0
    declined: int = 0
    blank: int = 0
    skipped: int = 0
    differ: int = 0
    withheld: str = ""
    judge: str | None = None

    @property
    def as_json(self) -> dict[str, Any]:
        """The figure as files hold it; value, low and high are null if it is withheld."""
        fields = self.model_dump(exclude={name for name in ("withheld", "judge") if not getattr(self, name)})
        return fields | (dict.fromkeys(("value", "low", "high")) if self.withheld else {})

    @property
    def per_cent(self) -> tuple[float | None, float | None, float | None]:
        """Value, low and high as they are shown, shares in per cent; None if missing, or if the figure is withheld."""
        parts = (None,) * 3 if self.withheld else (self.value, self.low, self.high)
        value, low, high = (None if part is None else part * (100 if self._is_share else 1) for part in parts)
        return value, low, high

    @property
    def text(self) -> str:
        """The value as shown, a share in per cent; a dash if nothing was measured, `withheld` if it must not show."""
        value, _, _ = self.per_cent
        return "withheld" if self.withheld else "–" if value is None else self._number(value)

    @property
    def sort_key(self) -> float:
        """The value by which figures are ordered; a figure without a value comes below all others."""
        return float("-inf") if self.value is None else self.value

    @property
    def interval(self) -> tuple[float, float, float] | None:
        """Value, low and high; None if one is unknown, or the figure is withheld."""
        if self.withheld or self.value is None or self.low is None or self.high is None:
            return None
        return self.value, self.low, self.high

    @property
    def range(self) -> str:
        """The interval as text, for a share in per cent; empty if there is none."""
        value, low, high = self.per_cent
        if value is None or low is None or high is None:
            return ""
        return f"{self._number(low)}{' to ' if self._is_difference or low < 0 else '–'}{self._number(high)}"

    @property
    def remarks(self) -> list[str]:
        """Remarks for the reader: why the figure is withheld, or which replies or responses it lacks."""
        if self.withheld:
            return [self.withheld]
        names = ("failed", "unparsed", "declined", "blank", "skipped")
        return [f"{getattr(self, name)} {name}" for name in names if getattr(self, name)]

    @property
    def _is_share(self) -> bool:
        return True

    @property
    def _is_difference(self) -> bool:
        return False

    def _number(self, number: float) -> str:
        return f"{number:{'+' if self._is_difference else ''}.{1 if self._is_share else 2}f}"


UNKNOWN = Figure(value=None)  # a figure that was not measured
