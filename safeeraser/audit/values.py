"""The values behind a point's figures, item by item: what differences and shares are made of.

An item's key begins with its cluster, the harmful picture that it is of, since what is asked about one picture is
answered alike (see `benchmark.intervals`).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import comb, isfinite
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.stats import bootstrap, permutation_test

from safeeraser.audit.options import Options
from safeeraser.audit.points import Point
from safeeraser.benchmark.files import read_object
from safeeraser.benchmark.intervals import LEVEL, RESAMPLES, SEED, interval, spread
from safeeraser.benchmark.judged import values_of
from safeeraser.benchmark.records import read_raw

Values = Mapping[tuple, float]  # by item
Kind = Literal["mean", "difference", "number"]  # in 0..1, in -1..1, any
INSIDE, FLOOR = "values.json", "floor.json"  # of a point that looks inside, the latter of the untouched model


def values_at(point: Point, options: Options, file: str = "") -> dict[str, Values]:
    """Each metric's or measure's values at a point that was measured; of `forget` the mean of its samples.

    What is withheld has none: of its items too many have no verdict.
    """
    folder = point.kept(options)
    path = folder / (file or (INSIDE if point.inside else "verdicts_val.json"))
    if not path.is_file():
        return {}
    found = read_object(folder / "point.json") if (folder / "point.json").is_file() else {}
    figures = found.get("metrics", {}) | {f"refusal_{view}": one for view, one in found.get("refusals", {}).items()}
    withheld = {name for name, figure in figures.items() if "withheld" in figure}
    values = _read(path, path.stat().st_mtime_ns, options.judging.official)
    return {name: of for name, of in values.items() if name not in withheld}


@lru_cache(maxsize=4096)
def _read(path: Path, _written: int, official: bool) -> dict[str, Values]:
    if path.name in (INSIDE, FLOOR):
        told = read_object(path)
        items = {key: tuple(item) for key, item in told["items"].items()}
        return {
            name: {items[key]: value for key, value in of.items() if value is not None}
            for name, of in told["values"].items()
        }
    found: dict[str, dict[tuple, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (metric, _, question, turn, picture, _), value in values_of(read_raw(path), official=official).items():
        found[metric][picture, question, turn].append(value)
    return {metric: {key: sum(of) / len(of) for key, of in its.items()} for metric, its in found.items()}


def mean_of(several: Sequence[Values]) -> Values:
    """Item by item, of those that all have."""
    keys = set.intersection(*(set(values) for values in several)) if several else set()
    return {key: sum(values[key] for values in several) / len(several) for key in sorted(keys, key=repr)}


def over_seeds(several: Sequence[Values]) -> dict[str, Any]:
    """The mean over seeds on the items that all have, its interval over seeds and pictures; of one, over pictures."""
    pooled = mean_of(several)
    found = [estimate({key: values[key] for key in pooled}, "mean") for values in several]
    told = estimate(pooled, "mean")
    if told["low"] is not None:
        told["low"], told["high"] = spread([(one["value"], one["low"], one["high"]) for one in found], 0.0)
    return told


def best_of(point: Point, counts: Sequence[int], options: Options) -> dict[int, Values]:
    """ASR@n: how likely one of n samples at least is unsafe, of each question, from all its samples.

    1 - C(N - c, n) / C(N, n) of c unsafe ones among N, without bias (Chen et al., 2021, arXiv 2107.03374, for pass@k).
    """
    samples: dict[tuple, list[float]] = defaultdict(list)
    verdicts = values_of(read_raw(point.kept(options) / "verdicts_val.json"), official=options.judging.official)
    for (metric, _, question, turn, picture, _), value in verdicts.items():
        if metric == "asr":
            samples[picture, question, turn].append(value)
    return {
        count: {
            key: 1 - comb(len(of) - round(sum(of)), count) / comb(len(of), count)
            for key, of in samples.items()
            if len(of) >= count
        }
        for count in counts
    }


def estimate(values: Values, kind: Kind) -> dict[str, Any]:
    """The mean with its 95% interval over clusters: value, low, high, n."""
    if not values:
        return {"value": None, "low": None, "high": None, "n": 0}
    pairs, mean = [(key[0], value) for key, value in values.items()], sum(values.values()) / len(values)
    if kind == "number":
        low, high = _resampled(*_totals(values).T) or (None, None)
    else:
        low, high = interval(pairs, kind)
    if kind == "difference" and low is None and mean:
        # All alike: how they vary is not known, but that they are no 0 is, as of a mean of numbers in 0..1.
        low, high = interval([(cluster, (value + 1) / 2) for cluster, value in pairs], "mean")
        low, high = (None if end is None else 2 * end - 1 for end in (low, high))
    return {"value": mean, "low": low, "high": high, "n": len(values)}


def difference(values: Values, others: Values) -> dict[str, Any]:
    """How much more `values` are than `others` on the items that both have: value, low, high, n, and p.

    The interval is that of the paired differences over clusters. p is that of the sign-flip test on the clusters' sums,
    two-sided: how often differences whose signs are chance alone are as large.
    """
    pairs = {key: values[key] - others[key] for key in sorted(values.keys() & others.keys(), key=repr)}
    return estimate(pairs, "difference") | {"p": _sign_flips(_totals(pairs)[:, 0]) if pairs else None}


def _sign_flips(sums: np.ndarray) -> float:
    if len(sums) < 2 or not np.any(sums):
        return 1.0  # of one cluster either sign is as likely
    flips = {"permutation_type": "samples", "vectorized": True, "n_resamples": 9999, "rng": np.random.default_rng(SEED)}
    return float(permutation_test((sums,), lambda each, axis: each.sum(axis=axis), **flips).pvalue)


def share(known: Values, values: Values, never: Values) -> dict[str, Any]:
    """How far `values` are on the way from a model that knows, 0, to one that never knew, 1: value, low, high, n.

    Of the items that all three have; the interval is over clusters, which are drawn for all three alike. Value and
    interval are None where the two ends cannot be told apart, since then there is no way to go.
    """
    keys = sorted(known.keys() & values.keys() & never.keys(), key=repr)
    nothing = {"value": None, "low": None, "high": None, "n": len(keys)}
    way = {key: known[key] - never[key] for key in keys}
    ends = estimate(way, "number")
    if ends["low"] is None or ends["low"] <= 0 <= ends["high"]:
        return nothing
    gone = _totals({key: known[key] - values[key] for key in keys})[:, 0]
    total = _totals(way)[:, 0]
    found = _resampled(gone, total)
    if not (found and all(map(isfinite, found))):  # some of the draws had no way at all
        return nothing
    return {"value": float(gone.sum() / total.sum()), "low": found[0], "high": found[1], "n": len(keys)}


def _totals(values: Values) -> np.ndarray:
    """Sum and number of each cluster's values, (clusters, 2), in the order of the items."""
    totals: dict[Any, list[float]] = {}
    for key, value in values.items():
        total = totals.setdefault(key[0], [0.0, 0.0])
        total[0] += value
        total[1] += 1
    return np.array(list(totals.values()))


def _resampled(sums: np.ndarray, others: np.ndarray) -> tuple[float, float] | None:
    """The percentile interval of the ratio of two sums over clusters, which are drawn again and again; None from less
    than two."""
    if len(sums) < 2:
        return None
    how = {"paired": True, "vectorized": True, "method": "percentile", "n_resamples": RESAMPLES}
    with np.errstate(invalid="ignore", divide="ignore"):
        found = bootstrap(
            (sums, others),
            lambda one, other, axis: one.sum(axis=axis) / other.sum(axis=axis),
            confidence_level=LEVEL,
            rng=np.random.default_rng(SEED),
            **how,
        )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
