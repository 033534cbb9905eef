"""A point of an audit, as `audit.json` holds it: what was measured of one model in one condition."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from safeeraser.benchmark.metrics import UNKNOWN, Figure
from safeeraser.report.runs import ByView
from safeeraser.report.tables import Told

AUDITED = "audited"
CONTROLS = ("vanilla", "tuned", "told", "never_knew")
SUBJECTS = (AUDITED, *CONTROLS)
# Groups whose points have a name, and those whose points stand on a curve; of the others a subject has a single point.
_NAMED = ("attack", "quantization")
_CURVES = ("scaling", "sampling", "relearn_")
_SINGLE = ("clean", "inside")
Group = Annotated[str, StringConstraints(pattern=rf"^({'|'.join((*_SINGLE, *_NAMED, *_CURVES[:2]))}|relearn_.+)$")]
_SHARES = ("exact_", "recall_", "probe")  # measures that are shares begin so; the others are shown as they are


class Estimate(Told):
    """A number of any size and its interval; `unit` is what it is shown in: `%`, or empty, as it is."""

    sign: ClassVar[str] = ""
    unit: str = "%"

    @property
    def per_cent(self) -> tuple[float | None, float | None, float | None]:
        """Value, low and high as they are shown."""
        by = 100 if self.unit else 1
        value, low, high = (part if part is None else by * part for part in (self.value, self.low, self.high))
        return value, low, high

    @property
    def text(self) -> str:
        value, _, _ = self.per_cent
        return "–" if value is None else self._said(value)

    @property
    def range(self) -> str:
        value, low, high = self.per_cent
        if value is None or low is None or high is None:
            return ""
        return f"{self._said(low)}{' to ' if self.sign or low < 0 else '–'}{self._said(high)}"

    def _said(self, number: float) -> str:
        return f"{number:{self.sign}.{1 if self.unit else 2}f}"


class Difference(Estimate):
    """How much more one is than another; `p` of a test that they are the same, `q` the same of several together."""

    sign: ClassVar[str] = "+"
    p: float | None = None
    q: float | None = None


class Point(BaseModel):
    """What was measured of a subject in one condition: under an attack, at a scale, after some steps, inside it."""

    subject: str = AUDITED
    group: Group
    name: str = ""
    at: float | None = None
    metrics: dict[str, Figure] = {}
    refusals: ByView = {}
    blank: ByView = {}
    wrong: ByView = {}
    measures: dict[str, Estimate] = {}
    asr_at: dict[str, Estimate] = {}
    seeds: dict[str, float | None] = {}
    to_clean: dict[str, Difference] = {}
    to_vanilla: dict[str, Difference] = {}
    recovers: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_an_earlier_version(cls, value: Any) -> Any:
        """Where vanilla's points under attacks were a group of their own."""
        earlier = isinstance(value, dict) and value.get("group") == "attack_vanilla"
        return {**value, "subject": "vanilla", "group": "attack"} if earlier else value

    @model_validator(mode="after")
    def _stands_somewhere(self) -> "Point":
        if self.where in (None, "") and self.group not in _SINGLE:
            key = "at" if self.group.startswith(_CURVES) else "name"
            raise PydanticCustomError("place", f"a point of the group {self.group} needs '{key}'")
        return self

    @property
    def where(self) -> str | float | None:
        """What tells it from the others of its subject and group: within a curve where it stands, else its name."""
        return self.at if self.group.startswith(_CURVES) else self.name if self.group in _NAMED else None

    @property
    def position(self) -> float:
        """Where it stands on its curve; 0 if it stands on none."""
        return self.at or 0.0

    @property
    def title(self) -> str:
        """How a table names it."""
        return f"{self.where:g}" if isinstance(self.where, float) else self.name

    @property
    def figures(self) -> dict[str, Figure]:
        """All that is known: metrics; a view's shares, such as `refusal_VIEW`; measures; each seed's ASR; ASR@n.

        And differences: `METRIC_to_clean`, to what it is without an attack, and `METRIC_to_vanilla`.
        """
        of_views = {"refusal": self.refusals, "blank": self.blank, "wrong": self.wrong}
        shares = {f"{kind}_{view}": figure for kind, found in of_views.items() for view, figure in found.items()}
        units = {name: "%" if name.startswith(_SHARES) else "" for name in self.measures}
        measures = {name: one.model_copy(update={"unit": units[name]}) for name, one in self.measures.items()}
        seeds = {f"asr_seed_{seed}": Estimate(value=value) for seed, value in self.seeds.items()}
        several = {f"asr_at_{n}": one for n, one in self.asr_at.items()}
        beside = {"to_clean": self.to_clean, "to_vanilla": self.to_vanilla}
        more = {f"{metric}_{kind}": one for kind, found in beside.items() for metric, one in found.items()}
        return self.metrics | shares | measures | seeds | several | more

    @property
    def cells(self) -> dict[str, Figure]:
        """The same as tables show it: skipped are all records that an audit does not ask, which is no lack."""
        return {name: figure.model_copy(update={"skipped": 0}) for name, figure in self.figures.items()}

    def figure(self, name: str) -> Figure:
        """One of them, or none."""
        return self.cells.get(name, UNKNOWN)
