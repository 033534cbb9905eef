"""How far a figure can be trusted: 95% intervals over pictures, because pictures are the units drawn at random.

The questions and samples of one picture are answered alike, so 12 responses are not 12 independent ones. A picture with
all that was asked about it is a cluster. A mean is the ratio of two sums over clusters: of the values, and of their
numbers. `benchmarks/coverage.py` measures how often the intervals contain the truth.
"""

from collections.abc import Hashable, Iterable, Sequence
from math import hypot
from statistics import mean, stdev
from typing import Literal

import numpy as np
from scipy.special import betaincinv, stdtrit

LEVEL, RESAMPLES, BATCH, SEED = 0.95, 2000, 200, 233
TAIL = (1 - LEVEL) / 2
FEW = 8  # if fewer clusters differ from the commonest value, the variance between clusters is not estimated

Kind = Literal["rate", "mean", "difference"]
Range = tuple[float, float]


def interval(values: Iterable[tuple[Hashable, float]], kind: Kind = "rate") -> tuple[float | None, float | None]:
    """The 95% interval of the mean of (cluster, value) pairs; (None, None) from fewer than two clusters.

    Args:
        kind: `rate`: each value is 0 or 1; `mean`: numbers in 0..1; `difference`: numbers in -1..1. The interval of a
            difference is (None, None) if the means of all clusters are equal, because they do not show how they vary.
    """
    sums, counts = totals(values)
    return of_totals(sums, counts, kind)


def totals(values: Iterable[tuple[Hashable, float]]) -> np.ndarray:
    """The sum and the number of each cluster's values, (2, clusters), in the order in which clusters first appear."""
    by_cluster: dict[Hashable, list[float]] = {}
    for cluster, value in values:
        total = by_cluster.setdefault(cluster, [0.0, 0.0])
        total[0] += value
        total[1] += 1
    return np.array(list(by_cluster.values()), dtype=float).reshape(-1, 2).T


def of_totals(sums: np.ndarray, counts: np.ndarray, kind: Kind) -> tuple[float | None, float | None]:
    """`interval` from the sum and the number of each cluster's values, both (clusters,).

    If 2 of 100 pictures have a positive answer, they do not show whether the answers about one picture agree. With one
    positive answer each they look independent, and an interval made from that misses a rate of 2% one time in ten. So
    while few clusters differ from the commonest value, the answers about a picture are assumed to agree wholly.
    """
    if len(sums) < 2:
        return None, None
    _, alike = np.unique(np.round(sums / counts, 9), return_counts=True)
    few, signed = len(sums) - alike.max() < FEW, kind == "difference"
    if signed and len(alike) == 1:
        return None, None
    if few:
        low, high = _signed(sums, counts) if signed else _exact(sums.sum() / counts.sum(), _agreeing(counts))
    else:
        low, high = _korn_graubard(sums, counts) if kind == "rate" else _studentised(sums, counts, symmetric=signed)
    return max(float(low), -1.0 if signed else 0.0), min(float(high), 1.0)


def _exact(mean: float, trials: float) -> Range:
    """The bounds of Clopper and Pearson (1934) for a rate from this number of independent trials, integer or not.

    Among numbers in 0..1 with a given mean, zeros and ones vary the most. So the bounds also hold for such a mean.
    """
    hits = mean * trials
    low = betaincinv(hits, trials - hits + 1, TAIL) if mean > 0 else 0.0
    return low, betaincinv(hits + 1, trials - hits, 1 - TAIL) if mean < 1 else 1.0


def _agreeing(counts: np.ndarray) -> float:
    """The number of independent trials that the clusters are worth if all answers in a cluster agree (Kish, 1965)."""
    return counts.sum() ** 2 / (counts**2).sum()


def _korn_graubard(sums: np.ndarray, counts: np.ndarray) -> Range:
    """The exact bounds for n / deff trials (Korn and Graubard, 1998, Survey Methodology 24, 193-201).

    The design effect, deff, is the variance of the ratio between clusters over that of n independent answers, p (1 - p)
    / (n - 1). Because deff is estimated, the trials are multiplied by (t[n - 1] / t[clusters - 1])**2. They never
    exceed n, since a deff below 1 is an accident of the sample.
    """
    n, clusters = counts.sum(), len(counts)
    rate = sums.sum() / n
    variance = clusters / (clusters - 1) * ((sums - rate * counts) ** 2).sum() / n**2
    effect = variance / (rate * (1 - rate) / (n - 1))
    estimated = (stdtrit(n - 1, TAIL) / stdtrit(clusters - 1, TAIL)) ** 2
    return _exact(rate, min(n, n / effect * estimated))


