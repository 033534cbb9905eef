"""What is known of each step on disk: `OUT/steps/RUN/STEP.json`, its log beside it, and whose turn a run is."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safeeraser.benchmark.files import Busy, lock, make_room_for, read_object, write_json
from safeeraser.benchmark.origin import git_commit, now
from safeeraser.reproduce.steps import Run, Step

PASSED = (0, 3)  # exit codes: all is there; it is through, but lacks something, as it has told
LACKING = 3

Mark = dict[str, Any]


@contextmanager
def alone(folder: Path, name: str) -> Iterator[int]:
    """Keep others from what `folder` stands for. Yields the handle, which a command that is started shall hold as well:
    if this process is shot, what it has started still keeps others away.

    Raises:
        Busy: another process, or what one has started, is at it.
    """
    make_room_for(folder / "lock")
    # A file that is open for writing, since network disks lock no other.
    with open(folder / "lock", "ab") as handle:
        lock(handle.fileno(), name)
        yield handle.fileno()


def is_held(folder: Path) -> bool:
    """Whether somebody is at it; nothing is changed by looking."""
    try:
        with open(folder / "lock", "rb") as handle:
            lock(handle.fileno(), "", shared=True)
    except FileNotFoundError:
        return False
    except Busy:
        return True
    return False


def mark_of(run: Run, step: Step) -> Path:
    """Where it stands how the step ended."""
    return run.marks / f"{step.name}.json"


def read_mark(run: Run, step: Step) -> Mark | None:
    """How the step ended the last time; None if it never did, or what it made is gone with the run's folder."""
    file = mark_of(run, step)
    mark = read_object(file) if file.is_file() else None
    return None if passed(mark) and not run.folder.is_dir() else mark


def passed(mark: Mark | None) -> bool:
    """Whether what rests on the step may begin."""
    return mark is not None and mark["exit_code"] in PASSED


def write_mark(run: Run, step: Step, data: dict[str, str], code: int, began: float) -> Mark:
    """Write down how a step has ended, and return it. `began`: the seconds that `time.time` told then."""
    mark = {
        "command": step.told,
        "data": data,
        "exit_code": code,
        "seconds": round(time.time() - began, 3),
        "finished": now(),
        "host": os.uname().nodename,
        "git_commit": git_commit(),
    }
    write_json(mark_of(run, step), mark)
    return mark


def begin(run: Run, step: Step) -> None:
    """Write down who is at the run."""
    write_json(run.marks / "now.json", {"step": step.name, "host": os.uname().nodename, "since": now()})


def log_of(run: Run, step: Step) -> Path:
    """Where the step's output goes."""
    return run.marks / f"{step.name}.log"


def made_otherwise(run: Run, step: Step, mark: Mark | None, data: dict[str, str]) -> str | None:
    """What is not as it was when the step was finished, in one line; None if it is the same, or was not finished."""
    if mark is None or not passed(mark):
        return None
    then, new = mark["command"], step.told
    rest = f"; name another --out, or move {mark_of(run, step)} and what it stands for away"
    if then != new:
        gone = " ".join(word for word in then if word not in new) or "other words"
        come = " ".join(word for word in new if word not in then) or "none of them"
        return f"{run.folder}: {step.name} was finished with {gone}, and is now to be done with {come}{rest}"
    changed = [name for name in data if mark["data"].get(name) != data[name]]
    return f"{run.folder}: {step.name} was finished on other data ({', '.join(changed)}){rest}" if changed else None
