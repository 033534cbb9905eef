"""The self-test: the checks one after another, of which any may fail without the others, and what came of them.

The checks run in one process beside this one, which loads torch once. If a check fails there by an error, or the
process itself ends, a fresh one goes on with the rest: what a kernel has broken on a GPU stays broken for a process.
"""

import importlib
import logging
import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from safeeraser.benchmark.files import make_room_for, read_object, write_json
from safeeraser.benchmark.origin import now
from safeeraser.errors import BadInput
from safeeraser.selftest.launch import kill_tree
from safeeraser.selftest.machine import anonymous, describe
from safeeraser.selftest.result import Figure, Result, Skip

ROOM = "safeeraser.selftest"
# By the module of it that makes each.
CHECKS = {
    "precision": "bfloat16 and each attention beside float32",
    "memory": "memory of a step beside the dry run's estimate",
    "nf4": "four bits beside the same weights rounded",
    "inference": "batched inference beside one response at a time",
    "speed": "what the machine does at most, and how fast it answers",
    "engines": "each engine beside one process",
    "resume": "killed and gone on with, beside undisturbed",
    "commands": "answers, attacks, merging and relearning by their commands",
}
# Of another family's small model, whose memory and speed tell nothing.
FOR_A_FAMILY = ("precision", "inference", "engines", "resume", "commands")
KIND = "safeeraser self-test"  # what a report says that it is
LINES = 15  # of an error
OUTCOMES = {"pass": "[green]pass[/]", "fail": "[bold red]fail[/]", "skipped": "[yellow]skipped[/]"}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What was asked: the size, None for the largest that fits, or a family; the checks; where the report goes."""

    size: str | None
    checks: Sequence[str]
    report: Path


def selftest(options: Options) -> int:
    """Make the checks, print the table, write the report. Returns 1 if a check failed, else 0.

    Raises:
        BadInput: the report would replace something else, or the size does not fit. No check has been made then.
    """
    check_report(options.report)
    with tempfile.TemporaryDirectory(prefix="safeeraser-selftest-") as folder:
        size, results = examine(options.checks, options.size, Path(folder))
    for result in results:
        result.error, result.skipped = anonymous(result.error), anonymous(result.skipped)
        result.figures = [replace(figure, note=anonymous(figure.note)) for figure in result.figures]
    write_json(options.report, record(size, results))
    show(size, results)
    log.info("written to %s, which a bug report can bring along", options.report)
    return int(any(result.outcome == "fail" for result in results))


def check_report(path: Path) -> None:
    """Raises `BadInput` where the report cannot be written, or would replace what is none."""
    make_room_for(path)
    if not path.is_file():
        return
    with suppress(BadInput):
        if read_object(path).get("kind") == KIND:
            return
    raise BadInput(f"--json {path}: holds something else than an earlier self-test; name another file")


def examine(checks: Sequence[str], size: str | None, folder: Path) -> tuple[str | None, list[Result]]:
    """Make the checks; returns the size of the model, and their results in the order of `checks`.

    Raises:
        BadInput: the size does not fit.
    """
    results: dict[str, Result] = {}
    while left := [name for name in checks if name not in results]:
        for kind, value in _events(left, size, folder):
            if kind == "refused":
                raise BadInput(value)
            if kind == "size":
                size = value
            elif kind == "begin":
                log.info("[%d/%d] %s: %s", len(results) + 1, len(checks), value, CHECKS[value])
                results[value] = result = Result(value)
                began = time.monotonic()
            elif kind == "figure":
                result.figures.append(value)
                log.info("      %s: %s", value.name, value.measured)
            else:
                result.skipped, result.error = (value if kind == each else "" for each in ("skipped", "error"))
                result.seconds = time.monotonic() - began
                log.info("      %s (%.0f s)", result.outcome, result.seconds)
    return size, list(results.values())


def _events(checks: Sequence[str], size: str | None, folder: Path) -> Iterator[tuple[str, Any]]:
    """What a process that makes checks tells, in its order.

    `size`; then of each check `begin`, each `figure`, and at last `skipped` or `error` with its reason, or `end`.
    Of a process that ends within a check, `error`; one that ends before the first is a failure of that.
    """
    said = folder / f"process-{len(list(folder.glob('process-*.log')))}.log"
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    modules = [f"{ROOM}.{name}" for name in checks]
    process = context.Process(target=_work, args=(theirs, modules, size, folder, said))
    process.start()
    theirs.close()
    open_check, left = "", list(checks)
    try:
        while True:
            kind, value = ours.recv()
            if kind == "begin":
                open_check = left.pop(0)
            elif kind in ("end", "error", "skipped"):
                open_check = ""
            yield kind, value
    except EOFError:
        process.join()
        if not open_check and process.exitcode and left:
            yield "begin", (open_check := left.pop(0))
        if open_check:
            yield "error", f"{_end_of(said)}\nits process ended with exit code {process.exitcode}"
    finally:
        if process.pid:
            kill_tree(process.pid)
        process.join()


def _end_of(file: Path) -> str:
    return "\n".join(file.read_text(errors="replace").strip().splitlines()[-LINES:]) if file.exists() else ""


def _work(events: Connection, modules: Sequence[str], size: str | None, folder: Path, said: Path) -> None:
    """Make checks until one fails by an error; in a process of its own, whose words go to the file `said`."""
    with open(said, "w") as handle:
        for number in (1, 2):
            os.dup2(handle.fileno(), number)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    import torch

    from safeeraser.selftest import material, memory
    from safeeraser.selftest.precision import release

    if not torch.cuda.is_available():
        torch.set_num_threads(1)  # on models this small, several threads wait for each other most of the time
    try:
        size = memory.choose_size(size, folder)
        bench = material.Bench(folder, size)
        material.write(bench)
    except BadInput as error:
        events.send(("refused", str(error)))
        return
    events.send(("size", size))
    for module in modules:
        events.send(("begin", module.rpartition(".")[2]))
        try:
            for figure in importlib.import_module(module).check(bench):
                events.send(("figure", figure))
            events.send(("end", None))
        except Skip as reason:
            events.send(("skipped", str(reason)))
        except Exception:
            events.send(("error", "\n".join(traceback.format_exc().strip().splitlines()[-LINES:])))
            return
        release()


def record(size: str | None, results: Sequence[Result]) -> dict[str, Any]:
    """The report, as it is written."""
    outcome = {result.check: result.record for result in results}
    return {"kind": KIND, "made": now(), "size": size, **describe(), "checks": outcome}


def show(size: str | None, results: Sequence[Result]) -> None:
    """Print the table, and below it what went wrong."""
    table = Table("check", "", "measured", "bound", "", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for result in results:
        seconds = f"{result.seconds:.0f} s"
        table.add_row(result.check, CHECKS[result.check], result.skipped, seconds, OUTCOMES[result.outcome])
        for figure in result.figures:
            table.add_row("", figure.name, figure.measured, figure.bound, _verdict(figure))
        table.add_section()
    console = Console(highlight=False)
    console.print(f"Self-test, size {size}")
    console.print(table)
    for result in results:
        if result.error:
            console.print(f"{result.check}:\n{result.error}", markup=False, soft_wrap=True)


def _verdict(figure: Figure) -> str:
    if figure.value is None:
        return OUTCOMES["skipped"]
    return (OUTCOMES["pass" if figure.good else "fail"]) if figure.bound else ""