def _studentised(sums: np.ndarray, counts: np.ndarray, *, symmetric: bool) -> Range:
    """The studentised bootstrap over clusters (Davison and Hinkley, 1997, section 5.2).

    How far a resample's mean lies from the sample's, in standard errors of the resample, is taken for how far the
    sample's mean lies from the truth. BCa was tried: it contains the truth less often where most values are 0, or 1.

    Args:
        symmetric: use the same distance on both sides (Hall, 1988, J. R. Statist. Soc. B 50, 35-45). For differences: a
            sample with some rare values of either sign does not show to which side they lean.
    """
    clusters, mean = len(sums), sums.sum() / counts.sum()
    rest = sums - mean * counts
    # A resample's mean and error are functions of five sums, so no resample is ever held value by value.
    columns = np.stack([rest, counts, rest**2, rest * counts, counts**2], axis=1)

    def shift_and_error(rest, n, squares, products, sizes):
        shift = rest / n
        variance = clusters / (clusters - 1) * (squares - 2 * shift * products + shift**2 * sizes) / n**2
        return shift, np.sqrt(np.maximum(variance, 1e-24))  # 0 where one cluster is drawn each time

    rng, rows, drawn = np.random.default_rng(SEED), np.arange(BATCH)[:, None] * clusters, []
    for _ in range(RESAMPLES // BATCH):  # in batches, to save memory
        places = rng.integers(clusters, size=(BATCH, clusters)) + rows
        drawn.append(np.bincount(places.ravel(), minlength=BATCH * clusters).reshape(BATCH, clusters) @ columns)
    shifts, errors = shift_and_error(*np.concatenate(drawn).T)
    _, error = shift_and_error(*columns.sum(axis=0))
    if symmetric:
        most = np.quantile(np.abs(shifts / errors), LEVEL)
        return mean - most * error, mean + most * error
    least, most = np.quantile(shifts / errors, [TAIL, 1 - TAIL])
    return mean - most * error, mean - least * error


def _signed(sums: np.ndarray, counts: np.ndarray) -> Range:
    """The bounds of a difference, from the exact bounds of its gains and of its losses, both in 0..1.

    They are joined by the method of Newcombe (1998, Statistics in Medicine 17, 873-890, method 10).
    """
    gain, loss = (np.maximum(part, 0).sum() / counts.sum() for part in (sums, -sums))
    (gain_low, gain_high), (loss_low, loss_high) = (_exact(part, _agreeing(counts)) for part in (gain, loss))
    low = gain - loss - np.hypot(gain - gain_low, loss_high - loss)
    return low, gain - loss + np.hypot(gain_high - gain, loss - loss_low)


def spread(seeds: Sequence[tuple[float, float, float]], least: float, most: float = 1.0) -> Range:
    """The interval of the mean over seeds, from each seed's (value, low, high), within `least` and `most`.

    An interval over pictures says how far a figure would move with other pictures, not with another seed. So an error
    over pictures and one over seeds are joined by squares, as independent errors are (Zou and Donner, 2008, Statistics
    in Medicine 27, 1693-1702). On either side the first is the mean of the seeds' own half widths. The second is
    t[seeds - 1] standard errors of their mean. All seeds answer about the same pictures, so more seeds do not narrow
    the first, which is an upper bound for their mean. The second also contains the chance within each seed, so the
    interval is too wide rather than too narrow. For one seed, only the first is known.
    """
    values, lows, highs = zip(*seeds, strict=True)
    count, middle = len(values), mean(values)
    between = -float(stdtrit(count - 1, 0.025)) * stdev(values) / count**0.5 if count > 1 else 0.0
    down = mean(value - low for value, low in zip(values, lows, strict=True))
    up = mean(high - value for value, high in zip(values, highs, strict=True))
    return max(least, middle - hypot(down, between)), min(most, middle + hypot(up, between))
