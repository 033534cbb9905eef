"""How far a rate can be trusted: intervals by bootstrap over pictures.

The questions and samples of one picture are answered alike, so that 12 responses are not 12 independent ones. What is
drawn again is therefore the picture with all that was asked about it (the cluster bootstrap; Davison and Hinkley, 1997,
section 3.8).
"""

from collections.abc import Hashable, Iterable

import numpy as np

RESAMPLES, LEVEL, SEED = 2000, 0.95, 233

Clustered = Iterable[tuple[Hashable, float]]  # (picture, value)


def interval(values: Clustered, *, rate: bool = True) -> tuple[float | None, float | None]:
    """The 95% interval of the mean of clustered values; (None, None) from less than two clusters.

    Where every value of a rate is 0, or every one 1, drawing again would give a width of none. Then it is the exact
    (Clopper-Pearson) bound for as many independent trials as there are pictures.

    Args:
        rate: values lie within 0..1; differences do not.
    """
    sums, counts = _totals(values)
    clusters = len(sums)
    if clusters < 2:
        return None, None
    total, count = sums.sum(), counts.sum()
    edge = ((1 - LEVEL) / 2) ** (1 / clusters)
    if rate and total == 0:
        return 0.0, 1 - edge
    if rate and total == count:
        return edge, 1.0
    if np.ptp(sums / counts) == 0:
        return None, None  # differences that are all the same tell nothing of how they vary
    drawn = np.random.default_rng(SEED).multinomial(clusters, np.full(clusters, 1 / clusters), size=RESAMPLES)
    means = (drawn @ sums) / (drawn @ counts)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _totals(values: Clustered) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of each cluster's values, in the order in which the clusters come."""
    totals: dict[Hashable, list[float]] = {}
    for cluster, value in values:
        total = totals.setdefault(cluster, [0.0, 0.0])
        total[0] += value
        total[1] += 1
    both = np.array(list(totals.values()), dtype=float).reshape(-1, 2)
    return both[:, 0], both[:, 1]
