"""How a long run shows how far it is: a bar on a terminal, a line a minute in a log file."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from safeeraser.processes import Processes

log = logging.getLogger(__name__)

EVERY = 60.0  # seconds between lines


@contextmanager
def progress(total: int, processes: Processes) -> Iterator[Callable[[int], None]]:
    """Yields what is called with the number of responses that have come; of several processes the first one shows its.

    At the end a line tells how fast they came.
    """
    whose = f" of process 1 of {processes.count}" if processes.count > 1 else ""
    console, began = Console(stderr=True), time.monotonic()
    done, told = 0, began

    def rate() -> float:
        return done / (time.monotonic() - began)

    def advance(count: int) -> None:
        nonlocal done, told
        done += count
        bar.update(task, advance=count, rate=f"{rate():.1f}/s")
        if not console.is_terminal and time.monotonic() - told > EVERY:
            told = time.monotonic()
            left = timedelta(seconds=round((total - done) / rate()))
            log.info("%d of %d responses%s, %.1f a second, %s left", done, total, whose, rate(), left)

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeElapsedColumn())
    shown = processes.main and console.is_terminal
    with Progress(
        TextColumn("responses" + whose),
        *columns,
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not shown,
    ) as bar:
        task = bar.add_task("", total=total, rate="")
        yield advance
    log.info("%d responses%s, %.1f a second", done, whose, rate())
