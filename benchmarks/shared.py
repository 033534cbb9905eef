"""The helpers of the benchmarks: clocks, medians, the machine, rates of pictures with correlated answers, tables."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

Clock = tuple[float, float]  # wall and CPU seconds


def clock() -> Clock:
    """The time now."""
    return time.perf_counter(), time.process_time()


def median(runs: Iterable[Any], figure: str, **of: Any) -> float:
    """The median of a figure over the runs whose attributes have the values `of`."""
    matching = [run for run in runs if all(getattr(run, key) == value for key, value in of.items())]
    return statistics.median(getattr(run, figure) for run in matching)


def describe(threads: int) -> str:
    """The machine, and the versions of the software on it."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    return f"{os.cpu_count()} cores, {threads} threads, Python {platform.python_version()}, {versions}"


def picture_rates(rng: np.random.Generator, share: float, icc: float, shape: tuple[int, int]) -> np.ndarray:
    """A rate for each picture, from the beta distribution with mean `share` and intra-cluster correlation `icc`."""
    scale = 1 / icc - 1
    return rng.beta(share * scale, (1 - share) * scale, shape) if scale else rng.random(shape) < share


def spread(work: Callable[[Any], Any], places: Sequence[Any], processes: int) -> dict[Any, Any]:
    """The result of `work` for each place, computed in this number of processes."""
    with ProcessPoolExecutor(processes) as pool:
        return dict(zip(places, pool.map(work, places), strict=True))


def show(heads: list[str], rows: Iterable[Iterable[str]], title: str | None = None, left: int = 1) -> None:
    """Print a table. The first `left` columns are text, aligned left; the others are figures, aligned right."""
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for number, head in enumerate(heads):
        table.add_column(head, justify="left" if number < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=max(Console().width, 125)).print(table)
