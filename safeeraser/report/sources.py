"""Where the figures of some runs come from: who judged them and on what data, and what a reader must know first."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from safeeraser.benchmark.figures import highest
from safeeraser.benchmark.metrics import ASKED, COLUMNS, METRICS, SPLITS
from safeeraser.benchmark.summaries import Summary
from safeeraser.report.read import VIEW_COLUMNS, Run

MOST = 6  # names in a warning


class Decided(NamedTuple):
    """Who decided a metric's figure.

    Attributes:
        models: those that answered as the judge, where that is known.
        version: of the prompts that it was asked with, or of the rules that it goes by, where that is known.
    """

    protocol: str
    judge: str
    models: tuple[str, ...]
    version: str

    @property
    def identity(self) -> tuple:
        """Judges of other titles, such as a model's name and its alias, are the same where the same model answered."""
        return (self.protocol, self.judge.partition(":")[0] if self.models else self.judge, self.models, self.version)

    def __str__(self) -> str:
        answered = f", answered by {' and '.join(self.models)}" if self.models else ""
        version = f", version {self.version}" if self.version else ""
        return f"protocol {self.protocol}, judge {self.judge}{version}{answered}"


class Judges(NamedTuple):
    """Who judged some runs.

    Attributes:
        spelled: metric -> protocol, judge and models, in words. Specificity, which has no judge, is there only where it
            is of several kinds.
        different: the metrics whose figures do not compare with each other.
        warnings: what must be beside the figures, wherever they go, also where the data were not the same.
    """

    spelled: dict[str, list[str]]
    different: list[str]
    warnings: list[str]


def judges_of(runs: list[Run]) -> Judges:
    """Who judged the runs' figures."""
    known: dict[str, dict[tuple, Decided]] = defaultdict(dict)
    mixed, warnings = {}, []
    parts = [(run.title, part) for run in runs for part in run.parts.values()]
    for title, part in parts:
        for metric, decided in decisions(part):
            known[metric].setdefault(decided.identity, decided)
            if len(decided.models) > 1:
                mixed[f"{title} on {part.split}, {decided.judge} as {' and '.join(decided.models)}"] = True
    spelled = {metric: sorted(map(str, by_identity.values())) for metric, by_identity in known.items()}
    different = [metric for metric, by_identity in known.items() if differ(by_identity.values())]
    kinds = {run.specificity.task for run in runs if run.specificity and run.specificity.value is not None} - {""}
    if len(kinds) > 1:
        spelled["specificity"] = sorted(kinds)
        different.append("specificity")
    if different:
        warnings += [
            "These figures come from different judges, protocols or benchmarks and do not compare with each other."
        ]
    if mixed:
        warnings += [f"A judge answered as several models, so these figures are of no one judge: {'; '.join(mixed)}."]
    return Judges(spelled, different, [*warnings, *different_data(runs)])


def decisions(part: Summary) -> Iterator[tuple[str, Decided]]:
    """Every figure of the summary that a judge decided."""
    for metric in ASKED.values():
        if getattr(part, metric).value is not None:
            judge = part.judge_of(metric)
            models = {answer.model for answer in part.answered_by if answer.judge == judge and answer.model is not None}
            yield metric, Decided(part.protocol, judge, tuple(sorted(models)), part.version_of(judge))


def differ(decided: Iterable[Decided]) -> bool:
    """Whether they are more than one. A judge of which the models are not known is not known to be another."""
    apart = {each.identity: each for each in decided}.values()
    known = {each._replace(models=()) for each in apart if each.models}
    return len([each for each in apart if each.models or each not in known]) > 1


def provenance(runs: list[Run], judges: Judges) -> dict[str, Any]:
    """What the runs' summaries say of their making, each value once. Empty or null is what none of them says."""
    parts = [(run, part.provenance) for run in runs for part in run.parts.values()]
    packages = _each(package for _, part in parts for package in part.versions)
    dates = sorted(_each(part.date for _, part in parts))
    return {
        "models": _each(part.model for _, part in parts),
        "adapters": {run.name: part.adapter_sha256 for run, part in parts if part.adapter_sha256},
        "data": _each(part.data_sha256 for _, part in parts),
        "recipes": _each(part.recipe for _, part in parts),
        "judges": judges.spelled,
        "versions": {package: _each(part.versions.get(package) for _, part in parts) for package in packages},
        "git_commits": _each(part.git_commit for _, part in parts),
        "dates": [dates[0], dates[-1]] if dates else [],
    }


def warnings(shown: list[Run], judges: Judges) -> list[str]:
    """What must be above all figures, in words; `shown`: a run for each row, the mean where there are several seeds."""
    lines = [*judges.warnings]
    withheld = [
        f"{column.title.rstrip(' ↓↑')} of {run.title}"
        for run in shown
        for key, column in COLUMNS.items()
        if key in run.figures and run.figures[key].withheld
    ]
    if withheld:
        lines.append(f"Withheld: {list_some(withheld)}; the table says why.")
    blank = []
    for run in shown:  # the view in which most are, where they are more than a figure may do without
        bound = max((part.max_blank for part in run.parts.values()), default=0.0)
        most = highest(run.figures[key] for key in VIEW_COLUMNS["blank"] if key in run.figures)
        if most and most.sort_key > bound:
            blank.append(f"{run.title} {most.text}% in the view {most.view}")
    if blank:
        lines.append(f"Blank responses: {list_some(blank)}.")
    return lines


def different_data(runs: list[Run]) -> list[str]:
    """A warning where runs were scored on other data files, as far as is known, or on other categories of them."""
    for split in SPLITS:
        parts = [run.parts[split] for run in runs if split in run.parts]
        hashes = _each(part.provenance.data_sha256 for part in parts)
        if len({part.category for part in parts}) > 1 or len(hashes) > 1:
            return ["These figures were scored on different data or categories and do not compare with each other."]
    return []


def agreements(run: Run, *, labelled: bool) -> list[str]:
    """How far the judge of each figure agrees with labels, or with another judge, for the note under the table."""
    lines = []
    for part in run.parts.values():
        other = part.agreement_with
        if bool(other and other.labels) != labelled:
            continue
        beside = "labels" if labelled else f"responses beside {(other and other.judge) or 'a judge that is not named'}"
        for metric, of in part.agreements.items():
            none = f", none on {' and '.join(of.unlabelled)}" if of.unlabelled else ""
            shares = {"kappa": of.kappa, "sensitivity": of.sensitivity, "specificity": of.specificity}
            known = "".join(f", {name} {share:.2f}" for name, share in shares.items() if share is not None)
            lines.append(f"{run.title}, {METRICS[metric].title} on {part.split}: {of.labels} {beside}{none}{known}")
    return lines


def list_some(names: list[str]) -> str:
    """Names with commas between; of many the first ones, and how many more there are."""
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return ", ".join(names[:MOST]) + more


def _each(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(value for value in values if value is not None))
