"""The report's plots: forest plots of figures, training curves and robustness curves."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from safeeraser.benchmark.figures import AUDITED, Row
from safeeraser.benchmark.metrics import COLUMNS, METRICS
from safeeraser.report.drawing import INK, STYLE, WIDTH, Plot, forest
from safeeraser.report.read import Run
from safeeraser.report.robustness import Card
from safeeraser.report.tables import Ranking
from safeeraser.report.writing import Line

# Line styles and markers distinguish curves; colour is kept for how good a figure is.
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
_MARKERS = "os^Dvx"
_LEGEND = {"fontsize": 8, "loc": "outside upper right", "ncols": 4, "columnspacing": 1}
_PER_CENT = (-4, 104)
_PROBED = ("forget", "decoupled", "retain")
# Metrics of the forget view come first. RR is left out: it follows ASR too closely to be worth a curve.
_KEYS = [key for key, metric in METRICS.items() if metric.view and key != "rr"]
_SCALED = {key: METRICS[key].title for key in sorted(_KEYS, key=lambda key: METRICS[key].view != "forget")}


def _drawing(height: float, **axes: Any) -> tuple[Drawing, Axes]:
    """An empty figure of `height` inches and its axes; matplotlib arranges the parts so that they do not overlap."""
    figure = Drawing(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot(**axes)


# Forests


def methods_forest(ranking: Ranking) -> Plot | None:
    """The forest plot of the methods, by forgetting, over-forgetting and utility; the published ones come last."""
    metrics = {key: METRICS[COLUMNS[key].metric] for key in ranking.measures}
    columns = {key: (f"{metric.title} {metric.arrow}", metric.better) for key, metric in metrics.items()}
    contents = "Forest plot, per cent with 95% intervals"
    return forest("forest", ranking.rule, contents, columns, [*ranking.rows, *ranking.published])


def audit_forest(card: Card) -> Plot | None:
    """ASR of the run in each condition, one line each; as trained and under attack also the untouched model's ASR."""
    lines = []
    for condition in card.conclusions.conditions:
        cells = {"audited": condition.figure(card.rows)}
        if condition.condition in ("clean", "attack"):
            cells["untouched"] = condition.figure(card.rows, "vanilla")
        lines.append(Line(condition.title, cells))
    caption = "ASR, per cent, with 95% intervals; hollow: the untouched model's."
    columns = {"audited": ("", "lower"), "untouched": ("untouched", "")}
    return forest(f"robustness_{card.name}", caption, f"ASR of {card.title}, per cent", columns, lines, abreast=True)


# Training


@mpl.rc_context(STYLE)
def training_curves(runs: list[Run]) -> list[Plot]:
    """The training curves of each run that has a log or probes."""
    plots = []
    for run in runs:
        plots += [_plot_losses(run)] if run.log else []
        plots += [_plot_probes(run)] if run.probes else []
    return plots


def _plot_losses(run: Run) -> Plot:
    """The total loss and its terms over the steps, as the log holds them."""
    figure, axes = _drawing(2.8, xlabel="optimizer step", ylabel="loss, nats a token")
    steps = [row.step for row in run.log]
    axes.plot(steps, [row.loss for row in run.log], color=INK, linewidth=1.8, label="loss")
    terms = list(dict.fromkeys(name for row in run.log for name in row.terms))
    for name, line in zip(terms, cycle(_LINES[1:]), strict=False):
        values = [row.terms.get(name, math.nan) for row in run.log]
        axes.plot(steps, values, color=INK, ls=line, linewidth=1.2, label=name)
    figure.legend(fontsize=9, loc="outside upper right", ncols=4)
    first, last = run.log[0], run.log[-1]
    description = (
        f"Training of {run.title}: the loss goes from {first.loss:.3g} at step {first.step} to {last.loss:.3g} at step "
        f"{last.step}" + (f"; shown with its terms {', '.join(terms)}." if terms else ".")
    )
    for name in (name for name in first.weights if name in last.weights):
        description += f" The weight of {name} goes from {first.weights[name]:.3g} to {last.weights[name]:.3g}."
    return Plot(f"training_{run.name}", f"Training of {run.title}: loss and terms.", description, figure)


