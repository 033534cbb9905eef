"""What the rest takes: hours, by a measured minute; the judge's calls, tokens and dollars, by the texts' length."""

import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from check import Found, filled, left, size
from huggingface_hub import try_to_load_from_cache
from plan import OPTIONAL, Plan, launcher
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from safeeraser.benchmark.files import CONFIG, run_of
from safeeraser.benchmark.methods import PD, WITH_REFERENCE
from safeeraser.benchmark.metrics import SPLITS
from safeeraser.benchmark.pages import read_keys
from safeeraser.benchmark.records import read_records
from safeeraser.benchmark.responses import RELEASED, VIEWS
from safeeraser.judge.costs import Spent, show_plan
from safeeraser.judge.panel import Panel
from safeeraser.score.asking import as_answered, build_queries, read
from safeeraser.score.command_line import arguments, options_of

BUDGET, LONGEST = 60.0, 600.0  # seconds after which no further piece is begun; that a piece may take
RATE = r"responses(?: of process \d+ of (\d+))?, ([\d.]+) a second"  # what ckpt_infer.py prints at its end
BRIEFLY = ("save_steps=0", "save_model=false")


class Effort(NamedTuple):
    """What a part of the work takes: so many things, at so many a second. `why`: how it is known, or why it is not."""

    what: str
    things: int | None
    speed: float | None
    why: str

    @property
    def hours(self) -> float | None:
        """Of one step at a time, all its processes at work."""
        return self.things / self.speed / 3600 if self.things is not None and self.speed else None


def show_cost(plan: Plan, found: Found, jobs: int) -> None:
    """Print what the steps take that are left. Trains and answers a little, into a folder that is removed."""
    reason = "" if found.records else "not measured: no data here"
    if found.records and (found.problems or not is_here(plan.model_path)):
        reason = "not measured: first what is wrong" if found.problems else "not measured: no weights here"
    with tempfile.TemporaryDirectory() as folder:
        scratch = plan.model_copy(update={"out": folder})
        efforts = [*trained(plan, scratch, found, reason), *answered(plan, scratch, found, reason)]
    for name in (*OPTIONAL, *plan.checks):
        if count := sum(step == name for _, step, _ in left(plan)):
            efforts.append(Effort(f"{name}, {count} runs", None, None, "not measured"))
    right = (
        Column(head, justify="right")
        for head in ("items or responses", "a second", "GPU-hours" if plan.gpu else "CPU-hours")
    )
    table = Table("what", *right, "how known", box=SIMPLE_HEAD)
    for effort in efforts:
        cells = (effort.things, effort.speed, effort.hours and effort.hours * plan.processes)
        shown = (
            "" if value is None else format(value, form)
            for value, form in zip(cells, (",.0f", ".2f", ".2f"), strict=True)
        )
        table.add_row(effort.what, *shown, effort.why)
    hours = sum(effort.hours or 0.0 for effort in efforts)
    table.add_section()
    wall = f"{hours / jobs:.2f} hours, {jobs} at a time"
    table.add_row("all that is measured", "", "", f"{hours * plan.processes:.2f}", wall)
    Console().print(table)
    print("Without loading, checkpoints and judging.")
    show_judging(plan, found)
    print(f"disk: about {size(found.disk)} at the most")


def trained(plan: Plan, scratch: Plan, found: Found, reason: str) -> Iterator[Effort]:
    """Unlearning by each method. Methods of a kind take the same; one of a kind that time is too short for is told by
    the rows of another."""
    todo = {}
    for run, step, words in left(plan):
        if step == "unlearn":
            todo.setdefault(run.method, []).append(filled(scratch, run, words))
    speeds: dict[tuple[int, bool], float] = {}
    began, why = time.monotonic(), {}
    for method in sorted(todo, key=kind, reverse=True):
        how, calls = kind(method), todo[method]
        if not reason and how not in speeds and (not speeds or time.monotonic() - began < BUDGET):
            words = [*calls[0], *BRIEFLY, *plan.measured_forget.split()]
            folder = next(Path(word.partition("=")[2]) for word in words if word.startswith("save_dir="))
            ended = run_briefly(words)
            sittings = run_of(folder).get("sittings") if ended is not None and folder.is_dir() else None
            if speed := sittings and sittings[-1].get("items_per_second"):
                speeds[how], why[how] = speed, f"measured, {method}"
        if not reason and how not in speeds and speeds:
            near = min(speeds, key=lambda other: abs(other[0] - how[0]))
            speeds[how], why[how] = speeds[near] * near[0] / how[0], f"by its {how[0]} views; {why[near]}"
        items = found.training[method][0] * len(calls) if method in found.training else None
        title = f"unlearn {method}" + (f", {len(calls)} seeds" if len(calls) > 1 else "")
        yield Effort(title, items, speeds.get(how), why.get(how, reason or "not measured: its short run failed"))


