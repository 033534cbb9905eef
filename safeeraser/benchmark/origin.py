"""When a result was made, and by which code."""

import subprocess
import time

from safeeraser.benchmark.files import PACKAGE


def now() -> str:
    """The time, as records write it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def git_commit() -> str | None:
    """The commit that this code stands at; None outside a checkout of its own, or where there is no git to ask.

    An installed wheel may well lie within the checkout of something else, whose commit says nothing of it.
    """
    command = ["git", "-C", str(PACKAGE), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    top, _, commit = found.stdout.strip().partition("\n")
    return commit if found.returncode == 0 and top == str(PACKAGE.parent) else None
