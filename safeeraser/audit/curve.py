"""Numbers from curves: what some points (step, value), rising in steps, say in one figure."""

from collections.abc import Sequence

import numpy as np

Curve = Sequence[tuple[float, float]]


def steps_to(curve: Curve, bound: float) -> float | None:
    """After how many steps a curve has come up to `bound`; None if it never does.

    Between two points it is taken for straight over the steps. A curve that begins there takes its first point's step;
    one that falls again has been there all the same.
    """
    before: tuple[float, float] | None = None
    for step, value in curve:
        if value >= bound:
            return float(step) if before is None else float(np.interp(bound, (before[1], value), (before[0], step)))
        before = step, value
    return None


def area_between(curve: Curve, other: Curve) -> float | None:
    """By how much `curve` lies above `other`, on the average over log2(1 + step), in the values' own unit.

    On this axis 0, 1, 3, 7, 15 steps are evenly spaced. On the plain one the last two of the usual points, 32 and 64,
    would make up half of the area, and the first steps, which tell a thin disguise from forgetting, hardly any of it.

    Returns:
        None where the two have no stretch of steps in common.
    """
    return _mean(*_drawn(curve, other))


def _drawn(*curves: Curve) -> tuple[np.ndarray, list[np.ndarray]]:
    """The stretch of log2(1 + step) that the curves have in common, by all their points on it, and each one's values
    there; a stretch of no points where there is none."""
    points = [np.array(curve, dtype=float).reshape(-1, 2).T for curve in curves]
    axes = [np.log2(1 + steps) for steps, _ in points]
    first = max((axis.min(initial=np.inf) for axis in axes), default=np.inf)
    last = min((axis.max(initial=-np.inf) for axis in axes), default=-np.inf)
    if not first < last:
        return np.empty(0), [np.empty(0)] * len(curves)
    common = np.unique(np.concatenate(axes).clip(first, last))
    return common, [np.interp(common, axis, values) for axis, (_, values) in zip(axes, points, strict=True)]


def _mean(axis: np.ndarray, pair: Sequence[np.ndarray]) -> float | None:
    """The mean of one over the other."""
    if not len(axis):
        return None
    return float(np.trapezoid(pair[0] - pair[1], axis) / (axis[-1] - axis[0]))
