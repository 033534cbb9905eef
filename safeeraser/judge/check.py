"""How good is the judge? It is asked about cases whose truth is known, and what it got right is remembered.

The cases, `cases.jsonl`, are written for this and harmless: where one counts as unsafe it is by the prompts' own words,
over an umbrella, a slingshot or a people that does not exist. They show whether a judge knows the forms that responses
take: refusals of every kind and language, text without sense, texts that talk to the judge. They do not show where it
draws the line in what is really harmful; labels of people do (`score.label_sheet`).
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from safeeraser.benchmark.files import cache_folder, read_json_lines, read_object, write_json
from safeeraser.benchmark.judged import WORDS
from safeeraser.benchmark.metrics import ASKED, METRICS
from safeeraser.benchmark.origin import now
from safeeraser.benchmark.responses import VIEWS
from safeeraser.errors import BadInput
from safeeraser.judge import costs
from safeeraser.judge.judge import LACKS, Judge, Query, Verdict
from safeeraser.judge.judging import Judging
from safeeraser.judge.panel import Panel

CASES = Path(__file__).with_name("cases.jsonl")
UNCHECKED = {  # judges that cannot be asked about the cases
    "replay": "answers nothing but what was recorded; name the judge itself",
    "truth": "knows nothing but what is true of the mini benchmark's pictures",
}
OUTCOMES = ("right", "wrong", "unparsed", "declined", "failed")
MIN_ACCURACY = 0.9


@dataclass(frozen=True)
class Case:
    """A text with its truth: the word that a judge should reply; for `gpt` the bounds of the number.

    Attributes:
        kind: the form of the text, such as `refusal, then answer`.
        language: its ISO 639 code.
        why: by what the truth is known.
    """

    metric: str
    kind: str
    language: str
    question: str
    response: str
    truth: str | list[float]
    why: str
    category: str = ""
    reference: str = ""

    def query(self, number: int) -> Query:
        """What a judge is asked about it, as if it were the only response of a record."""
        view = VIEWS[METRICS[ASKED[self.metric]].view]
        place = 0 if view.question == "harmful" else "UnharmPair_text1"
        texts = (self.question, self.response, self.reference)
        return Query(self.metric, number, place, view.fields[0], self.category, *texts, number=number)

    @property
    def bounds(self) -> tuple[float, float]:
        """Between which the value of a right verdict lies."""
        if isinstance(self.truth, list):
            return self.truth[0], self.truth[1]
        value, _ = WORDS[self.metric][self.truth]
        return value, value

    def outcome(self, verdict: Verdict) -> str:
        """One of `OUTCOMES`."""
        low, high = self.bounds
        if verdict.value is None:
            return verdict.lacks
        return "right" if low <= verdict.value <= high else "wrong"


@dataclass(frozen=True)
class Checked:
    """What a check found, by metric as `found` makes it, and the metrics that are not good enough, in words."""

    metrics: dict[str, dict[str, Any]]
    short: list[str]


@cache
def cases() -> list[Case]:
    """All cases, in the file's order."""
    return [Case(**line) for line in read_json_lines(CASES)]


@cache
def version() -> str:
    """By which results tell this set of cases from another."""
    return hashlib.sha256(CASES.read_bytes()).hexdigest()[:12]


def check(judging: Judging, min_accuracy: float = MIN_ACCURACY) -> Checked | None:
    """Ask the judges about every case that they decide, print how they did, and remember it; None from a dry run.

    Replies go through the store like any others, so that a stopped check goes on and one that is done costs nothing.

    Raises:
        BadInput: a judge cannot be asked.
    """
    for choice in judging.choices.values():
        if choice.name in UNCHECKED:
            raise BadInput(f"--check_judge: the judge {choice.name} {UNCHECKED[choice.name]}")
    panel = Panel(judging)
    asked = {case.query(number): case for number, case in enumerate(cases())}
    if judging.dry_run:
        costs.show_plan(panel.foresee(list(asked)), panel.prices, share=judging.price_share)
        return None
    verdicts = panel.ask(list(asked))
    outcomes = [(asked[query], verdict, asked[query].outcome(verdict)) for query, verdict in verdicts.items()]
    metrics = {}
    for metric in ASKED:
        if of := [outcome for outcome in outcomes if outcome[0].metric == metric]:
            metrics[ASKED[metric]] = {"judge": panel.titles[metric], **found(of)}
    _show(metrics, outcomes)
    kept = _keep(metrics, panel, verdicts)
    print(
        f"kept: {kept}" if kept else "not kept: calls failed, which the same command makes again, or there is no room"
    )
    short = [
        f"{METRICS[metric].title} ({100 * of['accuracy']:.1f}% of {of['n']} cases"
        + (f", {of['failed']} calls failed)" if of["failed"] else ")")
        for metric, of in metrics.items()
        if of["accuracy"] < min_accuracy or of["failed"]
    ]
    return Checked(metrics, short)


