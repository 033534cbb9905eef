"""Reads `audit.json`, and turns its figures into rows of the table of figures."""

import re
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints, field_validator, model_validator
from pydantic_core import PydanticCustomError

from safeeraser.benchmark.conclusions import Conclusions, conclude
from safeeraser.benchmark.figures import AUDITED, Row
from safeeraser.benchmark.metrics import METRICS, Figure
from safeeraser.benchmark.summaries import BY_VIEW, ByView

FORMAT = 2  # the version of audit.json's format
AUDIT = "audit"  # the split of an audit's figures: a part of val
# Groups of points in the file, each with its condition in the table. All other groups are `relearn_ATTACKER`.
CONDITIONS = {
    "clean": "clean",
    "inside": "inside",
    "attack": "attack",
    "quantization": "quantized",
    "scaling": "scaled",
    "sampling": "sampled",
}
RELEARN = "relearn_"
CURVES = ("scaled", "sampled", "relearned")  # conditions whose points lie on a curve
SHARES = ("exact_", "recall_", "probe")  # prefixes of the measures of `inside` that are shares
Group = Annotated[str, StringConstraints(pattern=rf"^({'|'.join(CONDITIONS)}|{RELEARN}.+)$")]


class Estimate(BaseModel):
    """A number of any size with its interval; for a difference also p and q of a test that there is no difference."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    p: float | None = None
    q: float | None = None


class Point(BaseModel):
    """The measurements of one subject in one condition."""

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
    to_clean: dict[str, Estimate] = {}
    to_vanilla: dict[str, Estimate] = {}
    by_picture: Estimate | None = None
    recovers: bool | None = None
    informed: bool = False

    @model_validator(mode="after")
    def _is_somewhere(self) -> "Point":
        key = "at" if self.condition in CURVES else "name"
        if self.condition not in ("clean", "inside") and getattr(self, key) in (None, ""):
            raise PydanticCustomError("place", f"a point of the group {self.group} needs '{key}'")
        return self

    @property
    def condition(self) -> str:
        """The table's condition for the group."""
        return CONDITIONS.get(self.group, "relearned")

    @property
    def where(self) -> dict[str, Any]:
        """The columns that say where in the table its figures belong."""
        name = self.group.removeprefix(RELEARN) if self.condition == "relearned" else self.name
        name = "" if self.condition in ("clean", "inside") else name or f"{self.at:g}"
        at = self.at if self.condition in CURVES else None
        return {"subject": self.subject, "condition": self.condition, "name": name, "at": at}

    def rows(self) -> Iterator[dict[str, Any]]:
        """Its figures as rows. `skipped` is 0, because records that an audit does not ask about are no gap."""
        for metric, figure in self.metrics.items():
            view = METRICS[metric].view if metric in METRICS else ""
            yield {**dict(figure), "metric": metric, "view": view, "skipped": 0}
        for key, metric in BY_VIEW.items():
            for view, figure in getattr(self, key).items():
                yield {**dict(figure), "metric": metric, "view": view, "skipped": 0}
        for metric, estimate in self.measures.items():
            layer = re.fullmatch(r"depth_(\d+)", metric)
            place = {"metric": "depth", "at": float(layer[1])} if layer else {"metric": metric}
            yield {**dict(estimate), **place, "unit": "%" if metric.startswith(SHARES) else ""}
        for count, estimate in self.asr_at.items():
            yield {**dict(estimate), "metric": f"asr@{count}", "view": "forget"}
        for seed, value in self.seeds.items():
            yield {"value": value, "metric": "asr", "view": "forget", "seed": seed}
        for relative, differences in (("clean", self.to_clean), ("vanilla", self.to_vanilla)):
            for metric, estimate in differences.items():
                yield {**dict(estimate), "metric": metric, "relative": relative}
        if self.by_picture:
            yield {**dict(self.by_picture), "metric": "refusal", "view": "forget", "relative": "benign picture"}
        if self.recovers is not None:
            yield {"value": float(self.recovers), "metric": "recovers", "unit": ""}


class Last(BaseModel):
    """The last point of a curve."""

    step: float
    asr: float


class Curve(BaseModel):
    """Numbers of a relearning curve: steps to bounds of ASR, last point, and `area` above never_knew's curve."""

    steps_to: dict[str, float | None]
    last: Last
    area: float | None = None


class Finding(BaseModel):
    """An audit's answer to a question, or the reason why it gives none."""

    question: str
    text: str | None = None
    withheld: str | None = None

    @property
    def said(self) -> str:
        """The text, or the reason why it is withheld."""
        return self.text or f"withheld: {self.withheld}"


class Audit(BaseModel):
    """The fields of a run's `audit.json` that are read; a field that the file lacks is empty."""

    format: int = Field(1, validate_default=True)
    checkpoint_sha256: str = ""
    model_path: str = ""
    controls: dict[str, dict[str, Any]] = {}
    settings: dict[str, Any] = {}
    points: list[Point]
    shares: dict[str, dict[str, Estimate]] = {}
    shares_to: str = "never_knew"
    relearning: dict[str, dict[str, Curve]] = {}
    concluded: Conclusions | None = None
    findings: list[Finding] = []
    missing: list[str] = []

    @field_validator("format")
    @classmethod
    def _is_known(cls, value: int) -> int:
        if value != FORMAT:
            raise PydanticCustomError(
                "version", f"{value} belongs to another version, and this version reads {FORMAT}; audit again"
            )
        return value

    @model_validator(mode="after")
    def _each_once(self) -> "Audit":
        seen = set()
        for point in self.points:
            # Points of a curve differ by their positions on it, other points by their names.
            place = tuple(key for name, key in point.where.items() if name != "name" or point.at is None)
            if (place := (point.group, *place)) in seen:
                words = [point.subject] * (point.subject != AUDITED) + [
                    point.group,
                    *filter(None, [point.where["name"]]),
                ]
                raise PydanticCustomError("twice", f"points: {' '.join(words)} occurs more than once")
            seen.add(place)
        return self

    def rows(self, run: str = "") -> list[Row]:
        """All figures as rows of the table."""
        place = {"run": run, "split": AUDIT, "protocol": str(self.settings.get("protocol") or "")}
        return [Row(**place | row) for row in self._figures()]

    def _figures(self) -> Iterator[dict[str, Any]]:
        for point in self.points:
            for row in point.rows():
                yield point.where | row
        for metric, shares in self.shares.items():
            for subject, estimate in shares.items():
                yield {"subject": subject, "metric": metric, "relative": "way", **dict(estimate)}
        for attacker, curves in self.relearning.items():
            for subject, curve in curves.items():
                place = {"subject": subject, "condition": "relearned", "name": attacker}
                if curve.area is not None:
                    yield place | {"metric": "area", "relative": "never_knew", "value": curve.area}
                for bound, steps in curve.steps_to.items():
                    text = f">{curve.last.step:g}" if steps is None else f"{steps:.1f}"
                    steps_to = {"metric": "steps_to", "by": "bound", "group": bound, "value": steps}
                    yield place | steps_to | {"unit": "", "text_instead": text}

    def conclusions(self) -> Conclusions:
        """The conclusions in the file; for an audit by an earlier version, which has none, they are drawn now."""
        return self.concluded or conclude(self.rows(), self.attackers)

    @property
    def attackers(self) -> dict[str, str]:
        """The data sets that models were relearned on, each with its view."""
        known = self.settings.get("relearning", {}).get("attackers", {})
        names = dict.fromkeys(row.where["name"] for row in self.points if row.condition == "relearned")
        return {name: known.get(name, {}).get("view", name) for name in names}
