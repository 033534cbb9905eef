"""Estimate the cost of the remaining steps: hours, from short runs; the judge's calls, tokens and dollars; disk."""

import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from check import Found, Training, scoring
from huggingface_hub import try_to_load_from_cache
from plan import VANILLA, Plan
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from safeeraser.benchmark.adapters import run_of
from safeeraser.benchmark.files import CONFIG
from safeeraser.benchmark.methods import PD, WITH_REFERENCE
from safeeraser.benchmark.metrics import SPLITS
from safeeraser.benchmark.pages import read_keys
from safeeraser.benchmark.records import read_records
from safeeraser.benchmark.responses import RELEASED, VIEWS
from safeeraser.judge.judge import Spent
from safeeraser.judge.panel import Panel, show_plan
from safeeraser.score.asking import imagine_queries, read

BUDGET, LONGEST = 60.0, 600.0  # seconds: no short run is begun later; each may take
RATE = r"responses(?: of process \d+ of (\d+))?, ([\d.]+) a second"  # what ckpt_infer.py prints at its end
# Bytes per trained parameter: in an adapter (float32); in a checkpoint, with Adam's two moments and a master copy.
ADAPTER, CHECKPOINT, CHECKPOINTS_AT_ONCE = 4, 16, 3
BASE = 2  # bytes per parameter of a merged model, from which specificity and relearning start
AUDITED = 77  # adapters that an audit keeps: seven steps of eleven trainings (config/relearn.yaml)


class Effort(NamedTuple):
    """The cost of a part of the work: `things` to do, at `speed` a second. `why`: how it is known, or why it is not."""

    what: str
    things: int | None
    speed: float | None
    why: str

    @property
    def hours(self) -> float | None:
        """The hours, if one step runs at a time, with all its processes."""
        return self.things / self.speed / 3600 if self.things is not None and self.speed else None


def show_cost(plan: Plan, found: Found, jobs: int) -> None:
    """Print the cost of the remaining steps. Trains and answers a little for it, in a folder that is removed."""
    reason = "" if found.records else "not measured: no data here"
    reason = reason or ("" if is_here(plan.model_path) else "not measured: no weights here")
    with tempfile.TemporaryDirectory() as scratch:
        efforts = [*trained(plan, found, reason, scratch), *answered(plan, found, reason, scratch)]
    for name in plan.steps:
        if count := len(plan.left(name)):
            efforts.append(Effort(f"{name}, {count} runs", None, None, "not measured"))
    heads = ("items or responses", "a second", "GPU-hours" if plan.gpu else "CPU-hours")
    table = Table("what", *(Column(head, justify="right") for head in heads), "how known", box=SIMPLE_HEAD)
    for effort in efforts:
        cells = (effort.things, effort.speed, effort.hours and effort.hours * plan.processes)
        forms = zip(cells, (",.0f", ".2f", ".2f"), strict=True)
        table.add_row(effort.what, *("" if value is None else format(value, form) for value, form in forms), effort.why)
    if hours := sum(effort.hours or 0.0 for effort in efforts):
        table.add_section()
        wall = f"{hours / jobs:.2f} hours, {jobs} at a time"
        table.add_row("all that is measured", "", "", f"{hours * plan.processes:.2f}", wall)
    Console().print(table)
    print("Without loading, checkpoints and judging.")
    show_judging(plan, found)
    if not found.records:
        print("disk: not estimated: no data here")
        return
    there = next(path for path in (Path(plan.out).absolute(), *Path(plan.out).absolute().parents) if path.is_dir())
    needed, free = disk(plan, found, jobs), shutil.disk_usage(there).free
    print(f"disk: about {size(needed)} at the most" + f", and only {size(free)} are free" * (needed > free))


def trained(plan: Plan, found: Found, reason: str, scratch: str) -> Iterator[Effort]:
    """The cost of unlearning by each method. Methods of one kind take equally long. A kind that there is no time to
    measure is estimated from another, by its number of views."""
    todo = Counter(run.method for run in plan.left("unlearn"))
    speeds, why, began = dict[tuple[int, bool], float](), dict[tuple[int, bool], str](), time.monotonic()
    for method in sorted(todo, key=kind, reverse=True):
        how = kind(method)
        if not reason and how not in speeds and (not speeds or time.monotonic() - began < BUDGET):
            folder = Path(scratch, method)
            brief = f"save_dir={folder} save_steps=0 save_model=false {plan.measured_forget}"
            ended = run_briefly(f"{plan.launcher} {plan.unlearn(method, 0)} {brief}")
            sittings = run_of(folder).get("sittings") if ended is not None and folder.is_dir() else None
            if speed := sittings and sittings[-1].get("items_per_second"):
                speeds[how], why[how] = speed, f"measured, {method}"
        if not reason and how not in speeds and speeds:
            near = min(speeds, key=lambda other: abs(other[0] - how[0]))
            views = f"{how[0]} view" + "s" * (how[0] > 1)
            speeds[how], why[how] = speeds[near] * near[0] / how[0], f"by its {views}; {why[near]}"
        items = found.training[method].items * todo[method] if method in found.training else None
        title = f"unlearn {method}" + (f", {todo[method]} seeds" if todo[method] > 1 else "")
        yield Effort(title, items, speeds.get(how), why.get(how, reason or "not measured: its short run failed"))


