"""The training curves of a run: loss, gradient norm, learning rate, and each term by its name."""

from pathlib import Path

import matplotlib

from safeeraser.benchmark.files import read_json_lines, write_whole

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def plot_training(log: Path, out: Path, title: str) -> None:
    """Draw `train_log.jsonl` into a PNG file."""
    rows = read_json_lines(log)
    steps = [row["step"] for row in rows]
    panels = {"loss": [row["loss"] for row in rows], "gradient norm": [row["grad_norm"] for row in rows]}
    panels["learning rate"] = [row["learning_rate"] for row in rows]
    panels |= {f"term {name}": [row["terms"][name] for row in rows] for name in rows[0]["terms"]}
    figure, axes = plt.subplots(-(-len(panels) // 3), 3, figsize=(12, 3.2 * -(-len(panels) // 3)), squeeze=False)
    for axis, (name, values) in zip(axes.flat, panels.items(), strict=False):
        axis.plot(steps, [float("nan") if value is None else value for value in values], linewidth=1)
        axis.set(title=name, xlabel="optimizer step")
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    figure.suptitle(title)
    figure.tight_layout()
    with write_whole(out, "wb") as handle:
        figure.savefig(handle, format="png", dpi=120)
    plt.close(figure)
