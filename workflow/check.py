"""What can be wrong, found out before anything begins: data, keys, settings, memory, disk, earlier results."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import get_token
from plan import PASSED, VANILLA, Plan, Run, Words, hashes

from safeeraser.benchmark.check import FILES, check_folder
from safeeraser.benchmark.files import read_object
from safeeraser.benchmark.records import Record
from safeeraser.errors import BadInput
from safeeraser.infer.command_line import arguments as infer_arguments
from safeeraser.judge.panel import Panel
from safeeraser.score.command_line import arguments as score_arguments
from safeeraser.score.command_line import options_of as score_options

KNOWING = "truth"  # the judge that looks into the data
LACKS_MODEL = "cannot be had from the hub"  # forget.py's words where it counts without a model
NOT_SET_UP = "lmms-eval is not there yet"  # words of the step specificity that is told only to check
SHOWN = 5  # faults of the data that are told
# Bytes a trained parameter: of an adapter in float32; of a checkpoint, with Adam's two moments and a master copy.
ADAPTER, CHECKPOINT, CHECKPOINTS_AT_ONCE = 4, 16, 3
BASE = 2  # bytes a parameter of a merged model, which specificity is measured on, and relearning begins with
AUDITED = 77  # adapters that an audit keeps: seven steps of eleven trainings (config/relearn.yaml)


@dataclass
class Found:
    """What is wrong, and what was learned by looking."""

    problems: list[str] = field(default_factory=list)
    records: dict[str, list[Record]] = field(default_factory=dict)  # by the data file's name
    training: dict[str, tuple[int, int, int]] = field(default_factory=dict)  # items, trained, frozen, by method
    disk: int = 0  # bytes that are still needed, about


def mark_of(plan: Plan, run: str, step: str) -> Path:
    """Where it stands that a step is through."""
    return Path(str(plan.out), "steps", run, f"{step}.done")


def left(plan: Plan) -> Iterator[tuple[Run, str, Words]]:
    """The steps that are not through yet, with their commands; what went with a run's folder is to be made anew."""
    for run in plan.runs.values():
        for step, words in plan.commands(run).items():
            if not mark_of(plan, run.name, step).is_file() or not Path(str(plan.out), run.name).is_dir():
                yield run, step, words


def words_amiss(plan: Plan, *, with_data: bool) -> list[str]:
    """What the commands that answer and judge would refuse of their options: names, values, a key that is missing.

    with_data: the data are there, which one judge looks into.
    """
    steps = {step: (run, words) for run, step, words in left(plan)}
    found = []
    for name, parse in (("infer_val", infer_arguments), ("score_val", score_arguments)):
        if name in steps:
            run, words = steps[name]
            try:
                given = vars(parse().parse_args(filled(plan, run, words)[2:]))
                if name == "score_val" and (with_data or given["judge"].name != KNOWING):
                    Panel(score_options(given).judging)
            except BadInput as error:
                found.append(f"{words[1]}: {error}")
    return found


def filled(plan: Plan, run: Run, words: Words) -> list[str]:
    """A command with the run's folder in it."""
    return [word.replace("{run}", str(Path(str(plan.out), run.name))) for word in words]


def look(plan: Plan, cards: int) -> Found:
    """Find everything that is wrong, not only the first. `cards`: GPUs that the steps share; 0 where none are."""
    found = Found()
    found.records, faults = check_folder(Path(plan.data))
    found.problems += faults[:SHOWN]
    if len(faults) > SHOWN:
        more = f"{len(faults) - SHOWN} more faults; python -m safeeraser.benchmark.check {plan.data} lists them"
        found.problems.append(f"{plan.data}: {more}")
    if len(found.records) == len(FILES):
        found.problems += finished_otherwise(plan)
    found.problems += words_amiss(plan, with_data=True)
    if not faults:
        found.problems += trainings(plan, found)
    if plan.specificity_check and any(step == "specificity" for _, step, _ in left(plan)):
        found.problems += specificity_amiss(plan)
    if 0 < cards < plan.processes:
        found.problems.append(f"the engine {plan.engine} wants {plan.processes} GPUs, and here are {cards}")
    found.disk = disk(plan, found)
    there = next(path for path in Path(str(plan.out), "run").absolute().parents if path.is_dir())
    if found.disk > (free := shutil.disk_usage(there).free):
        found.problems.append(f"{plan.out}: needs about {size(found.disk)} of disk, and {size(free)} are free")
    return found


