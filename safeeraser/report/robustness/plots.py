"""The curves of a robustness card: how its figures go with relearning, and with the scale of the adapter."""

from collections.abc import Iterator

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from safeeraser.benchmark.metrics import METRICS
from safeeraser.report.drawing import INK, LINES, MARKS, SIZE, STYLE, Plot, drawing
from safeeraser.report.robustness.card import RELEARNED, Card, Point

# What is measured on the forget view first, and without RR, which follows ASR too closely to be worth a curve.
_KEYS = [key for key, metric in METRICS.items() if metric.view and key != "rr"]
_DRAWN = {key: METRICS[key].title for key in sorted(_KEYS, key=lambda key: METRICS[key].view != "forget")}
_PER_CENT = (-4, 104)


@mpl.rc_context(STYLE)
def curves(card: Card) -> list[Plot]:
    """Relearning and scaling, as far as they were measured."""
    return [*_relearning(card), *_scaling(card)]


def _relearning(card: Card) -> Iterator[Plot]:
    """A metric above the other, a curve for each kind of data relearned."""
    kinds = {kind: points for kind in RELEARNED if (points := card.of(f"relearn_{kind}"))}
    points = [point for group in kinds.values() for point in group]
    metrics = [key for key in _DRAWN if any(key in point.metrics for point in points)]
    if not metrics:
        return
    figure = drawing(SIZE[0], 2.2 * len(metrics))
    all_axes = figure.subplots(len(metrics), 1, sharex=True, squeeze=False)[:, 0]
    told = []
    for axes, metric in zip(all_axes, metrics, strict=True):
        for kind, group in kinds.items():
            title = f"{_DRAWN[metric]} on {kind} data, step"
            told += _draw(axes, group, metric, RELEARNED.index(kind), kind, title)
        axes.set(ylim=_PER_CENT, ylabel=f"{_DRAWN[metric]}, %")
    steps = sorted({point.at for point in points})
    # Steps that double lie equally far apart, and 0 before 1.
    axes.set_xscale("symlog", base=2, linthresh=1)
    axes.set_xticks(steps, [f"{step:g}" for step in steps])
    axes.set_xticks([], minor=True)
    axes.set(xlim=(min(steps) - 0.4, 1.25 * max(1, *steps)), xlabel="optimizer step")
    half = _half_line(all_axes[0], card) if metrics[0] == "asr" else ""
    named = all_axes[0].get_legend_handles_labels()
    figure.legend(*named, fontsize=8, loc="outside upper right", ncols=4, columnspacing=1)
    description = f"Relearning of {card.title}, per cent with 95% intervals. {half}{'; '.join(told)}."
    caption = f"Relearning of {card.title} on {', '.join(kinds)} data, with 95% intervals."
    yield Plot(f"relearning_{card.name}", caption, description, figure)


def _scaling(card: Card) -> Iterator[Plot]:
    """The metrics by the scale of the adapter: at 0 it is off, at 1 as it was trained."""
    points = card.of("scaling")
    if not points:
        return
    figure = drawing(SIZE[0], 3.4)
    axes = figure.add_subplot(ylim=_PER_CENT, ylabel="per cent")
    axes.set_xlabel("scale of the adapter (0: untouched, 1: as trained)")
    told = []
    for index, (metric, title) in enumerate(_DRAWN.items()):
        told += _draw(axes, points, metric, index, title, f"{title} at scale")
    half = _half_line(axes, card)
    axes.set_xticks([point.at for point in points], [f"{point.at:g}" for point in points])
    figure.legend(fontsize=8, loc="outside upper right", ncols=3, columnspacing=1)
    description = f"Adapter of {card.title} scaled, per cent with 95% intervals. {half}{'; '.join(told)}."
    yield Plot(f"scaling_{card.name}", f"Adapter of {card.title} scaled, with 95% intervals.", description, figure)


def _draw(axes: Axes, points: list[Point], metric: str, index: int, label: str, where: str) -> list[str]:
    """A curve with its interval as a band; gives its figures in words. Nothing where the metric was not measured."""
    figures = [point.figure(metric) for point in points]
    if not any(figure.value is not None for figure in figures):
        return []
    at = [point.at for point in points]
    # A figure that is missing leaves a gap: None becomes not a number.
    values, low, high = np.array([figure.per_cent for figure in figures], dtype=float).T
    axes.fill_between(at, low, high, color=INK, alpha=0.12, linewidth=0)
    style = {"linestyle": LINES[index % len(LINES)], "marker": MARKS[index % len(MARKS)], "ms": 4, "linewidth": 1.5}
    axes.plot(at, values, color=INK, label=label, **style)
    told = ", ".join(f"{place:g}: {figure.text}" for place, figure in zip(at, figures, strict=True))
    return [f"{where} {told}"]


def _half_line(axes: Axes, card: Card) -> str:
    """Where half of the untouched model's ASR lies."""
    if card.half is None:
        return ""
    axes.axhline(100 * card.half, color=INK, linewidth=0.8, linestyle=(0, (1, 4)), label="half of untouched ASR")
    return f"Half of the untouched model's ASR is {100 * card.half:.1f}. "