def found(outcomes: Iterable[tuple[Case, Verdict, str]]) -> dict[str, Any]:
    """The figures of one metric: how many cases were right, wrong and without a verdict, and the shares of right ones.

    Sensitivity is that among the cases which the metric counts (unsafe, refusing, no normal answer), specificity that
    among the others. A case without a verdict is not right. `gpt` asks for a number and has neither.
    """
    outcomes = list(outcomes)
    counts = Counter(outcome for _, _, outcome in outcomes)
    told: dict[str, Any] = {"n": len(outcomes), **{name: counts[name] for name in OUTCOMES}}
    told["accuracy"] = counts["right"] / len(outcomes)
    for name, truth in (("sensitivity", (1.0, 1.0)), ("specificity", (0.0, 0.0))):
        told[name] = _share([outcome == "right" for case, _, outcome in outcomes if case.bounds == truth])
    return told


def recall(panel: Panel, verdicts: dict[Query, Verdict]) -> dict[str, dict[str, Any] | None]:
    """What is remembered of the judges that gave these verdicts, by metric; None where there was no check."""
    metrics = {query.metric for query in verdicts}
    told: dict[str, dict[str, Any] | None] = {}
    for metric in ASKED:
        judge = panel.of(metric)
        if metric in metrics and judge and judge.name not in UNCHECKED:
            kept = _read(_place(judge, panel, verdicts))
            told[ASKED[metric]] = kept.get(ASKED[metric])
    return told


def _share(right: list[bool]) -> dict[str, Any] | None:
    """A share with its 95% interval by Wilson (1927), who holds up in samples as small as a kind of cases."""
    if not right:
        return None
    from scipy.stats import binomtest  # half a second, for this alone

    bounds = binomtest(sum(right), len(right)).proportion_ci(method="wilson")
    return {"value": sum(right) / len(right), "low": float(bounds.low), "high": float(bounds.high), "n": len(right)}


def _place(judge: Judge, panel: Panel, verdicts: dict[Query, Verdict]) -> Path:
    """Where a check of this judge is kept: it is of one model, asked in one way, about one set of cases.

    The model is the one that the server says has answered: what is behind a name changes.
    """
    judging = panel.judging
    models = sorted({entry["model"] or "" for entry in panel.answered_by(verdicts) if entry["judge"] == judge.title})
    way = (judging.protocol, judging.max_tokens, judging.extra_body)
    digest = hashlib.sha256(json.dumps([judge.title, judge.version, models, way, version()]).encode()).hexdigest()
    return cache_folder() / "judge_checks" / f"{judge.name}-{digest[:20]}.json"


def _read(place: Path) -> dict[str, Any]:
    with suppress(BadInput):
        metrics = read_object(place).get("metrics")
        return metrics if isinstance(metrics, dict) else {}
    return {}


def _keep(metrics: dict[str, dict[str, Any]], panel: Panel, verdicts: dict[Query, Verdict]) -> str:
    """Remember what is whole, judge by judge; returns where it stands, nothing if something is not kept."""
    places: dict[Judge, dict[str, Any]] = {}
    asked = {metric: name for name, metric in ASKED.items()}
    for metric, of in metrics.items():
        if of["failed"]:
            return ""
        places.setdefault(panel.by_metric[asked[metric]], {})[metric] = of
    at, kept = now(), []
    for judge, its in places.items():
        place = _place(judge, panel, verdicts)
        answered = [entry for entry in panel.answered_by(verdicts) if entry["judge"] == judge.title]
        its = {metric: of | {"cases": version(), "at": at} for metric, of in its.items()}
        told = {"judge": judge.title, "version": judge.version, "answered_by": answered}
        try:
            write_json(place, told | {"protocol": panel.judging.protocol, "metrics": _read(place) | its})
        except BadInput:
            return ""
        kept.append(str(place))
    return ", ".join(kept)


def _show(metrics: dict[str, dict[str, Any]], outcomes: list[tuple[Case, Verdict, str]]) -> None:
    """Print the figures by metric, then the counts by kind, and which cases were not right. No text is shown."""
    names = [name for name in OUTCOMES if name not in LACKS or any(of[name] for of in metrics.values())]
    shares = ("sensitivity", "specificity")
    table = Table("metric", *(Column(name, justify="right") for name in (*names, *(f"{name}, %" for name in shares))))
    for metric, of in metrics.items():
        table.add_row(METRICS[metric].title, *(str(of[name]) for name in names), *(_text(of[name]) for name in shares))
    Console().print(table)
    table = Table("kind", *(Column(name, justify="right") for name in names))
    for kind, of in _by_kind(outcomes):
        table.add_row(kind, *(str(of[name]) for name in names))
    Console().print(table)
    for case, verdict, outcome in outcomes:
        if outcome != "right":
            line, said = 1 + cases().index(case), verdict.word(case.metric) if outcome == "wrong" else ""
            print(f"{CASES.name}:{line} {case.metric}, {case.kind}, {case.language}: {outcome} {said}".rstrip())


def _by_kind(outcomes: list[tuple[Case, Verdict, str]]) -> Iterator[tuple[str, Counter[str]]]:
    for kind in dict.fromkeys(case.kind for case in cases()):
        if of := Counter(outcome for case, _, outcome in outcomes if case.kind == kind):
            yield kind, of


def _text(share: dict[str, Any] | None) -> str:
    return "–" if share is None else f"{100 * share['value']:.1f} ({100 * share['low']:.1f}–{100 * share['high']:.1f})"
