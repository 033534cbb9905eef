"""How runs went over their steps: the loss, and what probes found."""

import math

import matplotlib as mpl

from safeeraser.report.drawing import INK, LINES, MARKS, SIZE, STYLE, Plot, drawing
from safeeraser.report.read import Run

_LOW = (SIZE[0], 2.8)  # inches, of a curve
_VIEWS = ("forget", "decoupled", "retain")  # as probes name them


@mpl.rc_context(STYLE)
def curves(runs: list[Run]) -> list[Plot]:
    """How each run went that has a log of it."""
    drawn = []
    for run in runs:
        drawn += [_training(run)] if run.log else []
        drawn += [_probes(run)] if run.probes else []
    return drawn


def _training(run: Run) -> Plot:
    """The total loss and its terms over the steps, as the log holds them."""
    figure = drawing(*_LOW)
    axes = figure.add_subplot(xlabel="optimizer step", ylabel="loss, nats a token")
    steps = [row.step for row in run.log]
    axes.plot(steps, [row.loss for row in run.log], color=INK, linewidth=1.8, label="loss")
    terms = list(dict.fromkeys(name for row in run.log for name in row.terms))
    for index, name in enumerate(terms):
        values = [row.terms.get(name, math.nan) for row in run.log]
        axes.plot(steps, values, color=INK, ls=LINES[1 + index % (len(LINES) - 1)], linewidth=1.2, label=name)
    figure.legend(fontsize=9, loc="outside upper right", ncols=4)
    first, last = run.log[0], run.log[-1]
    description = (
        f"Training of {run.title}: the loss goes from {first.loss:.3g} at step {first.step} to {last.loss:.3g} at step "
        f"{last.step}" + (f"; shown with its terms {', '.join(terms)}." if terms else ".")
    )
    for name in (name for name in first.weights if name in last.weights):
        description += f" The weight of {name} goes from {first.weights[name]:.3g} to {last.weights[name]:.3g}."
    return Plot(f"training_{run.name}", f"Training of {run.title}: loss and terms.", description, figure)


def _probes(run: Run) -> Plot:
    """The shares of refusals and of degenerate answers over the steps: the forgetting curve."""
    figure = drawing(*_LOW)
    axes = figure.add_subplot(ylim=(-4, 104), xlabel="optimizer step", ylabel="answers, %")
    told = []
    for view, mark in zip(_VIEWS, MARKS, strict=False):
        rows = [(row.step, getattr(row, view)) for row in run.probes if getattr(row, view)]
        for share, line in (("refusal", "-"), ("degenerate", "--")) if rows else ():
            values = [100 * getattr(measured, share) for _, measured in rows]
            steps, label = [step for step, _ in rows], f"{view}, {share}"
            axes.plot(steps, values, label=label, ls=line, marker=mark, ms=4, color=INK, linewidth=1.2)
            told.append(f"{share} on {view} from {values[0]:.0f} to {values[-1]:.0f}")
    if told:
        figure.legend(fontsize=8, loc="outside upper right", ncols=3, handlelength=2.4, columnspacing=1)
    description = f"Probes of {run.title}, shares in per cent, first to last: {'; '.join(told)}."
    caption = f"Probes of {run.title}: shares of refusals (solid) and of degenerate answers (dashed) by view."
    return Plot(f"probes_{run.name}", caption, description, figure)
