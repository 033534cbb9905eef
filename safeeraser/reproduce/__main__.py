"""The paper's table from data to report: each method unlearned, answered, judged, and set beside the published figures.

  python -m safeeraser.reproduce --model llava-1.5-7b --methods "po popd" --seeds "233 1 2" --dry_run
  MODEL=mini bash scripts/reproduce.bash            (the same, with what it needs installed first)

Stopped at any moment, the same command goes on. Started several times on one folder, on one machine or on several with
a common disk, the processes share the runs. Exit code 1: a step failed, as listed; 3: something is lacking, as listed.
"""

import shlex
import sys
from collections.abc import Sequence

from safeeraser.benchmark.metrics import SPLITS
from safeeraser.errors import BadInput, command
from safeeraser.reproduce.check import Found, asked_amiss, left, look
from safeeraser.reproduce.marks import LACKING, passed, read_mark
from safeeraser.reproduce.options import Options, arguments, options_of
from safeeraser.reproduce.show import shortcomings, show_plan, show_price, show_status
from safeeraser.reproduce.steps import Run, called, runs_of
from safeeraser.reproduce.work import Stopped, Worker, execute, say, wait_for


@command
def main() -> int:
    """Read the command line; plan, tell, or work."""
    given = arguments(__doc__).parse_args()
    options = options_of(given)
    runs = runs_of(options)
    if given.status:
        show_status(runs)
        return 0
    if given.dry_run:
        return plan(options, runs)
    return reproduce(options, runs)


def plan(options: Options, runs: Sequence[Run]) -> int:
    """Print what would be done; what is wrong ends it with exit code 2."""
    unbuilt = options.settings.build and not options.data.is_dir()
    say("looking at options, data, memory and disk ...")
    found = Found(asked_amiss(runs, with_data=False)) if unbuilt else look(options, runs)
    code = refuse(found.problems)
    if found.records or unbuilt:
        show_plan(options, runs, found)
    if unbuilt:
        print(f"{options.data}: is made by the first step")
    return code


def reproduce(options: Options, runs: list[Run]) -> int:
    """Do what is left, and make the report. Returns the exit code."""
    worker = Worker(options, runs)
    with worker.signals():
        try:
            # What is wrong with the options is told before data are made, which takes minutes.
            if options.settings.build and (amiss := asked_amiss(runs, with_data=False)):
                return refuse(amiss)
            build(options, worker)
            say("looking at options, data, memory and disk ...")
            found = look(options, runs)
            if found.problems and not worker.stop.is_set():  # what is stopped is not at fault
                return refuse(found.problems)
            if any(left(runs)):
                show_price(runs, found)
            else:
                say(f"all that was asked for is finished, {len(runs)} runs; only the report is made again")
            worker.work()
            reported = report(options, runs, worker)
        except Stopped:
            print("error: interrupted; what was finished is kept, and the same command goes on", file=sys.stderr)
            return 128 + worker.signal
    return conclude(runs, worker.faults, reported)


def refuse(problems: Sequence[str]) -> int:
    """Tell what is wrong, a line each; 2 if anything is."""
    for problem in problems:
        print("error: " + " ".join(problem.split()), file=sys.stderr)
    return 2 if problems else 0


def build(options: Options, worker: Worker) -> None:
    """Have the data made, where the settings say by what, while others wait. Raises `BadInput` if that fails."""
    if not options.settings.build:
        return
    call = called([*shlex.split(options.settings.build), *options.more["build"]], data=str(options.data))
    lock = options.data.with_name(f".{options.data.name}")

    def make(handle: int) -> None:
        if code := execute(call, None, options.environment, handle, worker.stop):
            raise BadInput(f"{options.data}: could not be made (exit code {code})")

    wait_for(lock, str(options.data), make, worker.stop)


def report(options: Options, runs: Sequence[Run], worker: Worker) -> int:
    """Make the report of all runs that are scored, as each process does at its end; returns its exit code."""
    if not any((run.folder / f"summary_{split}.json").is_file() for run in runs for split in SPLITS):
        return 0
    call = called(["python", "-m", "safeeraser.report", str(options.out), f"--note={options.settings.note}"])
    call += ["--published"] if options.published else []
    codes = []

    def make(handle: int) -> None:
        codes.append(execute(call, None, options.environment, handle, worker.stop))

    wait_for(options.marks / "report", "the report", make, worker.stop)
    return codes[-1]


def conclude(runs: Sequence[Run], faults: dict[str, str], reported: int) -> int:
    """Say what failed and what is lacking; returns the exit code."""
    for line in (*shortcomings(runs), *faults.values()):
        print(f"error: {line}", file=sys.stderr)
    marks = [read_mark(run, step) for run in runs for step in run.steps]
    if faults or reported or not all(map(passed, marks)):
        return 1
    return LACKING if any(mark and mark["exit_code"] for mark in marks) else 0


if __name__ == "__main__":
    main()