def kind(method: str) -> tuple[int, bool]:
    """The kind of a method, which decides an item's time: its number of views, and whether it runs a reference."""
    terms = read_keys(CONFIG / "forget_loss" / f"{method.removesuffix(PD)}.yaml")["terms"].values()
    views = {view for term in terms for view in term["views"]} | ({"decoupled"} if method.endswith(PD) else set())
    return len(views), any(term["loss"] in WITH_REFERENCE for term in terms)


def answered(plan: Plan, found: Found, reason: str, scratch: str) -> Iterator[Effort]:
    """The cost of inference on the remaining runs."""
    todo = {split: len(plan.left(f"infer_{split}")) for split in SPLITS}
    if not any(todo.values()):
        return
    speed = None
    if not reason:
        brief = f"--output_file={scratch}/answers.json {plan.infer_options} {plan.measured_infer}"
        said = run_briefly(f"{plan.launcher} {plan.infer(VANILLA, 0, next(iter(todo)))} {brief}")
        rates = re.findall(RATE, said or "")
        speed = float(rates[-1][1]) * int(rates[-1][0] or 1) if rates else None
        reason = "measured, untouched model" if speed else "not measured: its short run failed"
    things = sum(responses(found, split) * count for split, count in todo.items()) if found.records else None
    yield Effort(f"infer, {sum(todo.values())} files", things, speed, reason)


def responses(found: Found, split: str) -> int:
    """The number of responses to a split's questions."""
    fields, records = {view: len(VIEWS[view].fields) for view in RELEASED}, found.records[f"all_{split}.json"]
    harmful = sum(len(record.unsafe_pairs) for record in records) * (fields["forget"] + fields["decoupled"])
    return harmful + sum(len(record.unharm) for record in records) * fields["retain"]


def run_briefly(line: str) -> str | None:
    """The output of a command; None if it failed or took too long."""
    try:
        done = subprocess.run(["bash", "-c", f"exec {line}"], capture_output=True, text=True, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout + done.stderr if done.returncode == 0 else None


def show_judging(plan: Plan, found: Found) -> None:
    """Print the calls, tokens and dollars of the remaining scoring. The data's answers replace missing responses."""
    spent, panel = list[tuple[str, str, Spent]](), None
    for split in SPLITS if found.records else ():
        for run in plan.left(f"score_{split}"):
            answers = Path(plan.out, run.name, f"predictions_{split}.json")
            options = scoring(plan, str(answers), f"{plan.data}/all_{split}.json")
            if panel is None:
                with redirect_stderr(StringIO()):  # it warned during the checks already
                    panel = Panel(replace(options.judging, dry_run=True))
            if panel.served:
                data = read_records(options.file_refer)
                queries = read(options).queries if answers.is_file() else imagine_queries(data, options.refusals)
                spent += panel.foresee(queries)
    if panel and panel.served:
        show_plan(spent, panel.prices, share=panel.judging.price_share)
        print("Responses that are not there yet are counted as long as the data file's own. Without the audit's.")
    else:
        print("judging: asks nobody over a network" if found.records else "judging: not estimated: no data here")


def disk(plan: Plan, found: Found, jobs: int) -> int:
    """The most bytes that the remaining steps will take at one time."""
    largest = max(found.training.values(), key=lambda each: each.trained, default=Training(0, 0, 0))
    # Predictions and verdicts hold the data file's texts, and responses of about the same length.
    texts = sum(Path(plan.data, name).stat().st_size for name in found.records)
    count = {step: len(plan.left(step)) for step in ("infer_val", "unlearn", *plan.steps)}
    adapters = [found.training.get(run.method, largest).trained for run in plan.left("unlearn")]
    audited = count.get("audit", 0)
    needed = 4 * texts * count["infer_val"] + (sum(adapters) + audited * largest.trained * AUDITED) * ADAPTER
    needed += jobs * largest.trained * CHECKPOINT * CHECKPOINTS_AT_ONCE * bool(adapters)
    merging = audited or (count.get("specificity") and plan.specificity_check)
    return needed + (jobs * largest.frozen * BASE if merging else 0)


def size(count: float) -> str:
    """Bytes in the unit that fits."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def is_here(model_path: str) -> bool:
    """Whether a model's weights are on this machine: in a folder, or in the hub's cache."""
    names = ("model.safetensors", "model.safetensors.index.json")
    if Path(model_path).is_dir():
        return any((Path(model_path) / name).is_file() for name in names)
    return any(isinstance(try_to_load_from_cache(model_path, name), str) for name in names)
