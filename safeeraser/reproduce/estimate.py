"""What the rest takes: hours, by a measured minute; the judge's calls, tokens and dollars, by the length of texts."""

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from safeeraser.benchmark.files import CONFIG, run_of
from safeeraser.benchmark.methods import PD, WITH_REFERENCE
from safeeraser.benchmark.metrics import SPLITS
from safeeraser.benchmark.pages import read_keys
from safeeraser.benchmark.records import read_records
from safeeraser.benchmark.responses import RELEASED, VIEWS
from safeeraser.judge.judge import Spent
from safeeraser.judge.panel import Panel
from safeeraser.reproduce.check import Found, is_here, left, scoring
from safeeraser.reproduce.options import OPTIONAL, Options
from safeeraser.reproduce.steps import Run, Step
from safeeraser.score.asking import imagine_queries, read

BUDGET = 60.0  # seconds of measuring after which no further piece is begun
LONGEST = 600.0  # seconds that a piece may take
NO_DATA = "not measured: no data here"
NO_WEIGHTS = "not measured: no weights here"
AMISS = "not measured: first what is wrong"


@dataclass(frozen=True)
class Effort:
    """What a part of the work takes: so many things, at so many a second. `why`: how it is known, or why it is not."""

    what: str
    things: int | None
    speed: float | None
    why: str

    @property
    def hours(self) -> float | None:
        """Of one job, all its processes at work."""
        return self.things / self.speed / 3600 if self.things is not None and self.speed else None


def efforts(options: Options, runs: Sequence[Run], found: Found) -> list[Effort]:
    """What each part of the work that is left takes. Trains and answers a little, into a folder that is removed."""
    steps = list(left(runs))
    reason = NO_DATA if not found.records else AMISS if found.problems else ""
    if found.records and not is_here(options.model_path):
        reason = NO_WEIGHTS
    with tempfile.TemporaryDirectory() as folder:
        told = list(trained(options, steps, found, Path(folder), reason))
        told += answered(options, steps, found, Path(folder), reason)
    for name in (*OPTIONAL, *options.settings.checks):
        if count := sum(step.name == name for _, step in steps):
            told.append(Effort(f"{name}, {count} runs", None, None, "not measured"))
    return told


def trained(
    options: Options, steps: Sequence[tuple[Run, Step]], found: Found, folder: Path, reason: str
) -> Iterator[Effort]:
    """Unlearning by each method. Methods of a kind take the same; one of a kind that time is too short for is told by
    the rows of another."""
    todo = [(run, step) for run, step in steps if step.name == "unlearn"]
    methods = sorted({run.method for run, _ in todo}, key=kind, reverse=True)
    speeds: dict[tuple[int, bool], float] = {}
    began, why = time.monotonic(), {}
    for method in methods:
        how = kind(method)
        if not reason and how not in speeds and (not speeds or time.monotonic() - began < BUDGET):
            step = next(step for run, step in todo if run.method == method)
            if speed := train_a_little(options, step, folder / method):
                speeds[how], why[how] = speed, f"measured, {method}"
        if not reason and how not in speeds and speeds:
            near = min(speeds, key=lambda other: abs(other[0] - how[0]))
            speeds[how], why[how] = speeds[near] * near[0] / how[0], f"by its {how[0]} views; {why[near]}"
        count = sum(run.method == method for run, _ in todo)
        items = found.training[method].items * count if method in found.training else None
        title = f"unlearn {method}" + (f", {count} seeds" if count > 1 else "")
        yield Effort(title, items, speeds.get(how), why.get(how, reason or "not measured: its short run failed"))


def kind(method: str) -> tuple[int, bool]:
    """What the time of an item depends on: how many views are read, and whether there is a reference to run."""
    terms = read_keys(CONFIG / "forget_loss" / f"{method.removesuffix(PD)}.yaml")["terms"].values()
    views = {view for term in terms for view in term["views"]} | ({"decoupled"} if method.endswith(PD) else set())
    return len(views), any(term["loss"] in WITH_REFERENCE for term in terms)


def train_a_little(options: Options, step: Step, folder: Path) -> float | None:
    """Items of the plan a second."""
    call = [*step.call(folder), "save_steps=0", "save_model=false", *options.settings.measured_forget.split()]
    ended = run_briefly(call, options)
    sittings = run_of(folder).get("sittings") if ended is not None and folder.is_dir() else None
    return sittings[-1].get("items_per_second") if sittings else None


def answered(
    options: Options, steps: Sequence[tuple[Run, Step]], found: Found, folder: Path, reason: str
) -> Iterator[Effort]:
    """Inference on all runs that are left."""
    todo = [step for _, step in steps if step.name.startswith("infer_")]
    if not todo:
        return
    counts = {split: responses(found, split) for split in SPLITS}
    things = sum(counts[step.name.removeprefix("infer_")] for step in todo) if found.records else None
    speed = None
    if not reason:
        adapters = ("--checkpoint_path=", "--loss_type=")
        words = [word for word in todo[0].call(folder) if not word.startswith(adapters)]
        ended = run_briefly([*words, *options.settings.measured_infer.split()], options)
        rates = re.findall(r"responses(?: of process \d+ of (\d+))?, ([\d.]+) a second", ended or "")
        speed = float(rates[-1][1]) * int(rates[-1][0] or 1) if rates else None
        reason = "measured, untouched model" if speed else "not measured: its short run failed"
    yield Effort(f"infer, {len(todo)} files", things, speed, reason)


def responses(found: Found, split: str) -> int:
    """How many responses are wanted of a split."""
    fields = {view: len(VIEWS[view].fields) for view in RELEASED}
    records = found.records.get(f"all_{split}.json", [])
    harmful = sum(len(record.unsafe_pairs) for record in records) * (fields["forget"] + fields["decoupled"])
    return harmful + sum(len(record.unharm) for record in records) * fields["retain"]


def run_briefly(call: list[str], options: Options) -> str | None:
    """What a command printed; None if it failed."""
    try:
        done = subprocess.run(call, capture_output=True, text=True, env=options.environment, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout + done.stderr if done.returncode == 0 else None


def on_gpus() -> bool:
    """Whether there are GPUs here, by their driver's own program."""
    return bool(shutil.which("nvidia-smi"))


def judging(runs: Sequence[Run], found: Found) -> tuple[list[tuple[str, str, Spent]], Panel | None]:
    """What scoring takes that is left: metric, judge, and how much; and the judges, if any is asked over a network.

    Where no responses are there yet, those that the data file holds stand for them.
    """
    plan: list[tuple[str, str, Spent]] = []
    panel = None
    for split in SPLITS if found.records else ():
        todo = [run for run, step in left(runs) if step.name == f"score_{split}"]
        asked = [scoring(run, split, dry_run=True) for run in todo]
        if asked and panel is None:
            with redirect_stderr(StringIO()):  # it has said what must be known when all was checked
                panel = Panel(asked[0].judging)
        if not panel or not panel.served:
            continue
        there = [options for options in asked if options.input_file.is_file()]
        for options in there:
            plan += panel.foresee(read(options).queries)
        if imagined := len(asked) - len(there):
            data = read_records(asked[0].file_refer)
            queries = imagine_queries(data, asked[0].refusals)
            plan += list(panel.foresee(queries)) * imagined
    return plan, panel if panel and panel.served else None
