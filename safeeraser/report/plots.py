"""The report's plots: forests of figures, curves of training, curves of robustness."""

import math
from collections.abc import Iterator, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from safeeraser.benchmark.figures import AUDITED, Row, pick
from safeeraser.benchmark.metrics import COLUMNS, METRICS
from safeeraser.report.drawing import INK, STYLE, WIDTH, Plot, forest
from safeeraser.report.read import Run
from safeeraser.report.robustness import Card
from safeeraser.report.tables import Ranking, measures
from safeeraser.report.writing import Line

# Colour says how good something is; curves are told apart by these.
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
_MARKERS = "os^Dvx"
_LEGEND = {"fontsize": 8, "loc": "outside upper right", "ncols": 4, "columnspacing": 1}
_PER_CENT = (-4, 104)
_PROBED = ("forget", "decoupled", "retain")
# What is measured on the forget view first, and without RR, which follows ASR too closely to be worth a curve.
_KEYS = [key for key, metric in METRICS.items() if metric.view and key != "rr"]
_SCALED = {key: METRICS[key].title for key in sorted(_KEYS, key=lambda key: METRICS[key].view != "forget")}


def _drawing(height: float) -> Drawing:
    """An empty drawing of this height in inches, whose parts find room beside each other by themselves."""
    return Drawing(figsize=(WIDTH, height), layout="constrained")


# Forests


def methods_forest(ranking: Ranking) -> Plot | None:
    """The methods by what is measured of forgetting, of over-forgetting and of use, then what was published."""
    metrics = {key: METRICS[COLUMNS[key].metric] for key in measures(ranking.utility)}
    columns = {key: (f"{metric.title} {metric.arrow}", metric.better) for key, metric in metrics.items()}
    contents = "Forest plot, per cent with 95% intervals"
    return forest("forest", ranking.rule, contents, columns, ranking.rows, ranking.published)


def audit_forest(name: str, title: str, lines: list[Line]) -> Plot | None:
    """ASR in each condition, a line each: the run's, and `untouched` where the untouched model's was measured."""
    caption = "ASR, per cent, with 95% intervals; hollow: the untouched model's."
    columns = {"audited": ("", "lower"), "untouched": ("untouched", "")}
    return forest(f"robustness_{name}", caption, f"ASR of {title}, per cent", columns, lines, abreast=True)


# Training


@mpl.rc_context(STYLE)
def training_curves(runs: list[Run]) -> list[Plot]:
    """How each run went that has a log or probes."""
    plots = []
    for run in runs:
        plots += [_plot_losses(run)] if run.log else []
        plots += [_plot_probes(run)] if run.probes else []
    return plots


def _plot_losses(run: Run) -> Plot:
    """The total loss and its terms over the steps, as the log holds them."""
    figure = _drawing(2.8)
    axes = figure.add_subplot(xlabel="optimizer step", ylabel="loss, nats a token")
    steps = [row.step for row in run.log]
    axes.plot(steps, [row.loss for row in run.log], color=INK, linewidth=1.8, label="loss")
    terms = list(dict.fromkeys(name for row in run.log for name in row.terms))
    for index, name in enumerate(terms):
        values = [row.terms.get(name, math.nan) for row in run.log]
        axes.plot(steps, values, color=INK, ls=_LINES[1 + index % (len(_LINES) - 1)], linewidth=1.2, label=name)
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
    figure = _drawing(2.8)
    axes = figure.add_subplot(ylim=_PER_CENT, xlabel="optimizer step", ylabel="answers, %")
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
    """How a card's figures go with relearning, with the layers and with the adapter's scale, as far as measured."""
    return [*_plot_relearning(card), *_plot_depth(card), *_plot_scaling(card)]


