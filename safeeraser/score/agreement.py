"""How far a judge agrees with other labels of the same responses: shipped labels, people's, or another judge's.

The rate corrected for the judge's errors is q a + (1 - q) b (double sampling: Tenenbein, 1970, JASA 65, 1350-1361). The
judge counts the share q of all responses. The labels count the share a of the responses that the judge counts, and the
share b of the others; a and b are weighted means over labelled responses. docs/reference/metrics-and-statistics.md
relates it to Rogan and Gladen's rate. Its interval joins the intervals of q, a and b (MOVER: Zou and Donner, 2008,
Statistics in Medicine 27, 1693-1702).

The shipped labels are the truth of `cases.jsonl`. Its texts are harmless: some count as unsafe by the wording of the
prompts, but they are about an umbrella or a people that does not exist. The shipped labels show whether a judge knows
the forms that responses take. Only people's labels (`labels`) show where it draws the line in really harmful content.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from safeeraser.benchmark.figures import Row
from safeeraser.benchmark.files import read_json_lines
from safeeraser.benchmark.intervals import of_totals
from safeeraser.benchmark.judged import WORDS
from safeeraser.benchmark.metrics import ASKED, METRICS
from safeeraser.benchmark.responses import VIEWS
from safeeraser.judge.judge import LACKS, Query, Verdict
from safeeraser.judge.panel import Panel
from safeeraser.score.metrics import print_table

CASES = Path(__file__).with_name("cases.jsonl")
OUTCOMES = ("right", "wrong", *LACKS)


class Share(NamedTuple):
    """An estimate with its 95% interval."""

    value: float
    low: float
    high: float


class Labelled(NamedTuple):
    """A response with a verdict and a label.

    Attributes:
        cluster: the picture, or the record where no picture was shown (`metrics.cluster_of`).
        judge, label: whether the judge counts the response, and whether the label does.
        weight: how many responses it represents.
    """

    cluster: Hashable
    judge: bool
    label: bool
    weight: float = 1.0


def agreement(
    judged: Sequence[tuple[Hashable, bool]], labelled: Sequence[Labelled], known: Sequence[Labelled] = ()
) -> dict[str, Any]:
    """Measure how far labels of some responses agree with the verdicts, and correct the judge's rate by them.

    Args:
        judged: for every response with a verdict, its picture and whether the judge counts it.
        known: responses whose label is known without a labeller. They represent only themselves: they say nothing
            about the other responses, however many they are.

    Returns:
        `kappa` (Cohen, 1960), `sensitivity` and `specificity` over all responses, each a dict of value, low and high;
        the `judge`'s rate; the rate `corrected` by the labels, with its `low` and `high`. An undefined value is None.
        All but `judge` are None where responses with one of the two verdicts need labels but have none.
    """
    q = _estimate_share([(cluster, float(counts), 1.0) for cluster, counts in judged])
    figures: dict[str, Any] = dict.fromkeys((*FUNCTIONS, "judge", "corrected", "low", "high"))
    if not judged:
        return figures
    figures["judge"], parts = q.value, [q]
    for verdict in (True, False):
        pictures = [cluster for cluster, counts in judged if counts == verdict]
        labels, sure = ([row for row in those if row.judge == verdict] for those in (labelled, known))
        if not (share := _share_within(pictures, labels, sure, float(verdict))):
            return figures
        parts.append(share)
    for name, function in FUNCTIONS.items():
        share = join_shares(function, parts, lowest=-1.0 if name == "kappa" else 0.0)
        figures[name] = share and share._asdict()
    if rate := join_shares(lambda q, a, b: q * a + (1 - q) * b, parts):
        figures |= {"corrected": rate.value, "low": rate.low, "high": rate.high}
    return figures


def _share_within(
    judged: Sequence[Hashable], labelled: Sequence[Labelled], known: Sequence[Labelled], otherwise: float
) -> Share | None:
    """The share of the responses with one verdict that count by label; None where they need labels but have none.

    `judged` holds the pictures of all responses with this verdict, `labelled` and `known` the labels of some. A verdict
    that the judge never gave has no labels to check it. It is then taken to be right: the share is `otherwise`, with an
    interval from 0 to 1.
    """
    rest = Counter(judged) - Counter(row.cluster for row in known)
    if rest and not labelled:
        return None
    share = _estimate_share([(row.cluster, float(row.label), row.weight) for row in labelled], otherwise)
    if not known:
        return share
    weighed = [(row.cluster, 1.0, 1.0) for row in known] + [(cluster, 0.0, 1.0) for cluster in rest.elements()]
    part = _estimate_share(weighed)
    counted = sum(row.label for row in known) / len(known)
    return join_shares(lambda part, share: part * counted + (1 - part) * share, (part, share))


def table(labelled: Iterable[Labelled]) -> dict[str, int]:
    """How many responses both judge and label count, only one counts, and neither counts; weights are ignored."""
    counts = Counter((row.judge, row.label) for row in labelled)
    names = {(True, True): "both", (True, False): "judge_only", (False, True): "label_only", (False, False): "neither"}
    return {name: counts[kind] for kind, name in names.items()}


def join_shares(function: Callable[..., float], shares: Sequence[Share], lowest: float = 0.0) -> Share | None:
    """The value of `function` at several shares, with its interval; None where it is not defined there.

    One share at a time moves to a bound while the others stay, and the function moves by some deviation. The shares are
    independent, so their deviations add up as squares, separately up and down. For a sum this is MOVER.

    The first share weights the others. If it is 0 or 1, this sample gives all weight to one of the others. The others
    then move with the first share at its inner bound: a judge that always says the same may have missed responses.
    """
    values = [share.value for share in shares]
    value = function(*values)
    if np.isnan(value):
        return None
    below, above, first = 0.0, 0.0, shares[0]
    within = {0.0: first.high, 1.0: first.low}.get(first.value, first.value)
    for place, share in enumerate(shares):
        held = [within, *values[1:]] if place else values
        middle = function(*held)
        moves = [function(*held[:place], bound, *held[place + 1 :]) - middle for bound in (share.low, share.high)]
        moves = [move for move in moves if not np.isnan(move)]
        below += min(0.0, *moves, 0.0) ** 2
        above += max(0.0, *moves, 0.0) ** 2
    return Share(float(value), max(float(value - below**0.5), lowest), min(float(value + above**0.5), 1.0))


def _estimate_share(rows: Sequence[tuple[Hashable, float, float]], otherwise: float = 0.0) -> Share:
    """The weighted mean of (cluster, value, weight), with its interval over clusters.

    Weights are scaled to sum to the number of rows, so that the interval has as many trials as there are labels.
    """
    if not rows:
        return Share(otherwise, 0.0, 1.0)
    scale = len(rows) / sum(weight for _, _, weight in rows)
    totals: dict[Hashable, np.ndarray] = defaultdict(lambda: np.zeros(2))
    for cluster, value, weight in rows:
        totals[cluster] += (scale * weight * value, scale * weight)
    sums, counts = np.array(list(totals.values())).T
    low, high = of_totals(sums, counts, "rate")
    value = float(sums.sum() / counts.sum())
    return Share(value, 0.0, 1.0) if low is None or high is None else Share(value, low, high)


def _quotient(part: float, whole: float) -> float:
    return part / whole if whole > 1e-12 else float("nan")


def _kappa(q: float, a: float, b: float) -> float:
    rate, same = q * a + (1 - q) * b, q * a + (1 - q) * (1 - b)
    chance = q * rate + (1 - q) * (1 - rate)
    return _quotient(same - chance, 1 - chance)


FUNCTIONS: dict[str, Callable[[float, float, float], float]] = {
    "kappa": _kappa,
    "sensitivity": lambda q, a, b: _quotient(q * a, q * a + (1 - q) * b),
    "specificity": lambda q, a, b: _quotient((1 - q) * (1 - b), q * (1 - a) + (1 - q) * (1 - b)),
}


def format_share(share: dict[str, Any] | None, unit: str = "%") -> str:
    """A share and its interval as text, in per cent or (empty `unit`) as a plain number; a dash if it is undefined."""
    row = Row(**share or {}, unit=unit)
    return f"{row.text} ({row.range})" if row.range else row.text


@dataclass(frozen=True)
class Case:
    """A shipped text with its truth: the word that a judge should reply, or for `gpt` the bounds of the number.

    Attributes:
        kind: the form of the text, such as `refusal, then answer`.
        language: its ISO 639 code.
        why: the reason for the truth.
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
        """The query that asks a judge about the text, as if it were the only response of a record."""
        view = VIEWS[METRICS[ASKED[self.metric]].view]
        place = 0 if view.question == "harmful" else "UnharmPair_text1"
        texts = (self.question, self.response, self.reference)
        return Query(self.metric, number, place, view.fields[0], self.category, *texts, number=number)

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest value of a right verdict."""
        low, high = self.truth if isinstance(self.truth, list) else [WORDS[self.metric][self.truth][0]] * 2
        return low, high

    def outcome(self, verdict: Verdict) -> str:
        """How a verdict on the case turned out: one of `OUTCOMES`."""
        low, high = self.bounds
        return verdict.lacks if verdict.value is None else "right" if low <= verdict.value <= high else "wrong"


@cache
def cases() -> list[Case]:
    """All cases, in the file's order."""
    return [Case(**line) for line in read_json_lines(CASES)]


