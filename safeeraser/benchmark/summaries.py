"""Reads the summary that `eval_all.py --summary` writes: its figures as rows of the table, and their origin."""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, GetPydanticSchema, create_model
from pydantic_core.core_schema import literal_schema

from safeeraser.benchmark.figures import Row
from safeeraser.benchmark.metrics import METRICS, SCORED, UNKNOWN, Figure
from safeeraser.benchmark.responses import VIEWS

ByView = dict[Annotated[str, GetPydanticSchema(lambda *_: literal_schema([*VIEWS]))], Figure]
STATES = {"openai": "prompts", "rules": "rules", "truth": "truth"}  # judges whose version has a key of its own
BY_VIEW = {"blank": "blank", "wrong": "wrong", "refusals": "refusal"}  # a summary's key, and the metric of its figures
GROUPS = ("category", "keyword", "concept")


class Answered(BaseModel):
    """A model that answered as a judge, with the number of its replies; None: the server did not say."""

    judge: str
    model: str | None = None
    fingerprint: str | None = None
    replies: int = 0


class _MadeWith(BaseModel):
    """How predictions were made."""

    settings: dict[str, Any] = {}


class _Inputs(BaseModel):
    """What was scored; `made_with` is null if the predictions came without a record of how they were made."""

    made_with: _MadeWith | None = None


class Provenance(BaseModel):
    """The origin of a summary's figures; null where it is not known."""

    date: str | None = None
    git_commit: str | None = None
    model: str | None = None
    adapter_sha256: str | None = None
    data_sha256: str | None = None
    recipe: str | None = None
    versions: dict[str, str] = {}


# A number, or the `value` of a number that has an interval.
_Value = Annotated[float | None, BeforeValidator(lambda of: of.get("value") if isinstance(of, dict) else of)]


class Agreement(BaseModel):
    """How far a metric's judge agrees with labels or another judge, and its rate as corrected by labels."""

    labels: int = 0
    unlabelled: list[str] = []
    kappa: _Value = None
    sensitivity: _Value = None
    specificity: _Value = None
    corrected: float | None = None
    low: float | None = None
    high: float | None = None


class AgreedWith(BaseModel):
    """What the judge's verdicts were compared with: a file of labels, or another judge."""

    labels: str | None = None
    judge: str | None = None


class Summary(BaseModel):
    """The fields of a summary that are read; `SummaryFile` adds a figure for each scored metric."""

    split: str
    pictures: int | None = None
    recovered: Figure | None = None
    blank: ByView = {}
    wrong: ByView = {}
    refusals: ByView = {}
    by_category: dict[str, dict[str, Figure]] = {}
    by_keyword: dict[str, dict[str, Figure]] = {}
    by_concept: dict[str, dict[str, Figure]] = {}
    verdicts: str | None = None
    data_file: str | None = None
    protocol: str = "unknown"
    judge: str = "unknown"
    judge_model: str | None = None
    prompts: str = ""
    rules: str = ""
    truth: str = ""
    guards: dict[str, str] = {}
    answered_by: list[Answered] = []
    asked_with: dict[str, Any] | None = None
    max_blank: float = 0.01
    category: str = "all"
    inputs: _Inputs = _Inputs()
    provenance: Provenance = Provenance()
    agreement: dict[str, Agreement | None] | None = None
    agreement_with: AgreedWith | None = None

    def judge_of(self, metric: str) -> str:
        """The judge of a metric's figure."""
        return getattr(self, metric).judge or ":".join(filter(None, (self.judge, self.judge_model)))

    def version_of(self, judge: str) -> str:
        """The version of a judge, by its title: of its prompts, its rules or its file; empty if it is not known."""
        name = judge.partition(":")[0]
        return getattr(self, STATES[name]) if name in STATES else self.guards.get(name, "")

    @property
    def verdicts_file(self) -> str | None:
        """The name of the verdicts' file; if a summary of val does not say, the usual one."""
        return self.verdicts if "verdicts" in self.model_fields_set or self.split != "val" else "verdicts_val.json"

    @property
    def agreements(self) -> dict[str, Agreement]:
        """By metric, the agreement of its judge, if a corrected rate follows from it."""
        known = (self.agreement or {}).items()
        return {metric: of for metric, of in known if metric in METRICS and of and of.corrected is not None}

    @property
    def made_with(self) -> dict[str, Any]:
        """The settings of the inference run that it recorded; empty if it recorded none."""
        return self.inputs.made_with.settings if self.inputs.made_with else {}

    def rows(self, run: str = "") -> list[Row]:
        """All figures as rows of the table."""
        place = {"run": run, "split": self.split, "protocol": self.protocol}
        return [Row(**place | row) for row in self._figures()]

    def _figures(self) -> Iterator[dict[str, Any]]:
        for metric in (*SCORED, "recovered"):
            if figure := getattr(self, metric):
                yield {**dict(figure), "metric": metric, "view": METRICS[metric].view, "pictures": self.pictures}
        for key, metric in BY_VIEW.items():
            for view, figure in getattr(self, key).items():
                yield {**dict(figure), "metric": metric, "view": view}
        for by in GROUPS:
            for metric, groups in getattr(self, f"by_{by}").items():
                for group, figure in groups.items():
                    yield {**dict(figure), "metric": metric, "view": METRICS[metric].view, "by": by, "group": group}
        # Only labels correct a rate: another judge's verdicts are not the truth.
        for metric, of in self.agreements.items() if self.agreement_with and self.agreement_with.labels else ():
            yield {"metric": metric, "relative": "labels", "value": of.corrected, "low": of.low, "high": of.high}


_FIGURES: dict[str, Any] = dict.fromkeys(SCORED, (Figure, UNKNOWN))
SummaryFile = create_model("SummaryFile", __base__=Summary, **_FIGURES)
