"""Runs one command of a run: its output goes to a log, and at its end a mark says how it ended.

  python workflow/step.py OUT/steps/RUN/STEP.done RUN_FOLDER DATA_FOLDER [--gpu N] [--engine FILE] -- COMMAND

Snakemake removes a rule's output before it starts the rule again, so its output is the mark alone; what the command
writes lies in the run's folder, where the command resumes by itself. A step that failed leaves STEP.failed instead.
"""

import argparse
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from plan import LACKING, PASSED, hashes, launcher

from safeeraser.benchmark.files import make_room_for, write_json
from safeeraser.benchmark.origin import git_commit, now
from safeeraser.errors import command

LOOK = 0.2  # seconds between looks at whether GPUs are free


@command
def main() -> int:
    """Run the command and write down how it ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mark", type=Path)
    parser.add_argument("folder")
    parser.add_argument("data")
    parser.add_argument("--gpu", type=int, default=0)
    parser.add_argument("--engine")
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    began, log, failed = time.time(), given.mark.with_suffix(".log"), given.mark.with_suffix(".failed")
    make_room_for(log)
    make_room_for(Path(given.folder, "run.json"))
    failed.unlink(missing_ok=True)
    name = f"[{given.mark.parent.name}] {given.mark.stem}"
    print(f"{name} ... (log: {log})", flush=True)
    words = [*launcher(given.engine), *given.command[1:]] if given.engine else given.command
    words = [word.replace("{run}", given.folder) for word in words]
    result = next((Path(w.partition("=")[2]) for w in words if given.engine and w.startswith("--output_file=")), None)
    earlier = stamp(result)
    with shared_gpus(given.gpu) as environment, open(log, "ab", buffering=0) as output:
        output.write(f"== {now()} on {os.uname().nodename}\n".encode())
        code = execute(words, output, os.environ | environment)
    if code == 1 and stamp(result) not in (None, earlier):
        code = LACKING  # a launcher ends with 1 whatever its processes said
    mark = {"command": given.command, "data": hashes(given.data), "exit_code": code, "git_commit": git_commit()}
    mark |= {"seconds": round(time.time() - began, 3), "finished": now(), "host": os.uname().nodename}
    write_json(given.mark if code in PASSED else failed, mark)
    ended = {0: "done", LACKING: "done, but something is lacking"}.get(code, f"failed (exit code {code})")
    print(f"{name}: {ended} ({mark['seconds']:.0f} s)", flush=True)
    return 0 if code in PASSED else 1


def execute(words: list[str], output: IO[bytes], environment: dict[str, str]) -> int:
    """Run a command; SIGTERM is passed on to it and all that it has started. Returns its exit code."""
    null, both = subprocess.DEVNULL, subprocess.STDOUT
    process = subprocess.Popen(words, env=environment, stdin=null, stdout=output, stderr=both, start_new_session=True)

    def end(number: int, _frame: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    signal.signal(signal.SIGTERM, end)
    return process.wait()


def stamp(file: Path | None) -> tuple[int, int] | None:
    """What a file is known again by; the clock of a network disk is another one. None: it is not there."""
    return (file.stat().st_ino, file.stat().st_mtime_ns) if file and file.is_file() else None


def visible_gpus() -> list[str]:
    """The GPUs that a command started here would see."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None and shutil.which("nvidia-smi"):
        ask = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        given = ",".join(subprocess.run(ask, capture_output=True, text=True).stdout.split())
    return [card.strip() for card in (given or "").split(",") if card.strip()]


@contextmanager
def shared_gpus(count: int) -> Iterator[dict[str, str]]:
    """The variable that gives a step `count` GPUs of its own, once so many are free. Slurm deals them out itself.

    Snakemake counts GPUs, and does not say which. Locks on this machine's own disk do, until this process ends.
    """
    cards = visible_gpus()
    if "SLURM_JOB_ID" in os.environ or not 0 < count < len(cards):
        yield {}
        return
    folder = Path(tempfile.gettempdir(), f"safeeraser-gpus-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    while True:
        with ExitStack() as locks:
            own: list[str] = []
            for card in cards:
                file = locks.enter_context(open(folder / card.replace("/", "_"), "w"))
                with suppress(BlockingIOError):
                    if len(own) < count:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        own.append(card)
            if len(own) == count:
                yield {"CUDA_VISIBLE_DEVICES": ",".join(own)}
                return
        time.sleep(LOOK)


if __name__ == "__main__":
    main()
