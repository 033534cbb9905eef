"""Find faults before anything else starts: in data, settings and the judge's key, and training that does not fit."""

import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from plan import PASSED, VANILLA, Plan

from safeeraser.benchmark.check import check_folder
from safeeraser.benchmark.records import Record
from safeeraser.errors import BadInput
from safeeraser.infer.options import arguments as infer_arguments
from safeeraser.judge.panel import Panel
from safeeraser.score.options import Options as ScoreOptions
from safeeraser.score.options import arguments as score_arguments
from safeeraser.score.options import options_of as score_options

KNOWING = "truth"  # the judge that reads the data
LACKS_MODEL = "cannot be had from the hub"  # forget.py's words if it counts without a model
SHOWN = 5  # printed faults of the data


class Training(NamedTuple):
    """The counts of forget.py's dry run of a method: items of its plan, trained and frozen parameters."""

    items: int
    trained: int
    frozen: int


@dataclass
class Found:
    """The faults, and the records and counts that the checks have read."""

    faults: list[str] = field(default_factory=list)
    records: dict[str, list[Record]] = field(default_factory=dict)  # by the data file's name
    training: dict[str, Training] = field(default_factory=dict)  # by method


def find_faults(plan: Plan) -> Found:
    """Find everything that is wrong with data and settings, not only the first fault."""
    report = Found()
    report.records, faults = check_folder(Path(plan.data))
    report.faults += faults[:SHOWN]
    if len(faults) > SHOWN:
        more = f"{len(faults) - SHOWN} more faults; python -m safeeraser.benchmark.check {plan.data} lists them"
        report.faults.append(f"{plan.data}: {more}")
    if not faults and any(plan.left("unlearn")):
        report.faults += check_trainings(plan, report)
    if plan.specificity_check and plan.left("specificity"):
        with tempfile.TemporaryDirectory() as scratch:
            done = bash(f"RUN={scratch}; {plan.measures['specificity']} {plan.specificity_check}")
        report.faults += [f"specificity: {last_error(done)}"] if done.returncode not in PASSED else []
    return report


def scoring(plan: Plan, predictions: str, reference: str) -> ScoreOptions:
    """The options with which predictions are scored; their outputs are never written. Raises `BadInput`."""
    words = [f"--input_file={predictions}", f"--file_refer={reference}", "--summary=unwritten", f"--judge={plan.judge}"]
    return score_options(vars(score_arguments().parse_args([*words, *shlex.split(plan.score_options)])))


def options_at_fault(plan: Plan, *, dry_run: bool = False) -> list[str]:
    """The faults in the methods' config files and in the options for answering and judging. A missing key for the judge
    is a fault too, unless it is a `dry_run`, which asks no judge."""
    faults = []
    for method in dict.fromkeys(run.method for run in plan.runs.values() if run.method != VANILLA):
        try:
            plan.settings(method)
        except BadInput as error:
            faults.append(f"{method}: {error}")
    try:
        infer_arguments().parse_args(["--output_file=there", *shlex.split(plan.infer_options)])
    except BadInput as error:
        faults.append(f"ckpt_infer.py: {error}")
    try:
        options = scoring(plan, "predictions", f"{plan.data}/all_val.json")
        if options.judging.judge.name != KNOWING or Path(plan.data).is_dir():
            Panel(replace(options.judging, dry_run=dry_run))
    except BadInput as error:
        faults.append(f"eval_all.py: {error}")
    return faults


def check_trainings(plan: Plan, report: Found) -> Iterator[str]:
    """Have forget.py check each method's settings and count for `report`. Yields the faults that it finds."""
    todo = plan.left("unlearn")
    methods = ",".join(dict.fromkeys(run.method for run in todo))
    engine = f"engine={shlex.quote(plan.engine)}" if plan.engine else ""
    with tempfile.TemporaryDirectory() as scratch:
        asked = f"dry_run=true save_dir={scratch}/none hydra.sweep.dir={scratch} {engine} --multirun"
        done = bash(f"python {plan.unlearn(methods, todo[0].seed)} {asked}")
    if done.returncode:
        yield f"forget.py: {last_error(done)}"
    if LACKS_MODEL in done.stdout + done.stderr:
        yield f"{plan.model_path}: is not here and cannot be had from the hub"
    for shown in done.stdout.split("Dry run: ")[1:]:
        method = shown.partition(",")[0]
        items = re.search(r"^ *items of the plan +([\d,]+)", shown, re.MULTILINE)
        total = re.search(r"^ *total +([\d,]+) +([\d,]+) *$", shown, re.MULTILINE)
        if items and total:
            counts = (items[1], total[1], total[2])
            report.training[method] = Training(*(int(count.replace(",", "")) for count in counts))
        yield from (f"{method}: {line}" for line in shown.splitlines() if line.startswith("It does not fit"))


def bash(line: str) -> subprocess.CompletedProcess[str]:
    """Run a command line and capture its output."""
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True)


def last_error(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of a failed command's errors, or else its exit code."""
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return lines[-1].removeprefix("error: ")
