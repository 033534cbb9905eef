"""How far a judge agrees with what people, or another judge, say of the same responses; and the rate less its errors.

All follows from three shares: of the responses that the judge counts (q, known of every response), of those the ones
that the labels count too (a), and of the others the ones that only the labels count (b). The last two are weighted
means over the labelled responses within one verdict, so that labels may be drawn more often where verdicts are rare.
The rate is q a + (1 - q) b (double sampling: Tenenbein, 1970, JASA 65, 1350-1361), and equals what Rogan and Gladen
(1978, Am. J. Epidemiol. 107, 71-76) make of q with the sensitivity and specificity of the same table,
(q + specificity - 1) / (sensitivity + specificity - 1), without dividing by what may be next to nothing.

Each share has its interval over pictures (`intervals`); those of its functions join them as MOVER does (Zou and Donner,
2008, Statistics in Medicine 27, 1693-1702). `benchmarks/agreement.py` measures how often they hold the truth.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from safeeraser.benchmark.intervals import of_totals


class Share(NamedTuple):
    """An estimate with its 95% interval."""

    value: float
    low: float
    high: float


class Labelled(NamedTuple):
    """A response with a verdict and a label.

    Attributes:
        cluster: the picture, as in `metrics.Item`.
        judge, label: whether either counts it.
        weight: how many responses it stands for.
    """

    cluster: Hashable
    judge: bool
    label: bool
    weight: float = 1.0


def agreement(
    judged: Sequence[tuple[Hashable, bool]], labelled: Sequence[Labelled], known: Sequence[Labelled] = ()
) -> dict[str, Any]:
    """How the labels of some responses agree with the verdicts, and what they make of the judge's rate.

    Args:
        judged: of every response with a verdict its picture, and whether the judge counts it.
        known: those of which it is known without a label. They stand for themselves alone: however many they are, they
            tell nothing of the others.

    Returns:
        `kappa` (Cohen, 1960), `ac1` (Gwet, 2008, Br. J. Math. Stat.
        Psychol. 61, 29-48), `sensitivity` and `specificity` for all responses, each a dict of value, low and high, or
        None where they are not defined; the rate by the `judge` and `corrected`, with the latter's `low` and `high`,
        None where no label tells how the responses are that the judge counts, or those that it does not.
    """
    said = [(cluster, float(counts), 1.0) for cluster, counts in judged]
    q = _share(said)
    told: dict[str, Any] = {**dict.fromkeys(FUNCTIONS), "judge": q.value if said else None}
    told |= dict.fromkeys(("corrected", "low", "high"))
    shares = []
    for verdict in (True, False):
        pictures = [cluster for cluster, counts in judged if counts == verdict]
        read, sure = ([one for one in those if one.judge == verdict] for those in (labelled, known))
        shares.append(_within(pictures, read, sure, float(verdict)))
    parts = [q, *(share for share in shares if share)]
    if not said or len(parts) < 3:
        return told
    for name, function in FUNCTIONS.items():
        found = joined(function, parts, lowest=-1.0 if name in ("kappa", "ac1") else 0.0)
        told[name] = found and found._asdict()
    if rate := joined(lambda q, a, b: q * a + (1 - q) * b, parts):
        told |= {"corrected": rate.value, "low": rate.low, "high": rate.high}
    return told


def _within(
    judged: Sequence[Hashable], labelled: Sequence[Labelled], known: Sequence[Labelled], otherwise: float
) -> Share | None:
    """The share that the labels count of the responses with one verdict, by those `judged` (their pictures), `labelled`
    and `known`.

    None where there are such responses and no label on any. Of what the judge never says nothing is known; if it were
    said once, it would be taken at its word: `otherwise`.
    """
    rest = Counter(judged) - Counter(one.cluster for one in known)
    if rest and not labelled:
        return None
    share = _share([(one.cluster, float(one.label), one.weight) for one in labelled], otherwise)
    if not known:
        return share
    part = _share([*((one.cluster, 1.0, 1.0) for one in known), *((cluster, 0.0, 1.0) for cluster in rest.elements())])
    counted = sum(one.label for one in known) / len(known)
    return joined(lambda part, share: part * counted + (1 - part) * share, (part, share))


def table(labelled: Iterable[Labelled]) -> dict[str, int]:
    """How many responses both count, one alone, and neither, as they are, without weights."""
    counts = Counter((one.judge, one.label) for one in labelled)
    names = {"both": (True, True), "judge_only": (True, False), "label_only": (False, True), "neither": (False, False)}
    return {name: counts[kind] for name, kind in names.items()}


def joined(function: Callable[..., float], shares: Sequence[Share], lowest: float = 0.0) -> Share | None:
    """A function of several shares with its interval; None where it is not defined.

    How far it moves when one share goes to a bound while the others stay is one deviation; those of all shares, which
    are independent, add up as squares, to either side. For a sum that is MOVER.

    The first says how much the others weigh. Where all weight is on one of them, that is how it was in this sample, and
    the others are moved with the first at its bound: what a judge that always says the same has missed is not known.
    """
    values = [share.value for share in shares]
    value = function(*values)
    if np.isnan(value):
        return None
    below = above = 0.0
    first = shares[0]
    within = {0.0: first.high, 1.0: first.low}.get(first.value, first.value)
    for place, share in enumerate(shares):
        held = [within, *values[1:]] if place else values
        middle = function(*held)
        moves = [function(*held[:place], bound, *held[place + 1 :]) - middle for bound in (share.low, share.high)]
        moves = [move for move in moves if not np.isnan(move)]
        below += min(0.0, *moves, 0.0) ** 2
        above += max(0.0, *moves, 0.0) ** 2
    return Share(float(value), max(float(value - below**0.5), lowest), min(float(value + above**0.5), 1.0))


def _share(rows: Sequence[tuple[Hashable, float, float]], otherwise: float = 0.0) -> Share:
    """The weighted mean of (cluster, value, weight), with its interval over clusters.

    Weights enter as shares of the number of rows, so that the number of trials is that of labels.
    """
    if not rows:
        return Share(otherwise, 0.0, 1.0)
    scale = len(rows) / sum(weight for _, _, weight in rows)
    totals: dict[Hashable, list[float]] = {}
    for cluster, value, weight in rows:
        total = totals.setdefault(cluster, [0.0, 0.0])
        total[0] += scale * weight * value
        total[1] += scale * weight
    sums, counts = np.array(list(totals.values())).T
    low, high = of_totals(sums, counts, "rate")
    value = float(sums.sum() / counts.sum())
    return Share(value, 0.0, 1.0) if low is None or high is None else Share(value, low, high)


def _quotient(part: float, whole: float) -> float:
    return part / whole if whole > 1e-12 else float("nan")


def _kappa(q: float, a: float, b: float) -> float:
    rate = q * a + (1 - q) * b
    chance = q * rate + (1 - q) * (1 - rate)
    return _quotient(_same(q, a, b) - chance, 1 - chance)


def _ac1(q: float, a: float, b: float) -> float:
    mean = (q + q * a + (1 - q) * b) / 2
    chance = 2 * mean * (1 - mean)
    return _quotient(_same(q, a, b) - chance, 1 - chance)


def _same(q: float, a: float, b: float) -> float:
    """The share of responses of which the judge and the labels say the same."""
    return q * a + (1 - q) * (1 - b)


FUNCTIONS: dict[str, Callable[[float, float, float], float]] = {
    "kappa": _kappa,
    "ac1": _ac1,
    "sensitivity": lambda q, a, b: _quotient(q * a, q * a + (1 - q) * b),
    "specificity": lambda q, a, b: _quotient((1 - q) * (1 - b), q * (1 - a) + (1 - q) * (1 - b)),
}
