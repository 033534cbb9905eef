"""The content of a report: figures with their bounds, and the machine and code, without the names of user and host."""

import getpass
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError
from math import inf, isfinite
from pathlib import Path
from typing import Any

import psutil

from safeeraser.benchmark.files import PACKAGE
from safeeraser.benchmark.origin import git_commit, versions

PACKAGES = ("torch", "transformers", "peft", "accelerate", "deepspeed", "bitsandbytes", "flash-attn", "triton")
SECRET = re.compile("key|token|secret|password|credential", re.IGNORECASE)
CARDS = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]

Figure = dict[str, Any]


def figure(name: str, value: float | None, *, least: float = -inf, most: float = inf, **more: str) -> Figure:
    """A measured value and its bounds. Without bounds it is only shown; a value that is not finite always fails.

    `value` is None if it could not be measured here, for the reason in `note`. `more`: `note`, or the value's `unit`.
    """
    good = value is None or (least <= value <= most and isfinite(value))
    # JSON has no infinite numbers and no NaN: such a value is written as a word, and a missing bound as null.
    shown = value if value is None or isfinite(value) else str(value)
    bounds = {key: bound if isfinite(bound) else None for key, bound in (("least", least), ("most", most))}
    return {"name": name, "value": shown, **bounds, "unit": "", "note": "", **more, "good": good}


def outcome(figures: Sequence[Figure]) -> str:
    """Whether a check passed, failed, or was skipped because none of its figures could be measured."""
    if not all(figure["good"] for figure in figures):
        return "fail"
    return "pass" if any(figure["value"] is not None for figure in figures) else "skipped"


def line(figure: Figure) -> str:
    """A figure's line of the table: its outcome, if it has one, its value, bounds, name and note."""
    value, unit, note = figure["value"], figure["unit"], figure["note"]
    sides = {"at least": figure["least"], "at most": figure["most"]}
    bounds = ", ".join(f"{word} {side:.3g}" for word, side in sides.items() if side is not None)
    verdict = outcome([figure]) if bounds or value is None or not figure["good"] else ""
    measured = "" if value is None else f"{float(value):.3g} {unit}"
    return f"  {verdict:<8}{measured:<18}{bounds:<28}{figure['name']}" + (f" ({note})" if note else "")


def describe() -> dict[str, Any]:
    """Versions, commit, processor, memory, and each card's name, driver and memory."""
    packages, cards, cpu = versions() | {"python": platform.python_version()}, "", None
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            packages |= versions(package)
    with suppress(OSError, subprocess.SubprocessError):
        cards = subprocess.run(CARDS, capture_output=True, text=True, check=True, timeout=60).stdout
    with suppress(OSError):
        cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "versions": packages,
        "git_commit": git_commit(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu[1] if cpu else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": cards.splitlines(),
    }


def anonymous(text: str) -> str:
    """`text` without the folders of paths, the names of user and machine, and the environment's secret values."""
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) >= 6:
            text = text.replace(value, "...")
    homes = {str(Path.home()), str(Path.cwd()), str(PACKAGE.parent), sys.prefix, sys.base_prefix} - {"/"}
    for folder in sorted(homes, key=len, reverse=True):
        text = text.replace(folder + "/", "/.../")  # first, because their names may contain spaces
    text = re.sub(r"(?<![\w.:])/(?:[^\s/'\",:;()<>]+/)+", ".../", text)
    names = {socket.gethostname()}
    with suppress(OSError, KeyError):
        names.add(getpass.getuser())
    for name in names - {"", "root", "localhost"}:
        text = re.sub(rf"\b{re.escape(name)}\b", "...", text)
    return text
