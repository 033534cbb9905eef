"""The sources of some runs' figures: their judges and data, and the warnings that a reader must see first."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from safeeraser.benchmark.figures import highest
from safeeraser.benchmark.metrics import ASKED, COLUMNS, METRICS, SPLITS
from safeeraser.benchmark.summaries import Summary
from safeeraser.report.read import VIEW_COLUMNS, Run

MOST = 6  # names that a warning lists


class Decided(NamedTuple):
    """The judge that decided a metric's figure.

    Attributes:
        models: the models that answered as the judge; empty if unknown.
        version: the version of the judge's prompts, rules or file; empty if unknown.
    """

    protocol: str
    judge: str
    models: tuple[str, ...]
    version: str

    @property
    def identity(self) -> tuple:
        """A key that equal judges share. Titles may differ (a model's name, its alias) if the same model answered."""
        return (self.protocol, self.judge.partition(":")[0] if self.models else self.judge, self.models, self.version)

    def __str__(self) -> str:
        answered = f", answered by {' and '.join(self.models)}" if self.models else ""
        version = f", version {self.version}" if self.version else ""
        return f"protocol {self.protocol}, judge {self.judge}{version}{answered}"


class Judges(NamedTuple):
    """The judges of some runs.

    Attributes:
        spelled: metric -> protocol, judge and models, in words. Specificity has no judge; it is there only if it
            is of several kinds.
        different: the metrics whose figures cannot be compared with each other.
        warnings: the warnings that must accompany the figures everywhere; one is about different data.
    """

    spelled: dict[str, list[str]]
    different: list[str]
    warnings: list[str]


def judges_of(runs: list[Run]) -> Judges:
    """The judges of the runs' figures, and the differences between them."""
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
        warnings += [
            "Several models answered as one judge, so these figures do not come from a single judge: "
            f"{'; '.join(mixed)}."
        ]
    return Judges(spelled, different, [*warnings, *different_data(runs)])


def decisions(part: Summary) -> Iterator[tuple[str, Decided]]:
    """Each metric of the summary that a judge decided, with the judge."""
    for metric in ASKED.values():
        if getattr(part, metric).value is not None:
            judge = part.judge_of(metric)
            models = {answer.model for answer in part.answered_by if answer.judge == judge and answer.model is not None}
            yield metric, Decided(part.protocol, judge, tuple(sorted(models)), part.version_of(judge))


def differ(decided: Iterable[Decided]) -> bool:
    """Whether there is more than one judge. A judge does not count as another only because its models are unknown."""
    apart = {each.identity: each for each in decided}.values()
    known = {each._replace(models=()) for each in apart if each.models}
    return len([each for each in apart if each.models or each not in known]) > 1


def provenance(runs: list[Run], judges: Judges) -> dict[str, Any]:
    """The provenance that the runs' summaries record, each value once; empty where no summary has a value."""
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
    """The warnings to show above all figures. `shown` has one run per row, the mean run if there are several seeds."""
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
    for run in shown:  # the view with the highest share, if the share exceeds the highest max_blank
        bound = max((part.max_blank for part in run.parts.values()), default=0.0)
        most = highest(run.figures[key] for key in VIEW_COLUMNS["blank"] if key in run.figures)
        if most and most.sort_key > bound:
            blank.append(f"{run.title} {most.text}% in the view {most.view}")
    if blank:
        lines.append(f"Blank responses: {list_some(blank)}.")
    return lines


def different_data(runs: list[Run]) -> list[str]:
    """A warning if the runs were scored on different categories, or on data files that are known to differ."""
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
    """The names with commas between them; beyond `MOST`, only the first ones and the number of the others."""
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return ", ".join(names[:MOST]) + more


def _each(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(value for value in values if value is not None))
