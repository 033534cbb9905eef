"""When a result was made, and by which code."""

import subprocess
import time
from importlib.metadata import version

from safeeraser.benchmark.files import PACKAGE

VERSION = "0.1.0"


def now() -> str:
    """The current time, in the form of records."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def versions(*packages: str) -> dict[str, str]:
    """The versions of this project and of the given packages, as records name them."""
    return {"safeeraser": VERSION} | {name: version(name) for name in packages}


def git_commit() -> str | None:
    """The commit of this code, with `-dirty` if its files have been changed since.

    None outside a checkout of this project, or without git. An installed wheel may lie within the checkout of another
    project, whose commit says nothing about this code.
    """
    if _git("rev-parse", "--show-toplevel") != str(PACKAGE.parent):
        return None
    return _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or None


def _git(*words: str) -> str:
    """The output of git for the package's folder; empty if git fails."""
    try:
        done = subprocess.run(["git", "-C", str(PACKAGE), *words], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
