"""What can be wrong, found out before anything is begun: data, keys, settings, memory, disk, earlier results."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import get_token, try_to_load_from_cache

from safeeraser.benchmark.check import FILES, check_folder
from safeeraser.benchmark.records import Record
from safeeraser.errors import BadInput
from safeeraser.infer.options import arguments as infer_arguments
from safeeraser.judge.panel import Panel
from safeeraser.reproduce.marks import PASSED, made_otherwise, passed, read_mark
from safeeraser.reproduce.options import Options
from safeeraser.reproduce.steps import Run, Step, called
from safeeraser.reproduce.work import at_once, gpu_shares
from safeeraser.score.options import Options as ScoreOptions
from safeeraser.score.options import arguments as score_arguments
from safeeraser.score.options import options_of as score_options

KNOWING = "truth"  # the judge that looks into the data
LACKS_MODEL = "cannot be had from the hub"  # forget.py's words where it counts without a model
NOT_SET_UP = "lmms-eval is not there yet"  # words of the step specificity that is told only to check
SHOWN = 5  # faults of the data that are told
# Bytes a trained parameter: of an adapter in float32; of a checkpoint, with Adam's two moments and a master copy.
ADAPTER, CHECKPOINT, CHECKPOINTS_AT_ONCE = 4, 16, 3
BASE = 2  # bytes a parameter of a merged model, which specificity is measured on, and relearning begins with
AUDITED = 77  # adapters that an audit keeps: seven steps of eleven trainings (config/relearn.yaml)


@dataclass(frozen=True)
class Training:
    """What forget.py's dry run tells of a method: items of its plan, trained and frozen parameters."""

    items: int
    trained: int
    frozen: int


@dataclass
class Found:
    """What is wrong, and what was learned by looking."""

    problems: list[str] = field(default_factory=list)
    records: dict[str, list[Record]] = field(default_factory=dict)  # by the data file's name
    training: dict[str, Training] = field(default_factory=dict)  # by method
    disk: int = 0  # bytes that are still needed, about


def look(options: Options, runs: Sequence[Run]) -> Found:
    """Find everything that is wrong, not only the first."""
    found = Found()
    found.records, faults = check_folder(options.data)
    found.problems += faults[:SHOWN]
    if len(faults) > SHOWN:
        more = f"{len(faults) - SHOWN} more faults; python -m safeeraser.benchmark.check {options.data} lists them"
        found.problems.append(f"{options.data}: {more}")
    if not any(fault.startswith(str(options.data / name)) for name in FILES for fault in faults):
        found.problems += finished_otherwise(options, runs)
    steps = by_name(runs)
    found.problems += asked_amiss(runs)
    if not faults:
        found.problems += list(trainings(options, runs, found))
    if "specificity" in steps and options.settings.specificity_check:
        found.problems += list(specificity_at_fault(options, *steps["specificity"]))
    found.problems += jobs_at_fault(options, runs)
    found.disk = disk(options, runs, found)
    there = next(path for path in (options.out.absolute(), *options.out.absolute().parents) if path.is_dir())
    if found.disk > (free := shutil.disk_usage(there).free):
        found.problems.append(f"{options.out}: needs about {size(found.disk)} of disk, and {size(free)} are free")
    return found


def by_name(runs: Sequence[Run]) -> dict[str, tuple[Run, Step]]:
    """Of the steps that are left, the first of each name."""
    return {step.name: (run, step) for run, step in reversed([*left(runs)])}


def left(runs: Sequence[Run]) -> Iterator[tuple[Run, Step]]:
    """The steps that are not through yet, the first run's first."""
    for run in runs:
        for step in run.steps:
            if not passed(read_mark(run, step)):
                yield run, step


def finished_otherwise(options: Options, runs: Sequence[Run]) -> list[str]:
    """Steps that were finished with other settings, or on other data; of each run the first."""
    found = []
    for run in runs:
        reasons = (made_otherwise(run, step, read_mark(run, step), options.data_hashes) for step in run.steps)
        found += [reason for reason in reasons if reason][:1]
    return found


def asked_amiss(runs: Sequence[Run], *, with_data: bool = True) -> list[str]:
    """What the commands that answer and judge would refuse of their options: names, values, a key that is missing.

    with_data: the data are there, which one judge looks into.
    """
    steps, found = by_name(runs), []
    for name, parse in (("infer_val", infer_arguments), ("score_val", score_arguments)):
        if name in steps:
            run, step = steps[name]
            try:
                given = vars(parse().parse_args(step.options(run.folder)))
                if name == "score_val" and (with_data or given["judge"].name != KNOWING):
                    Panel(score_options(given).judging)
            except BadInput as error:
                found.append(f"{step.words[1]}: {error}")
    return found


