"""Two runs side by side on the same requests: the difference of each metric, with its interval."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from safeeraser.benchmark.files import read_json
from safeeraser.errors import BadInput
from safeeraser.score.intervals import interval
from safeeraser.score.outputs import NAMES, read_values


def compare(mine: Path, other_summary: Path, protocol: str) -> dict[str, Any]:
    """What differs between the verdicts file `mine` and the run that wrote `other_summary`, metric by metric.

    `difference` is this run's mean less the other's, over the requests that both have a verdict on; the interval is by
    bootstrap over pictures of the pairwise differences, which is narrower than the two rates' own.

    Raises:
        BadInput: the other summary cannot be used, or is of another protocol.
    """
    other = read_json(other_summary)
    name = other.get("verdicts") if isinstance(other, dict) else None
    if not isinstance(name, str):
        raise BadInput(
            f"--compare {other_summary}: no summary that names its verdicts file; eval_all.py --summary writes one"
        )
    if other.get("protocol") != protocol:
        raise BadInput(f"--compare {other_summary}: of protocol {other.get('protocol')}, this run of {protocol}")
    ours, theirs = read_values(mine), read_values(other_summary.parent / name)
    metrics = {}
    for metric, (written, _) in NAMES.items():
        pairs = [(key[1], ours[key] - theirs[key]) for key in ours if key[0] == metric and key in theirs]
        low, high = interval(pairs, rate=False)
        mean = sum(value for _, value in pairs) / len(pairs) if pairs else None
        metrics[written] = {"difference": mean, "low": low, "high": high, "n": len(pairs)}
    return {"summary": str(other_summary), "judge": other.get("judge"), **metrics}


def show(compared: dict[str, Any]) -> None:
    """Print the differences, in per cent points."""
    table = Table("metric", "difference, points", "95%", "n", title=f"beside {compared['summary']}")
    for column in table.columns[1:]:
        column.justify = "right"
    for written, title in NAMES.values():
        of = compared[written]
        known = of["low"] is not None
        table.add_row(
            title,
            f"{100 * of['difference']:+.1f}" if of["n"] else "–",
            f"{100 * of['low']:+.1f} to {100 * of['high']:+.1f}" if known else "",
            str(of["n"]),
        )
    Console().print(table)
