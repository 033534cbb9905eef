"""Run Snakemake on a folder of results: one command at a time, with signals, leftover processes and a final summary."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import psutil
from check import Found, find_faults, options_at_fault
from estimate import show_cost
from plan import LACKING, ROOT, Plan
from step import visible_gpus

from safeeraser.benchmark.files import held, make_room_for, read_object, write_json
from safeeraser.errors import BadInput, Interrupted, nearest

PROFILES, SNAKEFILE = ROOT / "workflow" / "profiles", ROOT / "workflow" / "Snakefile"
LOOK = 0.2  # seconds between checks for processes that a killed command left


class Workflow:
    """A plan, and how Snakemake is called for it; `words` are passed to Snakemake."""

    def __init__(self, plan: Plan, profile: str | None, words: list[str]) -> None:
        self.out, self.words, cards = Path(plan.out), words, len(visible_gpus())
        self.jobs = plan.jobs or os.cpu_count() or 1
        name = profile or ("gpus" if cards else "laptop")
        self.profile = PROFILES / name if (PROFILES / name).is_dir() else Path(name)
        if not self.profile.is_dir():
            raise BadInput(f"--profile {name}: no such folder; {nearest(name, [p.name for p in PROFILES.iterdir()])}")
        self.limits, share = [], plan.processes
        if name in ("laptop", "gpus"):  # one machine, whose GPUs the steps share
            self.limits = [f"--cores={self.jobs}", *([f"--resources=gpu={cards}"] if cards else [])]
            share = max(cards // self.jobs, plan.processes) if cards else 0
            if 0 < cards < plan.processes:
                raise BadInput(f"--accelerate_config {plan.engine}: needs {plan.processes} GPUs, and here are {cards}")
        self.plan = plan.model_copy(update={"gpu": share})
        os.environ.update(plan.environment)  # for the checks and measurements here

    def status(self) -> int:
        """Print which steps are done."""
        code, summary = self._ask("--summary", *self.words)
        print(summary, "\n".join(self.shortcomings()), sep="")
        return code

    def dry_run(self) -> int:
        """Print the steps that would run, and their cost. Returns exit code 2 if anything is wrong."""
        unbuilt = bool(self.plan.build) and not Path(self.plan.data).is_dir()
        print("looking at options, data and settings ...", flush=True)
        faults = options_at_fault(self.plan, dry_run=True)
        found = Found() if unbuilt else find_faults(self.plan)
        if code := refuse(faults + found.faults):
            return code
        print(self._ask(*self.words, "--dry-run", "--quiet", "rules", "host", "reason")[1])
        show_cost(self.plan, found, min(self.jobs, len(self.plan.runs)))
        if unbuilt:
            print(f"{self.plan.data}: the first step makes it")
        with redirect_stderr(StringIO()):  # it warned above already
            lacking = options_at_fault(self.plan)
        for line in lacking:
            print(f"note: without --dry_run this is refused: {line}", file=sys.stderr)
        return 0

    def work(self, *, retry: bool) -> int:
        """Run the remaining steps and make the report. Returns the exit code."""
        if code := refuse(options_at_fault(self.plan)):
            return code
        steps, data = self.out / "steps", Path(self.plan.data)
        make_room_for(steps / "config.json")
        with held(steps, str(self.out)):  # a second command is refused
            take_over(self.out)
            for mark in self.out.glob("steps/*/*.done"):
                gone = mark.parent.name in self.plan.runs and not (self.out / mark.parent.name).is_dir()
                if gone or (retry and read_object(mark)["exit_code"] == LACKING):
                    mark.unlink()
            build = steps / "data" / "build.done"
            if self.plan.build and not (data.is_dir() and build.is_file()):
                build.unlink(missing_ok=True)
                if self._run("steps/data/build.done"):
                    raise BadInput(f"{data}: could not be made: {last_words(build.with_suffix('.log'))}")
            if any(self.plan.left(step) for run in self.plan.runs.values() for step in self.plan.steps_of(run)):
                print("looking at data and settings ...", flush=True)
                if code := refuse(find_faults(self.plan).faults):
                    return code
            self.announce()
            code = self._run(*self.words)
            if code and [*self.out.glob("*/summary_*.json")]:  # other runs are reported even if a step failed
                published = ["--published"] * self.plan.published
                report = ["python", "-m", "safeeraser.report", str(self.out), f"--note={self.plan.note}"]
                subprocess.run([*report, *published])
        for line in self.shortcomings():
            print(f"error: {line}", file=sys.stderr)
        return 1 if code else LACKING if any(read_object(mark)["exit_code"] for mark in self._marks("done")) else 0

    def announce(self) -> None:
        """Print which finished steps run again, because their options or data have changed."""
        if [*self.out.glob("steps/*/*.done")]:
            jobs = re.split(r"\n(?=(?:local)?rule )", self._ask(*self.words, "--dry-run", "--quiet", "host")[1])
            for job in (job for job in jobs if "Params have changed" in job):
                for mark in re.findall(r"^ +output: (.*)$", job, re.MULTILINE):
                    print(f"again, since its options or data have changed: {mark}", flush=True)

    def _call(self, folder: Path, config: Path, *words: str) -> list[str]:
        write_json(config, self.plan.model_dump(mode="json"))
        call = ["python", "-m", "snakemake", f"--snakefile={SNAKEFILE}", f"--configfile={config}"]
        return [*call, f"--directory={folder}", f"--workflow-profile={self.profile}", *self.limits, *words]

    def _ask(self, *words: str) -> tuple[int, str]:
        """The exit code and output of a Snakemake call that changes nothing. The folder may not exist yet."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = self.out.absolute() if self.out.is_dir() else Path(scratch)
            call = self._call(folder, Path(scratch, "config.json"), "--nolock", *words)
            done = subprocess.run(call, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        return done.returncode, done.stdout

    def _run(self, *words: str) -> int:
        """Run Snakemake; returns its exit code. Ctrl-C and SIGTERM interrupt it and its steps, and raise an error."""
        folder = self.out.absolute()
        call, signals = self._call(folder, folder / "steps" / "config.json", *words), list[int]()
        process = subprocess.Popen(call, stdin=subprocess.DEVNULL, process_group=0)

        def interrupt(number: int, _frame: object) -> None:
            # The steps are in Snakemake's process group. Each ends with a checkpoint, or at once at the second signal.
            os.killpg(process.pid, signal.SIGKILL if signals else signal.SIGINT)
            signals.append(number)

        before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        code = process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
        if signals:
            raise Interrupted("interrupted; what was finished is kept, and the same command resumes", signals[0])
        return code

    def _marks(self, ending: str) -> list[Path]:
        """The existing marks, with this ending, of the plan's steps."""
        runs = self.plan.runs.values()
        marks = (self.plan.mark(run, step, ending) for run in runs for step in self.plan.steps_of(run))
        return [mark for mark in marks if mark.is_file()]

    def shortcomings(self) -> list[str]:
        """The steps that failed or that lack something, each with the end of its log."""
        failed = [(mark, "failed") for mark in self._marks("failed")]
        lacking = [(mark, "lacks something") for mark in self._marks("done") if read_object(mark)["exit_code"]]
        logs = [(mark.with_suffix(".log"), what) for mark, what in failed + lacking]
        return [f"{log.parent.name}: {log.stem} {what}: {last_words(log)} (log: {log})" for log, what in logs]


def refuse(faults: list[str]) -> int:
    """Print each fault on a line of its own. Returns exit code 2 if there are any, else 0."""
    for fault in faults:
        print("error: " + " ".join(fault.split()), file=sys.stderr)
    return 2 if faults else 0


def last_words(log: Path) -> str:
    """The errors that a command printed when it last ran, else the last line of its log."""
    *_, last = log.read_text(encoding="utf-8", errors="replace").strip().split("\n== ")
    errors = [line.removeprefix("error: ") for line in last.splitlines() if line.startswith("error: ")]
    return "; ".join(errors or last.splitlines()[-1:])[:600]


def take_over(out: Path) -> None:
    """Wait for the processes that a killed command left, then remove Snakemake's lock, which the command left too.

    Raises:
        BadInput: the lock is from another machine, whose processes cannot be seen from here.
    """
    locks, owner, host = out / ".snakemake" / "locks", out / "steps" / "host", os.uname().nodename
    if [*locks.glob("*")] and owner.is_file() and (other := owner.read_text()) != host:
        raise BadInput(f"{out}: a command on {other} is at work there; if it no longer is, remove {locks}")
    owner.write_text(host)
    if left := at_work(out):
        print(f"waiting: a killed command has left processes at work in {out}: {' '.join(map(str, left))}", flush=True)
    while at_work(out):
        time.sleep(LOOK)
    shutil.rmtree(locks, ignore_errors=True)


def at_work(out: Path) -> list[int]:
    """The ids of the processes on this machine, Snakemake's and its steps', that work on results in `out`."""
    lines = {each.pid: " ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"])}
    ours = {pid: line for pid, line in lines.items() if "workflow/step.py " in line or "-m snakemake " in line}
    return [pid for pid, line in ours.items() if f"{out.absolute()}/steps/" in line]