def scoring(run: Run, split: str, **more: Any) -> ScoreOptions:
    """How the run's responses of a split are to be judged."""
    step = next(step for step in run.steps if step.name == f"score_{split}")
    return score_options(vars(score_arguments().parse_args(step.options(run.folder))) | more)


def trainings(options: Options, runs: Sequence[Run], found: Found) -> Iterator[str]:
    """Have forget.py check the settings of each method that is still to be trained; what it finds."""
    todo = {run.method: step for run, step in left(runs) if step.name == "unlearn"}
    if not todo:
        return
    words = [word for word in next(iter(todo.values())).words if not word.startswith("forget_loss=")]
    words = ["python", *words[words.index("forget.py") :], f"forget_loss={','.join(todo)}"]
    engine = [f"engine={options.engine}"] if options.engine else []
    with tempfile.TemporaryDirectory() as left_by_hydra:
        sweep = (f"hydra.sweep.dir={left_by_hydra}", "--multirun")
        call = called([*words, "dry_run=true", *engine, *sweep], run=str(options.marks / "none"))
        done = subprocess.run(call, capture_output=True, text=True, env=options.environment)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        yield f"forget.py: {lines[-1].removeprefix('error: ')}"
    if LACKS_MODEL in done.stdout + done.stderr:
        yield f"{options.model_path}: is not here and cannot be had from the hub"
    for told in done.stdout.split("Dry run: ")[1:]:
        method = told.partition(",")[0]
        found.training[method] = read_training(told)
        yield from (f"{method}: {line}" for line in told.splitlines() if line.startswith("It does not fit"))


def read_training(told: str) -> Training:
    """What the tables of a dry run tell."""
    items = re.search(r"^ *items of the plan +([\d,]+)", told, re.MULTILINE)
    total = re.search(r"^ *total +([\d,]+) +([\d,]+) *$", told, re.MULTILINE)
    if not items or not total:
        raise ValueError("a dry run without its tables")
    return Training(*(int(count.replace(",", "")) for count in (items[1], total[1], total[2])))


def jobs_at_fault(options: Options, runs: Sequence[Run]) -> list[str]:
    """Whether the jobs leave each other too few GPUs for the engine."""
    jobs = at_once(options, runs)
    for share in gpu_shares(jobs):
        if share is not None and (cards := len(share.split(","))) < options.processes:
            wants = f"the engine {options.engine} wants {options.processes}"
            return [f"--jobs {jobs}: a job would have {cards} of the GPUs, and {wants}; ask for fewer jobs"]
    return []


def specificity_at_fault(options: Options, run: Run, step: Step) -> Iterator[str]:
    """What the step finds itself where it is told only to check; of the untouched model, as no adapter is there yet."""
    words = [word for word in step.words if not word.startswith("--checkpoint_path")]
    call = called([*words, str(options.settings.specificity_check)], run=str(run.folder))
    done = subprocess.run(call, capture_output=True, text=True, env=options.environment)
    if done.returncode not in PASSED:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        yield f"specificity: {lines[-1].removeprefix('error: ')}"
    elif NOT_SET_UP in done.stdout and not get_token():  # else it has looked for the token itself
        yield "specificity: no hub token, which six of the seven data sets want: set HF_TOKEN, or `hf auth login`"


def disk(options: Options, runs: Sequence[Run], found: Found) -> int:
    """Bytes that the steps still to be done will take, at the most at once."""
    names = [(run.method, step.name) for run, step in left(runs)]
    largest = max(found.training.values(), key=lambda one: one.trained, default=Training(0, 0, 0))
    # Predictions and verdicts hold the data file's texts and the responses, each about as long.
    texts = sum((options.data / name).stat().st_size for name in found.records)
    needed = 4 * texts * sum(name == "infer_val" for _, name in names)
    needed += sum(found.training.get(method, largest).trained for method, name in names if name == "unlearn") * ADAPTER
    jobs = at_once(options, runs)
    if any(name == "unlearn" for _, name in names):
        needed += jobs * largest.trained * CHECKPOINT * CHECKPOINTS_AT_ONCE
    needed += sum(name == "audit" for _, name in names) * largest.trained * ADAPTER * AUDITED
    merging = {"audit"} | ({"specificity"} if options.settings.specificity_check else set())
    if any(name in merging for _, name in names):
        needed += jobs * largest.frozen * BASE
    return needed


def size(count: float) -> str:
    """Bytes in the unit that fits."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def is_here(model_path: str) -> bool:
    """Whether a model's weights lie on this machine: in a folder, or in the hub's cache."""
    names = ("model.safetensors", "model.safetensors.index.json")
    if Path(model_path).is_dir():
        return any((Path(model_path) / name).is_file() for name in names)
    return any(isinstance(try_to_load_from_cache(model_path, name), str) for name in names)
