"""Call lmms-eval in its own environment: look up tasks, run one task, and read its figures.

The Python of that environment runs `worker.py`.
"""

import json
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

from safeeraser.benchmark.files import read_json
from safeeraser.errors import BadInput

WORKER = Path(__file__).with_name("worker.py")
SET_UP = "bash scripts/specificity.bash"  # makes an environment that has lmms-eval
MAX_FAILED = 0.01  # share of failed items, as in scoring, above which a task's figure is worthless
LONGEST = 300  # characters of a reason
# How often a failure is logged for one item, if not once: MMBench's judge is asked three times.
TOLD = {"items were not judged, but scored at random": 3}
LAUNCH = (
    *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines=1", "--mixed_precision=no"),
    *("--dynamo_backend=no", "--main_process_port=0"),
)
_CHAT = "/chat/completions"  # part of the judge's address for MMBench, but not for MM-Vet


class TaskFailed(Exception):
    """A task has no figure; the message says why in one line."""


def look(python: str, names: list[str], include_path: Path | None) -> dict[str, Any]:
    """Look up tasks in the lmms-eval of a Python; see `know` in `worker`. Raises `BadInput` if it has no lmms-eval."""
    call = [python, str(WORKER), "know", str(include_path or ""), *names]
    try:
        done = subprocess.run(call, capture_output=True, text=True, errors="replace", env=environment(""), check=False)
    except OSError as error:
        raise BadInput(f"LMMS_PYTHON={python}: cannot be run ({error.strerror})") from None
    lines = [line for line in done.stdout.splitlines() if line.startswith("known: ")]
    if done.returncode or not lines:
        why = last_line(done.stderr)
        raise BadInput(f"LMMS_PYTHON={python}: no usable lmms-eval there ({why}); {SET_UP} sets one up")
    return json.loads(lines[-1].removeprefix("known: "))


def environment(task: str) -> dict[str, str]:
    """The harness's environment variables: this process's, with token and judge's address in the harness's form."""
    variables = dict(os.environ)
    # lmms-eval logs HF_TOKEN in full. The hub's client reads this older name too.
    if token := variables.pop("HF_TOKEN", None):
        variables["HUGGING_FACE_HUB_TOKEN"] = token
    if address := variables.get("OPENAI_API_URL", "").rstrip("/").removesuffix(_CHAT):
        variables["OPENAI_API_URL"] = address + (_CHAT if task.startswith("mmbench") else "")
    return variables


def run(python: str, gpus: int, words: list[str], task: str, folder: Path, held: int) -> dict[str, Any]:
    """Have the harness run a task, by `accelerate launch` on several GPUs, with its output in `folder`/log.txt.

    If this process is asked to end, it kills the harness and all processes that the harness has started.

    Args:
        held: an open file that the harness keeps open too.

    Returns:
        the task's `figures` and their standard `errors` on the harness's scale, the number of items `n`, and how many
        items `failed` (`worker` says how they count).

    Raises:
        TaskFailed: the task has no figure.
    """
    call = [python, *([*LAUNCH, f"--num_processes={gpus}"] if gpus > 1 else []), str(WORKER), "ask", *words]
    log = folder / "log.txt"
    with open(log, "wb") as handle:
        process = subprocess.Popen(
            call, stdout=handle, stderr=handle, env=environment(task), start_new_session=True, pass_fds=[held]
        )
        try:
            process.wait()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    result, error, notes = folder / "result.json", folder / "error.json", folder / "failures.txt"
    if error.is_file() or not result.is_file():
        reason = read_json(error) if error.is_file() else last_line(log.read_text(encoding="utf-8", errors="replace"))
        raise TaskFailed(reason[:LONGEST])
    measured, noted = read_json(result), Counter(notes.read_text().splitlines() if notes.is_file() else ())
    counts = {failure: -(-count // TOLD.get(failure, 1)) for failure, count in noted.items()}
    if (failed := sum(counts.values())) > MAX_FAILED * measured["n"]:
        raise TaskFailed(f"of {measured['n']} " + ", ".join(f"{count} {failure}" for failure, count in counts.items()))
    return measured | {"failed": failed}


def last_line(text: str) -> str:
    """The last line of a program's output that is not blank."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")[:LONGEST]
