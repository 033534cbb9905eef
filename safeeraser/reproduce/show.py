"""Tables for the terminal: where each run stands, and what is still to be done takes."""

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from safeeraser.benchmark.files import read_object
from safeeraser.judge.panel import show_plan as show_judging
from safeeraser.reproduce.check import Found, size
from safeeraser.reproduce.estimate import efforts, judging, on_gpus
from safeeraser.reproduce.marks import LACKING, Mark, is_held, log_of, passed, read_mark
from safeeraser.reproduce.options import Options
from safeeraser.reproduce.steps import Run
from safeeraser.reproduce.work import at_once


def show_status(runs: Sequence[Run]) -> None:
    """Print a table of runs and steps, and the logs of those that failed or lack something."""
    names = [step.name for step in max(runs, key=lambda run: len(run.steps)).steps]  # the untouched model has fewer
    columns = (Column(name.replace("_", " "), overflow="fold") for name in names)
    table = Table(Column("run", no_wrap=True), *columns, box=None, padding=(0, 1, 0, 0))  # nine fit a narrow terminal
    for run in runs:
        cells = states(run)
        table.add_row(run.name, *(cells.get(name, "") for name in names))
    Console().print(table)
    for line in shortcomings(runs):
        print(line)


def states(run: Run) -> dict[str, str]:
    """Where each step of a run stands, in words."""
    marks = {step.name: read_mark(run, step) for step in run.steps}
    found = {name: state(mark) for name, mark in marks.items()}
    file = run.marks / "now.json"
    if is_held(run.marks) and file.is_file():
        now = read_object(file)
        if now["step"] in marks and not passed(marks[now["step"]]):
            found[now["step"]] = f"running {now['host']}"
    return found


def state(mark: Mark | None) -> str:
    """How a step ended, in words."""
    if mark is None:
        return "waiting"
    took = f"{mark['seconds'] / 60:.1f} min"
    return {0: took, LACKING: f"lacking {took}"}.get(mark["exit_code"], "failed")


def shortcomings(runs: Sequence[Run]) -> list[str]:
    """Steps that failed, or lack something, each with its log and what that says last."""
    found = []
    for run in runs:
        for step in run.steps:
            mark = read_mark(run, step)
            if mark and mark["exit_code"]:
                what = "lacks something" if passed(mark) else "failed"
                said = last_words(log_of(run, step))
                found.append(f"{run.name}: {step.name} {what}: {said} (log: {log_of(run, step)})")
    return found


def last_words(log: Path) -> str:
    """The last error in a log, else its last line."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.is_file() else []
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["it said nothing"])[-1].strip()[:300].removeprefix("error: ")


def show_plan(options: Options, runs: Sequence[Run], found: Found) -> None:
    """Print what is done, and what the rest takes: hours by a measured minute, judging, disk."""
    show_status(runs)
    told = efforts(options, runs, found)
    unit, each = "GPU-hours" if on_gpus() else "CPU-hours", options.processes
    right = (Column(head, justify="right") for head in ("items or responses", "a second", unit))
    table = Table("what", *right, "how known", box=SIMPLE_HEAD)
    for effort in told:
        cells = (effort.things, effort.speed, effort.hours and effort.hours * each)
        table.add_row(effort.what, *map(number, cells, (",.0f", ".2f", ".2f")), effort.why)
    known = [effort.hours for effort in told if effort.hours is not None]
    table.add_section()
    jobs = at_once(options, runs)
    wall = f"{sum(known) / jobs:.2f} hours, {jobs} at a time"
    table.add_row("all that is measured", "", "", f"{sum(known) * each:.2f}", wall)
    Console().print(table)
    print("Without loading, checkpoints and judging.")
    show_price(runs, found)
    print(f"disk: about {size(found.disk)} at the most")


def show_price(runs: Sequence[Run], found: Found) -> None:
    """Print what judging takes, where a judge is asked over a network."""
    plan, panel = judging(runs, found)
    if panel:
        show_judging(plan, panel.prices, share=panel.judging.price_share)
        print("Responses that are not there yet are counted as long as the data file's own. Without the audit's.")
    else:
        print("judging: asks nobody over a network" if found.records else "judging: not estimated: no data here")


def number(value: float | None, form: str) -> str:
    """A number as a table shows it; nothing where it is not known."""
    return "" if value is None else format(value, form)
