"""When a result was made, and by which code."""

import subprocess
import time
from importlib.metadata import version

from safeeraser.benchmark.files import PACKAGE

VERSION = "0.1.0"


def now() -> str:
    """The time, as records write it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def versions(*packages: str) -> dict[str, str]:
    """The versions of this project and of packages, as records name them."""
    return {"safeeraser": VERSION} | {name: version(name) for name in packages}


def git_commit() -> str | None:
    """The commit that this code is at, with `-dirty` where its files were changed since.

    None outside a checkout of its own, or where there is no git to ask.
    An installed wheel may well lie within the checkout of something else, whose commit says nothing of it.
    """
    if _git("rev-parse", "--show-toplevel") != str(PACKAGE.parent):
        return None
    return _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or None


def _git(*words: str) -> str:
    """What git says of the package's folder; nothing where it fails."""
    try:
        done = subprocess.run(["git", "-C", str(PACKAGE), *words], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
