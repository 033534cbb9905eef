"""Run one command: its output goes to a log, and when it ends a mark file records how.

  python workflow/step.py OUT/steps/RUN/STEP.done [--gpu N] -- COMMAND

Snakemake removes a rule's output before it starts the rule again, so the mark is the rule's only output. The command
writes its files to the run's folder, where it resumes by itself. A step that failed leaves STEP.failed instead.
"""

import argparse
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import IO

from plan import LACKING, PASSED

from safeeraser.benchmark.files import make_room_for, write_json
from safeeraser.benchmark.origin import git_commit, now
from safeeraser.errors import command

LOOK = 0.2  # seconds between checks for free GPUs


@command
def main() -> int:
    """Run the command and write its mark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mark", type=Path)
    parser.add_argument("--gpu", type=int, default=0)
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    began, log, failed = time.time(), given.mark.with_suffix(".log"), given.mark.with_suffix(".failed")
    make_room_for(log)
    failed.unlink(missing_ok=True)
    name = f"[{given.mark.parent.name}] {given.mark.stem}"
    print(f"{name} ... (log: {log})", flush=True)
    answers = next((Path(word[14:]) for word in given.command if word.startswith("--output_file=")), Path())
    earlier = stamp(answers)
    with open(log, "ab", buffering=0) as output:
        output.write(f"== {now()} on {os.uname().nodename}\n".encode())
        code = execute(given.command, output, given.gpu)
    if code == 1 and "accelerate.commands.launch" in given.command and stamp(answers) not in (None, earlier):
        code = LACKING  # a launcher ends with 1, whatever its processes end with
    mark = {"command": given.command, "exit_code": code, "git_commit": git_commit(), "host": os.uname().nodename}
    mark |= {"seconds": round(time.time() - began, 3), "finished": now()}
    write_json(given.mark if code in PASSED else failed, mark)
    ended = {0: "done", LACKING: "done, but something is missing"}.get(code, f"failed (exit code {code})")
    print(f"{name}: {ended} ({mark['seconds']:.0f} s)", flush=True)
    return 0 if code in PASSED else 1


def execute(words: list[str], output: IO[bytes], gpus: int) -> int:
    """Run a command on GPUs of its own; returns its exit code.

    A signal reaches the command too, by the process group. The command ends in its own time; this process waits for it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which the command would inherit
    cards = take_gpus(gpus)
    devices = {"CUDA_VISIBLE_DEVICES": ",".join(cards)} if cards else {}
    process = subprocess.Popen(words, env=os.environ | devices, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    return process.wait()


def stamp(file: Path) -> tuple[int, int] | None:
    """An identifier of a file's version, which changes when the file is written anew; None: there is no file."""
    return (file.stat().st_ino, file.stat().st_mtime_ns) if file.is_file() else None


def visible_gpus() -> list[str]:
    """The GPUs that a command started here would see."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None and shutil.which("nvidia-smi"):
        ask = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        given = ",".join(subprocess.run(ask, capture_output=True, text=True).stdout.split())
    return [card.strip() for card in (given or "").split(",") if card.strip()]


def take_gpus(count: int) -> dict[str, TextIOWrapper]:
    """Take `count` GPUs that no other step on this machine has; returns each with a lock that this process holds until
    it ends. Takes none if all are needed or Slurm assigns them. Snakemake counts GPUs, but does not assign them."""
    cards = visible_gpus()
    if "SLURM_JOB_ID" in os.environ or not 0 < count < len(cards):
        return {}
    folder = Path(tempfile.gettempdir(), f"safeeraser-gpus-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    while True:
        taken = dict[str, TextIOWrapper]()
        for card in cards:
            file = open(folder / card.replace("/", "_"), "w")  # noqa: SIM115 -- held until this process ends
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                taken[card] = file
            if len(taken) == count:
                return taken
        for file in taken.values():
            file.close()
        time.sleep(LOOK)


if __name__ == "__main__":
    main()
