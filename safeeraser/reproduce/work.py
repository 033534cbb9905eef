"""Taking runs through their steps, together with whatever other processes are at the same folder."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO

from safeeraser.benchmark.files import Busy, make_room_for
from safeeraser.errors import BadInput
from safeeraser.reproduce.marks import (
    LACKING,
    Mark,
    alone,
    begin,
    log_of,
    made_otherwise,
    mark_of,
    passed,
    read_mark,
    write_mark,
)
from safeeraser.reproduce.options import Options
from safeeraser.reproduce.steps import Run, Step

WAIT = 2.0  # seconds before looking again at what others are at
LOOK = 0.2  # seconds between looks at a command, and at whether to stop
PATIENCE = 60.0  # seconds that a command has to end once it is told to


class Stopped(Exception):
    """This process was told to end."""


class Worker:
    """One process's part of the work: `jobs` threads, each with its share of the GPUs.

    Attributes:
        stop: is set when all is to end.
        faults: of runs that cannot go on, by name; their steps' own failures stand in the marks.
    """

    def __init__(self, options: Options, runs: list[Run]) -> None:
        self.options, self.runs = options, runs
        self.stop, self.signal = threading.Event(), 0
        self.faults: dict[str, str] = {}
        self.told: set[str] = set()
        self.own, self.choosing = set[str](), threading.Lock()  # runs that a job of this process is at
        # What had failed before this process began is tried again, what another has failed at since is not.
        self.before = {(run.name, step.name): read_mark(run, step) for run in runs for step in run.steps}

    def work(self) -> None:
        """Do all there is to do, and wait for what others are at. Raises `Stopped`."""
        shares = gpu_shares(at_once(self.options, self.runs))
        jobs = [threading.Thread(target=self._turns, args=(gpus,)) for gpus in shares]
        for job in jobs:
            job.start()
        for job in jobs:
            while job.is_alive():
                job.join(LOOK)  # a signal is only heeded between
        if self.stop.is_set():
            raise Stopped

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Ctrl-C and a polite kill end what was started too."""

        def heed(number: int, _frame: object) -> None:
            self.signal = number
            self.stop.set()

        before = {number: signal.signal(number, heed) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _turns(self, gpus: str | None) -> None:
        left = self.runs
        while left and not self.stop.is_set():
            left = [run for run in left if self.stop.is_set() or not self._turn(run, gpus)]
            if left:
                self.stop.wait(WAIT)

    def _turn(self, run: Run, gpus: str | None) -> bool:
        """Take a run as far as it goes; whether that was done, and nobody else is at it."""
        with self.choosing:
            if run.name in self.own:
                return False
            self.own.add(run.name)
        try:
            with alone(run.marks, run.name) as handle:
                self.told.discard(run.name)
                self._advance(run, handle, gpus)
        except Busy:
            if run.name not in self.told:
                self.told.add(run.name)
                say(f"[{run.name}] another job is at it")
            return False
        except Stopped:
            return False
        except BadInput as error:
            self.faults[run.name] = str(error)
        except Exception as error:  # a fault of this program: the job still has other runs to take
            traceback.print_exc()
            self.faults[run.name] = f"{run.name}: {type(error).__name__}: {error}"
        finally:
            self.own.discard(run.name)
        return True

    def _advance(self, run: Run, handle: int, gpus: str | None) -> None:
        """Take a run through the steps that are left, up to one that fails."""
        for number, step in enumerate(run.steps):
            mark = read_mark(run, step)
            if mark and not self._again(run, step, mark):
                if other := made_otherwise(run, step, mark, self.options.data_hashes):
                    raise BadInput(other)
                if not passed(mark):
                    return
                continue
            # What rests on a step that is done anew is done anew as well; the commands keep what is still good. The
            # last one's mark goes first: whatever a kill leaves, no step is through that rests on one that is not.
            for later in reversed(run.steps[number : number + 1 if step.leaf else None]):
                mark_of(run, later).unlink(missing_ok=True)
            if not passed(self._do(run, step, handle, gpus)):
                return

    def _again(self, run: Run, step: Step, mark: Mark) -> bool:
        """Whether a step that has ended is to be tried again: once by each process that saw it end so as it began."""
        seen = self.before[run.name, step.name] == mark
        return seen and (not passed(mark) or (self.options.retry and mark["exit_code"] == LACKING))

    def _do(self, run: Run, step: Step, handle: int, gpus: str | None) -> Mark:
        log, began = log_of(run, step), time.time()
        begin(run, step)
        say(f"[{run.name}] {step.name} ... (log: {log})")
        environment = self.options.environment | ({"CUDA_VISIBLE_DEVICES": gpus} if gpus is not None else {})
        earlier = written(run, step)
        code = execute(step.call(run.folder), log, environment, handle, self.stop)
        if code == 1 and written(run, step) not in (None, earlier):
            code = LACKING  # the launcher's own word for it
        if step.name == "unlearn" and code == 0:
            clear_up(run.folder, self.options)
        mark = write_mark(run, step, self.options.data_hashes, code, began)
        say(f"[{run.name}] {step.name}: {ended(code)} ({time.time() - began:.0f} s)")
        return mark


def written(run: Run, step: Step) -> tuple[int, int] | None:
    """By what it is known again whether the step has written its result; the clock of a network disk is another one.
    None: it is not there, or the step's exit code tells all."""
    with suppress(OSError):
        if step.result:
            there = (run.folder / step.result).stat()
            return there.st_ino, there.st_mtime_ns
    return None


def execute(call: list[str], log: Path | None, environment: dict[str, str], handle: int, stop: threading.Event) -> int:
    """Run a command, with its output added to `log` or shown; it holds `handle` too. Returns its exit code.

    Raises:
        Stopped: `stop` was set meanwhile; the command and all it has started are ended then.
        BadInput: the log cannot be written, or the command not started.
    """
    with open_log(log) as output:
        try:
            process = subprocess.Popen(
                call,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output and subprocess.STDOUT,
                env=environment,
                pass_fds=(handle,),
                start_new_session=True,  # a Ctrl-C is for this process, which passes it on in its own way
            )
        except OSError as error:  # no memory is left, say
            raise BadInput(f"{call[0]}: cannot be started ({error.strerror})") from None
        while process.poll() is None:
            if stop.is_set():
                end(process)
                raise Stopped
            with suppress(subprocess.TimeoutExpired):
                process.wait(LOOK)
    return process.returncode


def open_log(log: Path | None) -> AbstractContextManager[IO[bytes] | None]:
    """A log to add to, with the time in it; None leaves a command's output where this one's goes."""
    if log is None:
        return nullcontext()
    make_room_for(log)
    try:
        output = open(log, "ab", buffering=0)  # noqa: SIM115 -- whoever asked closes it
        output.write(f"== {time.strftime('%Y-%m-%d %H:%M:%S')} on {os.uname().nodename}\n".encode())
    except OSError as error:
        raise BadInput(f"{log}: cannot be written ({error.strerror})") from None
    return output


def end(process: subprocess.Popen) -> None:
    """End a command and what it has started: politely first, as some have children of other sessions to end."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)


def clear_up(folder: Path, options: Options) -> None:
    """Remove the checkpoints of a training that is through: they are several times the adapter. Those that somebody
    asked for stay."""
    if not any(word.startswith("save_steps=") for word in options.more["forget"]):
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint, ignore_errors=True)


def ended(code: int) -> str:
    """An exit code in words."""
    if code in (0, LACKING):
        return "done, but something is lacking" if code else "done"
    return f"failed (exit code {code})" if code > 0 else f"failed ({signal.Signals(-code).name})"


def wait_for(folder: Path, name: str, act: Callable[[int], None], stop: threading.Event) -> None:
    """Call `act` with the handle as soon as nobody else is at what `folder` stands for. Raises `Stopped`."""
    told = False
    while True:
        try:
            with alone(folder, name) as handle:
                return act(handle)
        except Busy:
            if not told:
                say(f"waiting: another process is at {name}")
            told = True
        if stop.wait(WAIT):
            raise Stopped


def at_once(options: Options, runs: Sequence[Run]) -> int:
    """How many runs are worked on at a time."""
    return min(options.jobs, len(runs))


def gpu_shares(jobs: int) -> list[str | None]:
    """`CUDA_VISIBLE_DEVICES` of each job; None leaves it as it is: for one job, or where there is no GPU."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None and shutil.which("nvidia-smi"):
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True
        )
        given = ",".join(asked.stdout.split()) if asked.returncode == 0 else ""
    cards = [card.strip() for card in (given or "").split(",") if card.strip()]
    if jobs == 1 or not cards:
        return [None] * jobs
    return [",".join(cards[job % len(cards) :: jobs]) for job in range(jobs)]


def say(line: str) -> None:
    """A line on stdout, whole, at once: several jobs talk."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