def _plot_probes(run: Run) -> Plot:
    """The shares of refusals and of degenerate answers over the steps: the forgetting curve."""
    figure, axes = _drawing(2.8, ylim=_PER_CENT, xlabel="optimizer step", ylabel="answers, %")
    described = []
    for view, marker in zip(_PROBED, _MARKERS, strict=False):
        rows = [(row.step, getattr(row, view)) for row in run.probes if getattr(row, view)]
        for share, line in (("refusal", "-"), ("degenerate", "--")) if rows else ():
            values = [100 * getattr(measured, share) for _, measured in rows]
            steps, label = [step for step, _ in rows], f"{view}, {share}"
            axes.plot(steps, values, label=label, ls=line, marker=marker, ms=4, color=INK, linewidth=1.2)
            described.append(f"{share} on {view} from {values[0]:.0f} to {values[-1]:.0f}")
    if described:
        figure.legend(**_LEGEND | {"ncols": 3, "handlelength": 2.4})
    description = f"Probes of {run.title}, shares in per cent, first to last: {'; '.join(described)}."
    caption = f"Probes of {run.title}: shares of refusals (solid) and of degenerate answers (dashed) by view."
    return Plot(f"probes_{run.name}", caption, description, figure)


# Robustness


@mpl.rc_context(STYLE)
def robustness_curves(card: Card) -> list[Plot]:
    """A card's curves over relearning steps, over layers and over scales of the adapter, where they were measured."""
    return [*_plot_relearning(card), *_plot_depth(card), *_plot_scaling(card)]


def _plot_relearning(card: Card) -> Iterator[Plot]:
    """ASR over relearning steps, one panel per attacker: curves of the audited model, its seeds and the controls."""
    attackers = list(card.audit.attackers)
    if not attackers:
        return
    wide = min(2, len(attackers))
    grid = [[*attackers[first : first + wide], ""][:wide] for first in range(0, len(attackers), wide)]
    figure = Drawing(figsize=(WIDTH, 0.6 + 1.8 * len(grid)), layout="constrained")
    panels = figure.subplot_mosaic(grid, sharex=True, sharey=True, empty_sentinel="")
    described, steps = list[str](), set[float]()
    for attacker, axes in panels.items():
        curves = {subject: card.of("relearned", subject=subject, name=attacker) for subject in card.subjects}
        described += _draw(axes, curves, f"on {attacker} data, step")
        steps |= {row.position for rows in curves.values() for row in rows}
        _draw_seeds(axes, card, attacker)
        half = _half_line(axes, card)
        axes.set_title(attacker, fontsize=9, loc="left")
    # Each doubling of the steps takes equal room, and step 0 comes before step 1.
    axes.set_xscale("symlog", base=2, linthresh=1)
    axes.set_xticks(sorted(steps), [f"{step:g}" for step in sorted(steps)])
    axes.set(xlim=(min(steps) - 0.4, 1.25 * max(1, *steps)), ylim=_PER_CENT)
    for attacker, axes in panels.items():
        # The lowest panel of each column has step labels, also where the last row is not full.
        axes.tick_params(labelsize=8, labelbottom=attacker in attackers[-wide:])
        axes.set_xticks([], minor=True)
    figure.supxlabel("optimizer step", fontsize=9)
    figure.supylabel("ASR, %", fontsize=9)
    named = [zip(*axes.get_legend_handles_labels(), strict=True) for axes in panels.values()]
    legend = {label: handle for panel in named for handle, label in panel}
    figure.legend(legend.values(), legend.keys(), **_LEGEND)
    description = f"ASR of {card.title} relearned, per cent with 95% intervals. {half}{'; '.join(described)}."
    seeds = "; thin: each seed" if any(row.seed for row in card.rows) else ""
    caption = f"ASR of {card.title} relearned on {', '.join(attackers)} data, with 95% intervals{seeds}."
    yield Plot(f"relearning_{card.name}", caption, description, figure)


