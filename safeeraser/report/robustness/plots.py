"""The curves of a robustness card: how ASR, SARR and ROUGE go with relearning, and with the scale of the adapter."""

import math

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from safeeraser.report.drawing import COLOURS, SIZE, STYLE, Plot
from safeeraser.report.robustness.card import RELEARNED, Card, Point

_TITLES = {"asr": "ASR", "sarr": "SARR", "rouge_l": "ROUGE", "recovered": "recovered"}
_PER_CENT = (-4, 104)


def curves(card: Card) -> list[Plot]:
    """Relearning and scaling, as far as they were measured."""
    with mpl.rc_context(STYLE):
        return [plot for plot in (_relearning(card), _scaling(card)) if plot]


def _relearning(card: Card) -> Plot | None:
    """A metric above the other, a curve for each kind of data relearned."""
    measured = {kind: card.of(f"relearn_{kind}") for kind in RELEARNED}
    kinds = {kind: points for kind, points in measured.items() if points}
    if not kinds:
        return None
    points = [point for points in kinds.values() for point in points]
    metrics = [name for name in ("asr", "recovered", "sarr") if any(name in point.metrics for point in points)]
    if not metrics:
        return None
    figure = Figure(figsize=(SIZE[0], 2.2 * len(metrics)), layout="constrained")
    all_axes = figure.subplots(len(metrics), 1, sharex=True, squeeze=False)[:, 0]
    above, below = all_axes[0], all_axes[-1]
    told = []
    for axes, metric in zip(all_axes, metrics, strict=True):
        for kind, points in kinds.items():
            told += _draw(axes, points, metric, RELEARNED.index(kind), kind, f"{_TITLES[metric]} on {kind} data, step")
        axes.set(ylim=_PER_CENT, ylabel=f"{_TITLES[metric]}, %")
        axes.grid(alpha=0.25)
    _steps_axis(below, sorted({point.at for point in points}))
    half = _half_line(above, card) if metrics[0] == "asr" else ""
    handles, labels = above.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside upper right", ncols=4, columnspacing=1)
    description = f"Relearning of {card.title}, per cent with 95% intervals. {half}{'; '.join(told)}."
    caption = f"Relearning of {card.title} on {', '.join(kinds)} data, with 95% intervals."
    return Plot(f"relearning_{card.name}", caption, description, figure)


def _scaling(card: Card) -> Plot | None:
    """ASR, SARR and ROUGE by the scale of the adapter: at 0 it is off, at 1 as it was trained."""
    points = card.of("scaling")
    if not points:
        return None
    figure = Figure(figsize=(SIZE[0], 3.2), layout="constrained")
    axes = figure.add_subplot()
    told = []
    for index, (metric, title) in enumerate(_TITLES.items()):
        told += _draw(axes, points, metric, index, title, f"{title} at scale")
    half = _half_line(axes, card)
    axes.set(ylim=_PER_CENT, xlabel="scale of the adapter (0: untouched, 1: as trained)", ylabel="per cent")
    axes.set_xticks([point.at for point in points])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.25)
    figure.legend(frameon=False, fontsize=8, loc="outside upper right", ncols=5, columnspacing=1)
    description = f"Adapter of {card.title} scaled, per cent with 95% intervals. {half}{'; '.join(told)}."
    return Plot(f"scaling_{card.name}", f"Adapter of {card.title} scaled, with 95% intervals.", description, figure)


def _draw(axes: Axes, points: list[Point], metric: str, index: int, label: str, where: str) -> list[str]:
    """A curve with its interval as a band; gives its figures in words. Nothing where the metric was not measured."""
    cells = [point.cell(metric) for point in points]
    if not any(cell.value is not None for cell in cells):
        return []
    at = [point.at for point in points]
    # A figure that is missing leaves a gap.
    values, low, high = (
        [math.nan if part is None else part for part in parts]
        for parts in zip(*((cell.value, cell.low, cell.high) for cell in cells), strict=True)
    )
    colour, line, marker = COLOURS[index], ("-", "--", "-.", (0, (3, 1)))[index], "os^D"[index]
    axes.fill_between(at, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(at, values, color=colour, linestyle=line, marker=marker, ms=4, linewidth=1.5, label=label)
    told = ", ".join(f"{place:g}: {cell.text}" for place, cell in zip(at, cells, strict=True))
    return [f"{where} {told}"]


def _half_line(axes: Axes, card: Card) -> str:
    """Where half of the untouched model's ASR lies."""
    if card.half is None:
        return ""
    axes.axhline(card.half, color=COLOURS[-1], linewidth=1, linestyle=":", label="half of untouched ASR")
    return f"Half of the untouched model's ASR is {card.half:.1f}. "


def _steps_axis(axes: Axes, steps: list[float]) -> None:
    """Steps that double lie equally far apart, and 0 before 1."""
    axes.set_xscale("symlog", base=2, linthresh=1)
    axes.xaxis.set_major_locator(FixedLocator(steps))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlim=(min(steps) - 0.4, 1.25 * max(1, *steps)), xlabel="optimizer step")
