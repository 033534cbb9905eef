"""The training curves of a run: loss, gradient norm, learning rate, terms and dual weights by name, and the probes."""

from collections.abc import Iterator
from pathlib import Path

import matplotlib

from safeeraser.benchmark.files import read_json_lines, write_whole

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLUMNS = 3
PROBED = {"refusal": "probe: share of refusals", "degenerate": "probe: share degenerate", "length": "probe: mean words"}

Panel = tuple[str, list[int], dict[str, list[float | None]]]  # title, optimizer steps, a curve by each name


def training_panels(log: Path) -> Iterator[Panel]:
    """The panels of `train_log.jsonl`."""
    rows = read_json_lines(log)
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
    steps = [row["step"] for row in rows]
    for key, title in PROBED.items():
        yield title, steps, {view: [row[view][key] for row in rows] for view in rows[0] if view != "step"}


def plot_training(log: Path, probes: Path, out: Path, title: str) -> None:
    """Draw `train_log.jsonl`, and `probe.jsonl` if there is one, into a PNG file."""
    panels = [*training_panels(log), *(probe_panels(probes) if probes.exists() else ())]
    lines = -(-len(panels) // COLUMNS)
    figure, axes = plt.subplots(lines, COLUMNS, figsize=(12, 3.2 * lines), squeeze=False)
    for axis, (name, steps, curves) in zip(axes.flat, panels, strict=False):
        for label, values in curves.items():
            axis.plot(steps, [float("nan") if value is None else value for value in values], linewidth=1, label=label)
        axis.set(title=name, xlabel="optimizer step")
        if len(curves) > 1:
            axis.legend(fontsize="small")
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    figure.suptitle(title)
    figure.tight_layout()
    with write_whole(out, "wb") as handle:
        figure.savefig(handle, format="png", dpi=120)
    plt.close(figure)