def _plot_depth(card: Card) -> Iterator[Plot]:
    """The fall in log-probability as vanilla takes over a model's states, by layer. Vanilla's own states cause none."""
    measured = {subject: card.of("inside", "depth", subject) for subject in card.subjects}
    layers = {
        name: [row for row in rows if row.at is not None and name != "vanilla"] for name, rows in measured.items()
    }
    if not layers[AUDITED]:
        return
    figure, axes = _drawing(2.8, xlabel="layer", ylabel="fall, nats a token")
    axes.locator_params(axis="x", integer=True)
    described = _draw(axes, layers, "at layer")
    figure.legend(**_LEGEND)
    what = "how far the true answers' log-probability falls where the untouched model takes over a layer's states"
    description = f"Depth of {card.title}: {what}, in nats a token. {'; '.join(described)}."
    yield Plot(f"depth_{card.name}", f"Depth of {card.title}: {what}.", description, figure)


def _plot_scaling(card: Card) -> Iterator[Plot]:
    """The metrics over the scale of the adapter: 0 switches it off, and 1 is as trained."""
    curves = {title: card.of("scaled", metric) for metric, title in _SCALED.items()}
    at = sorted({row.at for rows in curves.values() for row in rows if row.at is not None})
    if not at:
        return
    figure, axes = _drawing(3.4, ylim=_PER_CENT, ylabel="per cent")
    axes.set_xlabel("scale of the adapter (0: untouched, 1: as trained)")
    described = _draw(axes, curves, "at scale")
    half = _half_line(axes, card)
    axes.set_xticks(at, [f"{scale:g}" for scale in at])
    figure.legend(**_LEGEND | {"ncols": 3})
    description = f"Adapter of {card.title} scaled, per cent with 95% intervals. {half}{'; '.join(described)}."
    yield Plot(f"scaling_{card.name}", f"Adapter of {card.title} scaled, with 95% intervals.", description, figure)


def _draw(axes: Axes, curves: Mapping[str, Sequence[Row]], where: str) -> list[str]:
    """Draw labelled curves, and bands for intervals except for controls; return the figures in words.

    Curves that were not measured are left out.
    """
    described = []
    for (label, rows), line, mark in zip(curves.items(), cycle(_LINES), cycle(_MARKERS), strict=False):
        if all(row.value is None for row in rows):
            continue
        # A missing figure leaves a gap, because None becomes NaN.
        at = [row.position for row in rows]
        values, low, high = np.array([row.per_cent for row in rows], dtype=float).T
        control = rows[0].subject != AUDITED
        if not control:
            axes.fill_between(at, low, high, color=INK, alpha=0.12, linewidth=0)
        width, size = (0.9, 3) if control else (1.5, 4)
        axes.plot(at, values, color=INK, label=label, linewidth=width, linestyle=line, marker=mark, ms=size)
        described.append(f"{label} {where} {', '.join(f'{row.at:g}: {row.text}' for row in rows)}")
    return described


def _draw_seeds(axes: Axes, card: Card, attacker: str) -> None:
    """Draw each seed's ASR as a thin line. Before the first step all seeds are the same model, so they share points."""
    names = dict.fromkeys(row.seed for row in card.rows if row.seed)
    seeds = [card.of("relearned", name=attacker, seed=seed) for seed in names]
    measured = {row.at for rows in seeds for row in rows}
    begun = [row for row in card.of("relearned", name=attacker) if row.at not in measured]
    for rows in filter(None, seeds):
        points = sorted(begun + rows, key=lambda row: row.position)
        values = np.array([row.per_cent[0] for row in points], dtype=float)
        axes.plot([row.position for row in points], values, color=INK, linewidth=0.5, alpha=0.6)


def _half_line(axes: Axes, card: Card) -> str:
    """Draw a line at half of the untouched model's ASR; return a sentence on it, empty if it is unknown."""
    half = card.conclusions.half
    if half is None:
        return ""
    axes.axhline(100 * half, color=INK, linewidth=0.8, linestyle=(0, (1, 4)), label="half of untouched ASR")
    return f"Half of the untouched model's ASR is {100 * half:.1f}. "
