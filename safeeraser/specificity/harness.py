"""lmms-eval as a program: what it knows of a task, one task run by it, and what its result file says.

Much goes wrong in it quietly. It ends with exit code 0 after an error; an answer that could not be generated counts as
an empty one; an item whose judge did not reply scores 0 or draws lots. So its log is read too.
"""

import json
import math
import os
import re
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safeeraser.benchmark.family import LmmsEval
from safeeraser.benchmark.files import read_json
from safeeraser.errors import BadInput

PROBE = Path(__file__).with_name("probe.py")
SET_UP = "bash scripts/specificity.bash"  # makes an environment that has lmms-eval
# The share of a task's items, as in scoring, beyond which failures make its figure worthless.
MAX_FAILED = 0.01
# What the harness logs where one item failed, and how often for one: MMBench's judge is asked three times over.
_FAILURES = {
    "answers could not be generated": (r"Error .* in generating", 1),
    "items were not judged": (r"failed to get a score", 1),
    "items were not judged, lots were drawn": (r"GPT API failed to answer", 3),
}
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# Where the judge is, MM-Vet reads as the API's address and MMBench as that of chat completions.
_CHAT = "/chat/completions"


class TaskFailed(Exception):
    """A task has no figure; the message says why in one line."""


@dataclass(frozen=True)
class Score:
    """A task's outcome in the harness's own numbers. `failed` items count as wrong in them."""

    figures: dict[str, float]
    errors: dict[str, float]
    n: int
    failed: int


def look(python: str, names: list[str], include_path: Path | None) -> dict[str, Any]:
    """What the harness of this interpreter knows, see `probe`. Raises `BadInput` if there is none."""
    call = [python, str(PROBE), str(include_path or ""), *names]
    try:
        done = subprocess.run(call, capture_output=True, text=True, errors="replace", env=environment(""), check=False)
    except OSError as error:
        raise BadInput(f"LMMS_PYTHON={python}: cannot be run ({error.strerror})") from None
    found = [line for line in done.stdout.splitlines() if line.startswith("known: ")]
    if done.returncode or not found:
        raise BadInput(
            f"LMMS_PYTHON={python}: no usable lmms-eval there ({_last_line(done.stderr)}); {SET_UP} sets one up"
        )
    return json.loads(found[-1].removeprefix("known: "))


def command_line(
    python: str,
    model: Path,
    task: str,
    out: Path,
    *,
    asked: LmmsEval,
    gpus: int,
    dtype: str,
    include_path: Path | None,
    more: list[str],
) -> list[str]:
    """The call that runs a task: on the CPU, on one GPU, or sharded over several by `accelerate launch`.

    Args:
        asked: how a model of this family is.
    """
    place = ["device=cpu", "device_map=cpu"] if not gpus else ["device=cuda", "device_map=cuda"] if gpus == 1 else []
    typed = [] if asked.dtype else [f"dtype={dtype}"]  # some end with an error where an argument is not theirs
    # With several, each process must be left to take the GPU of its own number: no device is named.
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(gpus), "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    return [
        *(python, *(launcher if gpus > 1 else []), "-m", "lmms_eval", "--model", asked.model),
        *("--model_args", ",".join([f"pretrained={model}", *typed, *place])),
        *("--tasks", task, "--batch_size", "1", "--output_path", str(out)),  # some of its models take no more
        *(["--include_path", str(include_path)] if include_path else []),
        *more,
    ]


def environment(task: str) -> dict[str, str]:
    """What the harness is started with: this environment, the token and the judge's address as it can stand them."""
    variables = dict(os.environ)
    # It logs HF_TOKEN in full. The hub's client reads this older name too.
    if token := variables.pop("HF_TOKEN", None):
        variables["HUGGING_FACE_HUB_TOKEN"] = token
    if address := variables.get("OPENAI_API_URL", "").rstrip("/").removesuffix(_CHAT):
        variables["OPENAI_API_URL"] = address + (_CHAT if task.startswith("mmbench") else "")
    return variables


def run(call: list[str], task: str, log: Path, held: int) -> None:
    """Run the harness to its end, its output into `log`; `held` is an open file that it holds too.

    Where this process is told to end, it ends the harness and all that the harness has started.
    """
    with open(log, "wb") as handle:
        process = subprocess.Popen(
            call,
            stdout=handle,
            stderr=subprocess.STDOUT,
            env=environment(task),
            start_new_session=True,
            pass_fds=[held],
        )
        try:
            process.wait()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def read(folder: Path, log: Path, task: str) -> Score:
    """What the harness made of a task. Raises `TaskFailed`."""
    lines = [_COLOURS.sub("", line) for line in re.split("[\r\n]", log.read_text(encoding="utf-8", errors="replace"))]
    # It begins with the date; MMBench leaves a file of another kind whose name ends alike.
    files = sorted(folder.glob("*/[0-9]*_results.json"))
    if not files:
        raise TaskFailed(_reason(lines))
    try:
        result = read_json(files[-1])
        figures, n = result["results"][task], result["n-samples"][task]["effective"]
    except (BadInput, KeyError, TypeError):
        raise TaskFailed(f"{files[-1].name} lacks its result") from None
    # Counted over all processes, which share the log.
    counts = {
        told: -(-sum(bool(re.search(sign, line)) for line in lines) // of) for told, (sign, of) in _FAILURES.items()
    }
    failed = sum(counts.values())
    if failed > MAX_FAILED * n:
        raise TaskFailed(f"of {n} " + ", ".join(f"{count} {told}" for told, count in counts.items() if count))
    return Score(_numbers(figures, ""), _numbers(figures, "_stderr"), int(n), failed)


def _numbers(figures: Mapping[str, Any], suffix: str) -> dict[str, float]:
    """`{"exact_match,none": 0.5, "exact_match_stderr,none": 0.1}` by the metric's name, with or without `_stderr`."""
    found: dict[str, float] = {}
    for key, value in figures.items():
        name, _, _filter = key.partition(",")
        if isinstance(value, (int, float)) and math.isfinite(value) and name.endswith(suffix):
            name = name.removesuffix(suffix)
            if "_stderr" not in name:
                found.setdefault(name, float(value))
    return found


def _reason(lines: list[str]) -> str:
    told = [line.partition("Error during evaluation: ")[2] for line in lines if "Error during evaluation: " in line]
    if not told:
        return _last_line("\n".join(lines))
    reason = told[-1].partition(" Please set `--verbosity")[0].removesuffix(".")
    # Of what it tried several times only the traceback says what went wrong.
    causes = [line for line in lines if re.match(r"[\w.]*(Error|Exception): ", line) and "RetryError" not in line]
    return _shortened(causes[-1] if causes and reason.startswith("RetryError[") else reason)


def _last_line(text: str) -> str:
    return _shortened(next((line for line in reversed(text.splitlines()) if line.strip()), "it said nothing"))


def _shortened(line: str) -> str:
    return line.strip()[:300]
