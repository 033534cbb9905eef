"""Plot a run's curves: loss, gradient norm, learning rate, each term, each weight that moves, and the probes."""

from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from safeeraser.benchmark.files import read_json_lines, write_whole

COLUMNS = 3
PROBED = {"refusal": "probe: share of refusals", "degenerate": "probe: share degenerate", "length": "probe: mean words"}

Panel = tuple[str, list[int], dict[str, list[float | None]]]  # title, optimizer steps, curves by name


def training_panels(log: Path) -> Iterator[Panel]:
    """The panels of `train_log.jsonl`."""
    rows = read_json_lines(log)
    if not rows:
        return  # resumed from a last checkpoint into another folder, so no step was logged
    steps = [row["step"] for row in rows]
    for key, title in (("loss", "loss"), ("grad_norm", "gradient norm"), ("learning_rate", "learning rate")):
        yield title, steps, {"": [row[key] for row in rows]}
    for name in rows[0]["terms"]:
        yield f"term {name}", steps, {"": [row["terms"][name] for row in rows]}
    for name in rows[0].get("weights", ()):
        yield f"weight of {name}", steps, {"": [row["weights"][name] for row in rows]}


def probe_panels(log: Path) -> Iterator[Panel]:
    """The panels of `probe.jsonl`: the forgetting curve."""
    rows = read_json_lines(log)
    if not rows:
        return  # the run was resumed from a checkpoint before its first probe
    steps = [row["step"] for row in rows]
    for key, title in PROBED.items():
        yield title, steps, {view: [row[view][key] for row in rows] for view in rows[0] if view != "step"}


def plot_training(log: Path, probes: Path, out: Path, title: str) -> None:
    """Draw `train_log.jsonl`, and `probe.jsonl` if it exists, into a PNG file; write no file if neither has rows."""
    panels = [*training_panels(log), *(probe_panels(probes) if probes.exists() else ())]
    if not panels:
        return
    lines = -(-len(panels) // COLUMNS)
    # Not with pyplot, which would use the backend that a calling notebook has chosen.
    height = 3.2 * lines
    figure = Figure(figsize=(12, height))
    # Fixed margins, top and bottom in inches: computed margins would require drawing twice.
    edges = {"left": 0.06, "right": 0.98, "bottom": 0.6 / height, "top": 1 - 0.8 / height}
    axes = figure.subplots(lines, COLUMNS, squeeze=False, gridspec_kw=edges | {"wspace": 0.25, "hspace": 0.4})
    for axis, (name, steps, curves) in zip(axes.flat, panels, strict=False):
        for label, values in curves.items():
            axis.plot(steps, [float("nan") if value is None else value for value in values], linewidth=1, label=label)
        axis.set(title=name, xlabel="optimizer step")
        if len(curves) > 1:
            axis.legend(fontsize="small")
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    figure.suptitle(title)
    with write_whole(out, "wb") as handle:
        figure.savefig(handle, format="png", dpi=120)