def finished_otherwise(plan: Plan) -> Iterator[str]:
    """Steps that were finished with other words, or on other data; of each run the first."""
    data = hashes(plan.data)
    to_do = {(run.name, step) for run, step, _ in left(plan)}
    for run in plan.runs.values():
        for step, words in plan.commands(run).items():
            if (run.name, step) in to_do:
                continue
            mark = read_object(file := mark_of(plan, run.name, step))
            changed = [name for name in data if mark["data"].get(name) != data[name]]
            if mark["command"] != [*words]:
                gone = " ".join(word for word in mark["command"] if word not in words) or "other words"
                come = " ".join(word for word in words if word not in mark["command"]) or "none of them"
                told = f"with {gone}, and is now to be done with {come}"
            elif changed:
                told = f"on other data ({', '.join(changed)})"
            else:
                continue
            rest = f"name another --out, or move {file} and what it stands for away"
            yield f"{plan.out}/{run.name}: {step} was finished {told}; {rest}"
            break


def trainings(plan: Plan, found: Found) -> Iterator[str]:
    """Have forget.py check the settings of each method that is still to be trained; what it finds."""
    todo = {run.method: filled(plan, run, words) for run, step, words in left(plan) if step == "unlearn"}
    if not todo:
        return
    words = next(iter(todo.values()))
    words = [word for word in words[words.index("forget.py") :] if not word.startswith(("forget_loss=", "save_dir="))]
    words += [f"forget_loss={','.join(todo)}", "dry_run=true", *([f"engine={plan.engine}"] if plan.engine else [])]
    with tempfile.TemporaryDirectory() as scratch:
        words += [f"save_dir={scratch}/none", f"hydra.sweep.dir={scratch}", "--multirun"]
        done = subprocess.run(["python", *words], capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        yield f"forget.py: {lines[-1].removeprefix('error: ')}"
    if LACKS_MODEL in done.stdout + done.stderr:
        yield f"{plan.model_path}: is not here and cannot be had from the hub"
    for told in done.stdout.split("Dry run: ")[1:]:
        method = told.partition(",")[0]
        items = re.search(r"^ *items of the plan +([\d,]+)", told, re.MULTILINE)
        total = re.search(r"^ *total +([\d,]+) +([\d,]+) *$", told, re.MULTILINE)
        counts = (items[1], total[1], total[2]) if items and total else ()
        found.training[method] = tuple(int(count.replace(",", "")) for count in counts)
        yield from (f"{method}: {line}" for line in told.splitlines() if line.startswith("It does not fit"))


def specificity_amiss(plan: Plan) -> Iterator[str]:
    """What the step finds itself where it is told only to check; of the untouched model, as no adapter is there yet."""
    run = Run(VANILLA, VANILLA, 0)
    words = filled(plan, run, (*plan.measure("specificity"), str(plan.specificity_check)))
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode not in PASSED:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        yield f"specificity: {lines[-1].removeprefix('error: ')}"
    elif NOT_SET_UP in done.stdout and not get_token():  # else it has looked for the token itself
        yield "specificity: no hub token, which six of the seven data sets want: set HF_TOKEN, or `hf auth login`"


def disk(plan: Plan, found: Found) -> int:
    """Bytes that the steps still to be done will take, at the most at once."""
    names = [(run.method, step) for run, step, _ in left(plan)]
    _, trained, frozen = largest = max(found.training.values(), key=lambda each: each[1], default=(0, 0, 0))
    # Predictions and verdicts hold the data file's texts and the responses, each about as long.
    texts = sum(Path(plan.data, name).stat().st_size for name in found.records)
    count = {kind: sum(step == kind for _, step in names) for kind in ("infer_val", "unlearn", "audit", "specificity")}
    adapters = sum(found.training.get(method, largest)[1] for method, step in names if step == "unlearn")
    needed = 4 * texts * count["infer_val"] + (adapters + count["audit"] * trained * AUDITED) * ADAPTER
    jobs = min(plan.jobs or 1, len(plan.runs))
    needed += jobs * trained * CHECKPOINT * CHECKPOINTS_AT_ONCE * bool(count["unlearn"])
    merging = count["audit"] or (count["specificity"] and plan.specificity_check)
    return needed + (jobs * frozen * BASE if merging else 0)


def size(count: float) -> str:
    """Bytes in the unit that fits."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
