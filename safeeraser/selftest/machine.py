"""What a bug report tells of the machine and the code, and nothing of whose they are."""

import getpass
import os
import platform
import re
import socket
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from safeeraser import __version__
from safeeraser.benchmark.files import PACKAGE
from safeeraser.benchmark.origin import git_commit

PACKAGES = ("torch", "transformers", "peft", "accelerate", "deepspeed", "bitsandbytes", "flash-attn", "triton")
SECRET = re.compile("key|token|secret|password|credential", re.IGNORECASE)
ASKED_OF_THE_DRIVER = "name,driver_version,memory.total"


def describe() -> dict[str, Any]:
    """Versions, processor, cards and memory."""
    return {
        "versions": {"safeeraser": __version__, "python": platform.python_version()} | _versions(),
        "git_commit": git_commit(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": _cards(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _cards() -> list[dict[str, str]]:
    """Each card's name, driver and memory, by the driver's own tool; none where there is no such tool."""
    words = ["nvidia-smi", f"--query-gpu={ASKED_OF_THE_DRIVER}", "--format=csv,noheader"]
    try:
        told = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = (map(str.strip, line.split(",")) for line in told.splitlines())
    return [dict(zip(ASKED_OF_THE_DRIVER.split(","), row, strict=False)) for row in rows]


def anonymous(text: str) -> str:
    """`text` without the folders of paths, the names of user and machine, and what the environment keeps secret."""
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) >= 6:
            text = text.replace(value, "...")
    homes = {str(Path.home()), str(Path.cwd()), str(PACKAGE.parent), sys.prefix, sys.base_prefix}
    for folder in sorted(homes - {"/"}, key=len, reverse=True):
        text = text.replace(folder + "/", "/.../")  # first, since a name of theirs may hold a blank
    text = re.sub(r"(?<![\w.:])/(?:[^\s/'\",:;()<>]+/)+", ".../", text)
    names = {socket.gethostname()}
    with suppress(OSError, KeyError):
        names.add(getpass.getuser())
    for name in names - {"", "root", "localhost"}:
        text = re.sub(rf"\b{re.escape(name)}\b", "...", text)
    return text