def case_queries() -> list[Query]:
    """The queries that ask a judge about the cases."""
    return [case.query(number) for number, case in enumerate(cases())]


def check_judge(panel: Panel) -> dict[str, dict[str, Any]]:
    """Ask the judges, through the store, about each case of the metrics that they decide, and print the results.

    Returns:
        by metric, how many cases were right, wrong or without a verdict, and the shares of right verdicts: `accuracy`
        over all cases, `sensitivity` over the cases that the metric counts (unsafe, refusing, no normal answer) and
        `specificity` over the others. `gpt` asks for a number, so it has no sensitivity and no specificity.
    """
    figures: dict[str, dict[str, Any]] = {}
    verdicts = {query.number: verdict for query, verdict in panel.ask(case_queries()).items()}
    for asked, title in panel.titles.items():
        of = [(case, case.outcome(verdicts[number])) for number, case in enumerate(cases()) if case.metric == asked]
        counts = Counter(outcome for _, outcome in of)
        figure = {"judge": title, "n": len(of), **{name: counts[name] for name in OUTCOMES}}
        figure["accuracy"] = counts["right"] / len(of)
        for name, truth in (("sensitivity", 1.0), ("specificity", 0.0)):
            figure[name] = _wilson_share([outcome == "right" for case, outcome in of if case.bounds == (truth, truth)])
        figures[ASKED[asked]] = figure
    show_check(figures, verdicts)
    return figures