def kind(method: str) -> tuple[int, bool]:
    """What the time of an item depends on: how many views are read, and whether there is a reference to run."""
    terms = read_keys(CONFIG / "forget_loss" / f"{method.removesuffix(PD)}.yaml")["terms"].values()
    views = {view for term in terms for view in term["views"]} | ({"decoupled"} if method.endswith(PD) else set())
    return len(views), any(term["loss"] in WITH_REFERENCE for term in terms)


def answered(plan: Plan, scratch: Plan, found: Found, reason: str) -> Iterator[Effort]:
    """Inference on all runs that are left."""
    todo = [(step.removeprefix("infer_"), run, words) for run, step, words in left(plan) if step.startswith("infer_")]
    if not todo:
        return
    speed = None
    if not reason:
        _, run, words = todo[0]
        adapter = ("--checkpoint_path=", "--loss_type=")
        words = tuple(word for word in words if not word.startswith(adapter))
        words = (*launcher(plan.engine), *words[1:], *plan.measured_infer.split())
        rates = re.findall(RATE, run_briefly(filled(scratch, run, words)) or "")
        speed = float(rates[-1][1]) * int(rates[-1][0] or 1) if rates else None
        reason = "measured, untouched model" if speed else "not measured: its short run failed"
    things = sum(responses(found, split) for split, *_ in todo) if found.records else None
    yield Effort(f"infer, {len(todo)} files", things, speed, reason)


def responses(found: Found, split: str) -> int:
    """How many responses are wanted of a split."""
    fields = {view: len(VIEWS[view].fields) for view in RELEASED}
    records = found.records.get(f"all_{split}.json", [])
    harmful = sum(len(record.unsafe_pairs) for record in records) * (fields["forget"] + fields["decoupled"])
    return harmful + sum(len(record.unharm) for record in records) * fields["retain"]


def run_briefly(words: list[str]) -> str | None:
    """What a command printed; None if it failed."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout + done.stderr if done.returncode == 0 else None


def show_judging(plan: Plan, found: Found) -> None:
    """Print what scoring takes that is left, where a judge is asked over a network.

    Where no responses are there yet, those that the data file holds stand for them.
    """
    spent: list[tuple[str, str, Spent]] = []
    panel = None
    for split in SPLITS if found.records and not found.problems else ():
        todo = [filled(plan, run, words)[2:] for run, step, words in left(plan) if step == f"score_{split}"]
        asked = [options_of(vars(arguments().parse_args(words)) | {"dry_run": True}) for words in todo]
        if asked and panel is None:
            with redirect_stderr(StringIO()):  # it has said what must be known when all was checked
                panel = Panel(asked[0].judging)
        if not panel or not panel.served:
            continue
        for options in (there := [options for options in asked if options.input_file.is_file()]):
            spent += panel.foresee(read(options).queries)
        if imagined := len(asked) - len(there):
            data = read_records(asked[0].file_refer)
            queries = build_queries(as_answered(data), data, list(range(len(data.raw))), asked[0].refusals)
            spent += list(panel.foresee(queries)) * imagined
    if panel and panel.served:
        show_plan(spent, panel.prices, share=panel.judging.price_share)
        print("Responses that are not there yet are counted as long as the data file's own. Without the audit's.")
    else:
        print("judging: asks nobody over a network" if found.records else "judging: not estimated: no data here")


def is_here(model_path: str) -> bool:
    """Whether a model's weights lie on this machine: in a folder, or in the hub's cache."""
    names = ("model.safetensors", "model.safetensors.index.json")
    if Path(model_path).is_dir():
        return any((Path(model_path) / name).is_file() for name in names)
    return any(isinstance(try_to_load_from_cache(model_path, name), str) for name in names)
