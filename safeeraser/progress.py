"""How a long run shows its progress: a bar on a terminal, a line a minute in a log file."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EVERY = 60.0  # seconds between lines


def first_process() -> bool:
    """Whether this is the first of the processes that a launcher started; it prints for all of them."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def progress(
    what: str, total: int, *, shown: bool = True, more: Callable[[], str] = lambda: ""
) -> Iterator[Callable[[int], None]]:
    """Show progress, and yield a function that takes the number of things that were just done.

    The bar vanishes at the end. All output goes to stderr.

    Args:
        what: the things that are counted, as in "120 of 960 responses".
        shown: whether to show anything; with several processes only one does.
        more: a function whose text is added to each line.
    """
    console, began = Console(stderr=True), time.monotonic()
    done, printed = 0, began

    def speed() -> float:
        return done / (time.monotonic() - began)

    def advance(count: int) -> None:
        nonlocal done, printed
        done += count
        bar.update(task, advance=count, told=f"{speed():.1f}/s{more()}")
        if shown and not console.is_terminal and time.monotonic() - printed > EVERY:
            printed = time.monotonic()
            left = timedelta(seconds=round((total - done) / speed()))
            print(f"{done} of {total} {what}, {speed():.1f} a second{more()}, {left} left", file=sys.stderr, flush=True)

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[told]}"))
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    visible = shown and console.is_terminal
    with Progress(*columns, *times, console=console, transient=True, disable=not visible) as bar:
        task = bar.add_task("", total=total, told="")
        yield advance