def _plot_relearning(card: Card) -> Iterator[Plot]:
    """ASR over the steps, a panel for each attacker: the audited model's with its seeds, the controls' beside it."""
    attackers = list(card.audit.attackers)
    if not attackers:
        return
    wide = min(2, len(attackers))
    high = -(-len(attackers) // wide)
    figure = _drawing(0.6 + 1.8 * high)
    grid = figure.subplots(high, wide, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in grid[len(attackers) :]:
        axes.remove()
    described, steps = list[str](), set[float]()
    for axes, attacker in zip(grid, attackers, strict=False):
        for index, subject in enumerate(card.subjects):
            rows = [row for row in card.of("relearned", subject=subject) if row.name == attacker]
            described += _draw(axes, rows, index, subject, f"{subject} on {attacker} data, step")
            steps |= {row.position for row in rows}
        _draw_seeds(axes, card, attacker)
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
    description = f"ASR of {card.title} relearned, per cent with 95% intervals. {half}{'; '.join(described)}."
    seeds = "; thin: each seed" if any(row.seed for row in card.rows) else ""
    caption = f"ASR of {card.title} relearned on {', '.join(attackers)} data, with 95% intervals{seeds}."
    yield Plot(f"relearning_{card.name}", caption, description, figure)


def _plot_depth(card: Card) -> Iterator[Plot]:
    """What each layer's states are worth to the model that knows; its own make it lose nothing, so it is left out."""
    measured = {subject: card.of("inside", "depth", subject) for subject in card.subjects if subject != "vanilla"}
    layers = {subject: [row for row in rows if row.at is not None] for subject, rows in measured.items()}
    if not layers[AUDITED]:
        return
    figure = _drawing(2.8)
    axes = figure.add_subplot(xlabel="layer", ylabel="fall, nats a token")
    axes.locator_params(axis="x", integer=True)
    described = []
    for subject, rows in layers.items():
        described += _draw(axes, rows, card.subjects.index(subject), subject, f"{subject} at layer")
    figure.legend(**_LEGEND)
    what = "how far the true answers' log-probability falls where the untouched model takes over a layer's states"
    description = f"Depth of {card.title}: {what}, in nats a token. {'; '.join(described)}."
    yield Plot(f"depth_{card.name}", f"Depth of {card.title}: {what}.", description, figure)


def _plot_scaling(card: Card) -> Iterator[Plot]:
    """The metrics by the scale of the adapter: at 0 it is off, at 1 as it was trained."""
    curves = {metric: card.of("scaled", metric) for metric in _SCALED}
    at = sorted({row.at for rows in curves.values() for row in rows if row.at is not None})
    if not at:
        return
    figure = _drawing(3.4)
    axes = figure.add_subplot(ylim=_PER_CENT, ylabel="per cent")
    axes.set_xlabel("scale of the adapter (0: untouched, 1: as trained)")
    described = []
    for index, (metric, title) in enumerate(_SCALED.items()):
        described += _draw(axes, curves[metric], index, title, f"{title} at scale")
    half = _half_line(axes, card)
    axes.set_xticks(at, [f"{scale:g}" for scale in at])
    figure.legend(**_LEGEND | {"ncols": 3})
    description = f"Adapter of {card.title} scaled, per cent with 95% intervals. {half}{'; '.join(described)}."
    yield Plot(f"scaling_{card.name}", f"Adapter of {card.title} scaled, with 95% intervals.", description, figure)


def _draw(axes: Axes, rows: Sequence[Row], index: int, label: str, where: str) -> list[str]:
    """A curve, with its interval as a band unless it is a control's; gives its figures in words.

    Nothing where nothing was measured.
    """
    if not any(row.value is not None for row in rows):
        return []
    # A figure that is missing leaves a gap: None becomes not a number.
    at = [row.position for row in rows]
    values, low, high = np.array([row.per_cent for row in rows], dtype=float).T
    control = rows[0].subject != AUDITED
    if not control:
        axes.fill_between(at, low, high, color=INK, alpha=0.12, linewidth=0)
    line, mark = _LINES[index % len(_LINES)], _MARKERS[index % len(_MARKERS)]
    width, size = (0.9, 3) if control else (1.5, 4)
    axes.plot(at, values, color=INK, label=label, linewidth=width, linestyle=line, marker=mark, ms=size)
    return [f"{where} {', '.join(f'{row.at:g}: {row.text}' for row in rows)}"]


def _draw_seeds(axes: Axes, card: Card, attacker: str) -> None:
    """Each seed's ASR as a thin line; before the first step all seeds are the one model."""
    where = {"subject": AUDITED, "condition": "relearned", "name": attacker, "metric": "asr"}
    every = [row for row in card.rows if row.seed and all(getattr(row, key) == value for key, value in where.items())]
    begun = {row.at: row for row in pick(card.rows, **where) if row.at not in {one.at for one in every}}
    for seed in dict.fromkeys(row.seed for row in every):
        points = sorted([*begun.values(), *(row for row in every if row.seed == seed)], key=lambda row: row.position)
        values = np.array([row.per_cent[0] for row in points], dtype=float)
        axes.plot([row.position for row in points], values, color=INK, linewidth=0.5, alpha=0.6)


def _half_line(axes: Axes, card: Card) -> str:
    """Where half of the untouched model's ASR lies."""
    half = card.conclusions.half
    if half is None:
        return ""
    axes.axhline(100 * half, color=INK, linewidth=0.8, linestyle=(0, (1, 4)), label="half of untouched ASR")
    return f"Half of the untouched model's ASR is {100 * half:.1f}. "
