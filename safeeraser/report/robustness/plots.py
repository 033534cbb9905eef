"""The curves of a robustness card: how its figures go with relearning, with the layers and with the adapter's scale."""

from collections.abc import Iterator, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from safeeraser.benchmark.metrics import METRICS, Figure
from safeeraser.report.drawing import INK, LINES, MARKS, SIZE, STYLE, Plot, drawing
from safeeraser.report.robustness.card import Card
from safeeraser.report.robustness.point import AUDITED, CONTROLS, SUBJECTS, Point

# What is measured on the forget view first, and without RR, which follows ASR too closely to be worth a curve.
_KEYS = [key for key, metric in METRICS.items() if metric.view and key != "rr"]
_DRAWN = {key: METRICS[key].title for key in sorted(_KEYS, key=lambda key: METRICS[key].view != "forget")}
_PER_CENT = (-4, 104)
_LEGEND = {"fontsize": 8, "loc": "outside upper right", "ncols": 4, "columnspacing": 1}


@mpl.rc_context(STYLE)
def curves(card: Card) -> list[Plot]:
    """Relearning, depth and scaling, as far as they were measured."""
    return [*_relearning(card), *_depth(card), *_scaling(card)]


def _relearning(card: Card) -> Iterator[Plot]:
    """ASR over the steps, a panel for each attacker: the audited model's with its seeds, the controls' beside it."""
    attackers = card.attackers
    if not attackers:
        return
    wide = min(2, len(attackers))
    high = -(-len(attackers) // wide)
    figure = drawing(SIZE[0], 0.6 + 1.8 * high)
    grid = figure.subplots(high, wide, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in grid[len(attackers) :]:
        axes.remove()
    told, steps = [], set()
    for axes, attacker in zip(grid, attackers, strict=False):
        for index, subject in enumerate(SUBJECTS):
            points = card.of(f"relearn_{attacker}", subject)
            at, figures = [point.position for point in points], [point.figure("asr") for point in points]
            told += _draw(axes, at, figures, index, subject, f"{subject} on {attacker} data, step")
            steps |= set(at)
        _draw_seeds(axes, card.of(f"relearn_{attacker}"))
        half = _half_line(axes, card)
        axes.set_title(attacker, fontsize=9, loc="left")
    # Steps that double lie equally far apart, and 0 before 1.
    grid[0].set_xscale("symlog", base=2, linthresh=1)
    grid[0].set_xticks(sorted(steps), [f"{step:g}" for step in sorted(steps)])
    grid[0].set(xlim=(min(steps) - 0.4, 1.25 * max(1, *steps)), ylim=_PER_CENT)
    for axes in grid[: len(attackers)]:
        # The lowest of each column has the steps under it, also where the last row is not full.
        axes.tick_params(labelsize=8, labelbottom=axes in grid[len(attackers) - wide : len(attackers)])
        axes.set_xticks([], minor=True)
    figure.supxlabel("optimizer step", fontsize=9)
    figure.supylabel("ASR, %", fontsize=9)
    named = [axes.get_legend_handles_labels() for axes in grid[: len(attackers)]]
    legend = {label: handle for handles, labels in named for handle, label in zip(handles, labels, strict=True)}
    figure.legend(legend.values(), legend.keys(), **_LEGEND)
    description = f"ASR of {card.title} relearned, per cent with 95% intervals. {half}{'; '.join(told)}."
    seeds = "; thin: each seed" if any(point.seeds for point in card.points) else ""
    caption = f"ASR of {card.title} relearned on {', '.join(attackers)} data, with 95% intervals{seeds}."
    yield Plot(f"relearning_{card.name}", caption, description, figure)


def _depth(card: Card) -> Iterator[Plot]:
    """What each layer's states are worth to the model that knows."""
    measured = {subject: _layers(card.point("inside", None, subject)) for subject in SUBJECTS}
    measured["vanilla"] = {}  # its own states make it lose nothing
    if not measured[AUDITED]:
        return
    figure = drawing(SIZE[0], 2.8)
    axes = figure.add_subplot(xlabel="layer", ylabel="fall, nats a token")
    axes.locator_params(axis="x", integer=True)
    told = []
    for index, (subject, found) in enumerate(measured.items()):
        told += _draw(axes, list(found), list(found.values()), index, subject, f"{subject} at layer")
    figure.legend(**_LEGEND)
    what = "how far the true answers' log-probability falls where the untouched model takes over a layer's states"
    description = f"Depth of {card.title}: {what}, in nats a token. {'; '.join(told)}."
    yield Plot(f"depth_{card.name}", f"Depth of {card.title}: {what}.", description, figure)


def _scaling(card: Card) -> Iterator[Plot]:
    """The metrics by the scale of the adapter: at 0 it is off, at 1 as it was trained."""
    points = card.of("scaling")
    if not points:
        return
    figure = drawing(SIZE[0], 3.4)
    axes = figure.add_subplot(ylim=_PER_CENT, ylabel="per cent")
    axes.set_xlabel("scale of the adapter (0: untouched, 1: as trained)")
    at, told = [point.position for point in points], []
    for index, (metric, title) in enumerate(_DRAWN.items()):
        told += _draw(axes, at, [point.figure(metric) for point in points], index, title, f"{title} at scale")
    half = _half_line(axes, card)
    axes.set_xticks(at, [f"{scale:g}" for scale in at])
    figure.legend(**_LEGEND | {"ncols": 3})
    description = f"Adapter of {card.title} scaled, per cent with 95% intervals. {half}{'; '.join(told)}."
    yield Plot(f"scaling_{card.name}", f"Adapter of {card.title} scaled, with 95% intervals.", description, figure)


def _draw(axes: Axes, at: Sequence[float], figures: list[Figure], index: int, label: str, where: str) -> list[str]:
    """A curve, with its interval as a band unless it is a control's; gives its figures in words.

    Nothing where nothing was measured.
    """
    if not any(figure.value is not None for figure in figures):
        return []
    # A figure that is missing leaves a gap: None becomes not a number.
    values, low, high = np.array([figure.per_cent for figure in figures], dtype=float).T
    control = label in CONTROLS
    if not control:
        axes.fill_between(at, low, high, color=INK, alpha=0.12, linewidth=0)
    line, mark = LINES[index % len(LINES)], MARKS[index % len(MARKS)]
    width, size = (0.9, 3) if control else (1.5, 4)
    axes.plot(at, values, color=INK, label=label, linewidth=width, linestyle=line, marker=mark, ms=size)
    told = ", ".join(f"{place:g}: {figure.text}" for place, figure in zip(at, figures, strict=True))
    return [f"{where} {told}"]


def _draw_seeds(axes: Axes, points: list[Point]) -> None:
    """Each seed's ASR as a thin line."""
    for seed in dict.fromkeys(seed for point in points for seed in point.seeds):
        # Before the first step all seeds are the one model.
        values = [point.figure(f"asr_seed_{seed}" if point.seeds else "asr").per_cent[0] for point in points]
        at = [point.position for point in points]
        axes.plot(at, np.array(values, dtype=float), color=INK, linewidth=0.5, alpha=0.6)


def _layers(point: Point) -> dict[int, Figure]:
    """The depth of each layer, from the first."""
    found = {int(key.removeprefix("depth_")): figure for key, figure in point.figures.items() if _is_layer(key)}
    return dict(sorted(found.items()))


def _is_layer(key: str) -> bool:
    return key.startswith("depth_") and key.removeprefix("depth_").isdecimal()


def _half_line(axes: Axes, card: Card) -> str:
    """Where half of the untouched model's ASR lies."""
    if card.half is None:
        return ""
    axes.axhline(100 * card.half, color=INK, linewidth=0.8, linestyle=(0, (1, 4)), label="half of untouched ASR")
    return f"Half of the untouched model's ASR is {100 * card.half:.1f}. "