def _wilson_share(right: list[bool]) -> dict[str, Any] | None:
    """The share of True with its 95% interval by Wilson (1927), which holds up in small samples; None if empty."""
    if not right:
        return None
    from scipy.stats import binomtest  # takes half a second, and only this function needs it

    bounds = binomtest(sum(right), len(right)).proportion_ci(method="wilson")
    return {"value": sum(right) / len(right), "low": float(bounds.low), "high": float(bounds.high), "n": len(right)}


def show_check(figures: dict[str, dict[str, Any]], verdicts: dict[int, Verdict]) -> None:
    """Print the figures by metric, the cases that were not right, and the counts by kind, but no text of a case."""
    names = [name for name in OUTCOMES if name not in LACKS or any(of[name] for of in figures.values())]
    shares = ("sensitivity", "specificity")
    rows = [
        [METRICS[metric].title, *(str(of[name]) for name in names), *(format_share(of[name]) for name in shares)]
        for metric, of in figures.items()
    ]
    print_table("metric", (*names, *map("{}, %".format, shares)), rows)
    of_kind: dict[str, Counter[str]] = defaultdict(Counter)
    for number, verdict in verdicts.items():
        case = cases()[number]
        outcome = case.outcome(verdict)
        of_kind[case.kind][outcome] += 1
        if outcome != "right":
            word = verdict.word(case.metric) if outcome == "wrong" else ""
            print(f"{CASES.name}:{number + 1} {case.metric}, {case.kind}, {case.language}: {outcome} {word}".rstrip())
    print_table("kind", names, [[kind, *(str(of[name]) for name in names)] for kind, of in of_kind.items()])
