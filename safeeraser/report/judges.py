"""Who judged the figures of some runs, and whether these may be compared with each other."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from safeeraser.benchmark.metrics import ASKED
from safeeraser.report.runs import Run, Summary


class Decided(NamedTuple):
    """What a metric's figure comes from.

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
    """What figures come from.

    Attributes:
        told: metric -> protocol, judge and models, in words. Specificity, which has no judge, is there only where it is
            of several kinds.
        different: the metrics whose figures do not compare with each other.
        mixed: the figures whose judge answered as several models, in words.
    """

    told: dict[str, list[str]]
    different: list[str]
    mixed: list[str]

    @property
    def warnings(self) -> list[str]:
        """What must stand beside the figures, wherever they go."""
        told = []
        if self.different:
            told.append(
                "These figures come from different judges, protocols or benchmarks and do not compare with each other."
            )
        if self.mixed:
            mixed = "; ".join(self.mixed)
            told.append(f"A judge answered as several models, so these figures are of no one judge: {mixed}.")
        return told


def judges(runs: list[Run]) -> Judges:
    """Who judged the runs' figures."""
    found: dict[str, dict[tuple, Decided]] = defaultdict(dict)
    mixed = {}
    for run in runs:
        for part in filter(None, (run.train, run.val)):
            for metric, decided in decisions(part):
                found[metric].setdefault(decided.identity, decided)
                if len(decided.models) > 1:
                    mixed[f"{run.title} on {part.split}, {decided.judge} as {' and '.join(decided.models)}"] = True
    told = {metric: sorted(map(str, by_identity.values())) for metric, by_identity in found.items()}
    different = [metric for metric, by_identity in found.items() if differ(by_identity.values())]
    kinds = {run.specificity.task for run in runs if run.specificity and run.specificity.value is not None} - {""}
    if len(kinds) > 1:
        told["specificity"] = sorted(kinds)
        different.append("specificity")
    return Judges(told, different, list(mixed))


def decisions(part: Summary) -> Iterator[tuple[str, Decided]]:
    """Every figure of the summary that a judge decided."""
    for metric in ASKED.values():
        figure = getattr(part, metric)
        if figure.value is not None:
            judge = figure.judge or ":".join(filter(None, (part.judge, part.judge_model)))
            models = {one.model for one in part.answered_by if one.judge == judge and one.model is not None}
            versions = {"openai": part.prompts, "rules": part.rules, "truth": part.truth} | part.guards
            version = versions.get(judge.partition(":")[0], "")
            yield metric, Decided(part.protocol, judge, tuple(sorted(models)), version)


def differ(decided: Iterable[Decided]) -> bool:
    """Whether they are more than one. A judge of which the models are not known is not known to be another."""
    apart = {one.identity: one for one in decided}.values()
    known = {one._replace(models=()) for one in apart if one.models}
    return len([one for one in apart if one.models or one not in known]) > 1
