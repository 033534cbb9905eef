"""Run the self-test: each check in a process of its own, so that one can fail without the others; collect the results.

After an error in a GPU kernel a process can no longer use the GPU. So each check is forked from a process that has
loaded torch but not touched the GPU.
"""

import logging
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from safeeraser.benchmark.files import make_room_for, write_json
from safeeraser.benchmark.origin import now
from safeeraser.errors import BadInput
from safeeraser.selftest.report import anonymous, describe, line, outcome

ROOM = "safeeraser.selftest"
# For each check, named as its function: the function's module in this subpackage, and a description of the check.
CHECKS = {
    "precision": ("training", "bfloat16 and each attention compared with float32"),
    "memory": ("training", "memory of a step compared with the dry run's estimate"),
    "nf4": ("training", "four-bit weights compared with the same weights rounded"),
    "inference": ("inference", "batched inference compared with one response at a time"),
    "speed": ("inference", "the machine's peak speed, and how fast it answers"),
    "engines": ("engines", "each engine compared with one process"),
    "resume": ("engines", "a killed and resumed run compared with an undisturbed one"),
    "commands": ("inference", "answers, attacks, merging and relearning by their commands"),
}
# The checks of another family's small model. Its memory and speed would show nothing.
FOR_A_FAMILY = ("precision", "inference", "engines", "resume", "commands")
KIND = "safeeraser self-test"  # marks a file as a report of the self-test
LINES = 15  # shown of the output of a check that broke off
PATIENCE = 1800  # seconds that a figure may take; then the check is ended, as its processes may wait forever
LOCKED = (
    "DeepSpeed waits without end for a compilation that was killed: remove the file lock in torch's folder for "
    "extensions (TORCH_EXTENSIONS_DIR; else torch_extensions in the home's .cache)"
)


def selftest(size: str | None, checks: Sequence[str], report: Path) -> int:
    """Run the checks, print a table meanwhile, and write the report. Returns 1 if a check failed, else 0.

    Args:
        size: the model's size, or a family; None: the largest size that fits.

    Raises:
        BadInput: the report would replace another file, or the size does not fit.
    """
    make_room_for(report)
    if report.is_file() and f'"kind": "{KIND}"' not in report.read_text(errors="replace"):
        raise BadInput(f"--json {report}: holds something else than an earlier self-test; name another file")
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="safeeraser-selftest-") as folder:
        for number, name in enumerate(checks, 1):
            print(f"[{number}/{len(checks)}] {name}: {CHECKS[name][1]}", flush=True)
            results[name] = result = make(name, size, Path(folder), report.with_suffix(f".{name}.log"))
            print(*filter(None, [result.get("error")]), f"  {result['outcome']} ({result['seconds']:.0f} s)", sep="\n")
        with suppress(FileNotFoundError):
            size = Path(folder, "size").read_text()
    write_json(report, {"kind": KIND, "made": now(), "size": size, **describe(), "checks": results})
    outcomes = ", ".join(f"{name}: {result['outcome']}" for name, result in results.items())
    print(f"Self-test, size {size}: {outcomes}", f"written to {report}; attach it to a bug report", sep="\n")
    return int(any(result["outcome"] == "fail" for result in results.values()))


def make(name: str, size: str | None, folder: Path, kept: Path) -> dict[str, Any]:
    """Run a check in a process of its own. Returns its entry in the report.

    Args:
        kept: the file for the check's complete output, written if it breaks off.

    Raises:
        BadInput: the size does not fit.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{ROOM}.{module}" for module, _ in CHECKS.values()])
    ours, theirs = context.Pipe(duplex=False)
    figures, error, began, said = [], "", time.monotonic(), folder / f"{name}.log"
    process = context.Process(target=_work, args=(theirs, name, size, folder, said))
    process.start()
    theirs.close()
    try:
        while ours.poll(PATIENCE):
            if isinstance(event := ours.recv(), str):
                raise BadInput(event)
            figures.append(event | {"note": anonymous(event["note"])})
            print(line(figures[-1]), flush=True)
        error = f"no figure came for {PATIENCE} s, and it was ended; {LOCKED}"
    except EOFError:
        process.join()
        error = f"its process ended with exit code {process.exitcode}" if process.exitcode else ""
    finally:
        if process.pid:
            end_tree(process.pid)
        process.join()
    result = {"outcome": "fail" if error else outcome(figures), "seconds": round(time.monotonic() - began, 1)}
    if error:
        words = anonymous(said.read_text(errors="replace")) if said.exists() else ""
        kept.write_text(words)
        last = "\n".join(words.strip().splitlines()[-LINES:])
        result["error"] = f"{last}\n{error}; all that it said is in {kept.name}".strip()
    return result | {"figures": figures}


def _work(events: Connection, name: str, size: str | None, folder: Path, said: Path) -> None:
    """Run a check and send each figure, or else the reason why there is no model for it."""
    sys.stdout = sys.stderr = open(said, "w", buffering=1)  # noqa: SIM115 (until the process ends)
    for number in (1, 2):  # also for the processes that it starts
        os.dup2(sys.stdout.fileno(), number)
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    import torch

    from safeeraser.selftest.material import write

    if not torch.cuda.is_available():
        torch.set_num_threads(1)  # on models this small, several threads wait for each other most of the time
    try:
        bench = write(size, folder)
    except BadInput as error:
        return events.send(str(error))
    for event in getattr(import_module(f"{ROOM}.{CHECKS[name][0]}"), name)(bench):
        events.send(event)


def end_tree(number: int) -> None:
    """Kill a process, if it exists, and all its descendants. A launcher's workers have sessions of their own."""
    with suppress(psutil.NoSuchProcess):
        for each in [*psutil.Process(number).children(recursive=True), psutil.Process(number)]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
