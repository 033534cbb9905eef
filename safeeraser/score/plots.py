"""The report's plots. Each carries a caption, and a sentence that says what it shows to those who cannot see it."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from safeeraser.benchmark.files import write_whole
from safeeraser.score.runs import Row, Run

_INK = "#1a1b1c"  # text and axes; in a page it becomes the page's own text colour
_SIZE = (4.8, 3.6)  # inches: legible when scaled down to a phone
_STYLE = {
    "font.size": 10,
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
}
_OWN, _PUBLISHED = "#d55e00", "#3a8fd0"  # both stand out on white and on black
_LINES = ["#d55e00", "#3a8fd0", "#009e73", "#cc79a7", "#b58900", "#7a7a7a"]
_NEAR = 4  # per cent: points closer than this share one label


@dataclass(frozen=True)
class Plot:
    """A figure named for its file, with its caption and its description in words."""

    name: str
    caption: str
    description: str
    figure: Figure

    def svg(self) -> str:
        """The figure as an SVG element to stand in a page: takes its text colour, describes itself, ids its own."""
        text = io.StringIO()
        with mpl.rc_context({**_STYLE, "svg.hashsalt": self.name}):
            self.figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        svg = text.getvalue()
        svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
        svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{self.name}-", svg)
        return re.sub(r'^<svg [^>]*?viewBox="([^"]*)"[^>]*>', self._opening, svg, count=1)

    def write_png(self, folder: Path) -> None:
        """Write the figure as `<name>.png`, on white."""
        with write_whole(folder / f"{self.name}.png", "wb") as handle:
            self.figure.savefig(handle, format="png", dpi=150, facecolor="white", metadata={"Software": None})

    def _opening(self, match: re.Match) -> str:
        return (
            f'<svg viewBox="{match[1]}" role="img" aria-label="{escape(self.description)}" '
            'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        )


def plots(runs: list[Run], published: list[Row]) -> Iterator[Plot]:
    """Every plot of the report, in its order. A further plot is one more `yield`."""
    with mpl.rc_context(_STYLE):
        yield _forgetting([run.row for run in runs], published)
        for run in runs:
            if run.log:
                yield _training(run)


def _forgetting(rows: list[Row], published: list[Row]) -> Plot:
    """ASR against SARR: a good method sits at the lower left, forgetting without over-forgetting."""
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    told = []
    for group, name, style in (
        (_points(published), "published", {"marker": "s", "color": _PUBLISHED, "markerfacecolor": "none"}),
        (_points(rows), "these runs", {"marker": "o", "color": _OWN}),
    ):
        if group:
            axes.plot(*zip(*(point[:2] for point in group), strict=True), ls="none", ms=8, label=name, **style)
        for x, y, label in _clusters(group):
            axes.annotate(label, (x, y), fontsize=9, textcoords="offset points", **_label_place(x, name == "published"))
        told += [f"{label}{' (published)' * (name == 'published')}: ASR {x:.0f}, SARR {y:.0f}" for x, y, label in group]
    if published:
        axes.legend(frameon=False, fontsize=9, loc="upper right")
    axes.set(xlim=(-3, 103), ylim=(-3, 110), xlabel="ASR on unseen questions, % (lower: forgets more)")
    axes.set_ylabel("SARR, % (lower: over-forgets less)")
    axes.set_yticks(range(0, 101, 20))
    axes.grid(alpha=0.25)
    description = "Scatter of SARR against ASR in per cent. " + ("; ".join(told) or "No run has both") + "."
    return Plot("forgetting", "Forgetting against over-forgetting: the lower left is best.", description, figure)


def _label_place(x: float, below: bool) -> dict:
    """Where a label stands beside its point: towards the middle of the plot, the published ones lower and slanted."""
    right = x > 60
    return {
        "xytext": (-8 if right else 8, -13 if below else 5),
        "ha": "right" if right else "left",
        "style": "italic" if below else "normal",
    }


def _points(rows: list[Row]) -> list[tuple[float, float, str]]:
    """(ASR, SARR, name) of the rows that have both; ASR on unseen questions, or else on the training ones."""
    points = []
    for row in rows:
        unseen, seen, sarr = (row.values[key] for key in ("asr_gen", "asr_eff", "sarr"))
        asr = seen if unseen is None else unseen
        if asr is not None and sarr is not None:
            points.append((asr, sarr, row.name))
    return points


def _clusters(points: list[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """The points, those whose names would print over each other joined under one label."""
    clusters: list[tuple[float, float, list[str]]] = []
    for x, y, name in points:
        near = next((names for cx, cy, names in clusters if abs(x - cx) < _NEAR and abs(y - cy) < _NEAR), None)
        if near is None:
            clusters.append((x, y, [name]))
        else:
            near.append(name)
    return [(x, y, ", ".join(names)) for x, y, names in clusters]


def _training(run: Run) -> Plot:
    """The total loss and its terms over the steps, as the log holds them."""
    figure = Figure(figsize=(_SIZE[0], 2.8), layout="constrained")
    axes = figure.add_subplot()
    steps = [row.step for row in run.log]
    axes.plot(steps, [row.loss for row in run.log], color=_INK, linewidth=1.8, label="loss")
    terms = list(dict.fromkeys(name for row in run.log for name in row.terms))
    for index, name in enumerate(terms):
        values = [row.terms.get(name, float("nan")) for row in run.log]
        axes.plot(steps, values, color=_LINES[index % len(_LINES)], linewidth=1.2, label=name)
    axes.set(xlabel="optimizer step", ylabel="loss, nats a token")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)
    first, last = run.log[0], run.log[-1]
    description = (
        f"Training of {run.title}: the loss goes from {first.loss:.3g} at step {first.step} to {last.loss:.3g} at step "
        f"{last.step}" + (f"; shown with its terms {', '.join(terms)}." if terms else ".")
    )
    return Plot(f"training_{run.name}", f"Training of {run.title}.", description, figure)
