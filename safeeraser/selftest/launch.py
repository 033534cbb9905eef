"""Starting forget.py as a user does, alone or under accelerate's launcher, and ending what was started."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from safeeraser.benchmark.files import CONFIG, PACKAGE
from safeeraser.selftest.result import Skip

FORGET = PACKAGE.parent / "forget.py"
PATIENCE = 1800  # seconds that a run may take: processes that wait for each other for ever are ended
LOCKED = (
    "DeepSpeed waits without end for a compilation that was killed: remove the file lock in torch's folder for "
    "extensions (TORCH_EXTENSIONS_DIR; else torch_extensions in the home's .cache)"
)


def engine_file(name: str) -> Path:
    """The file of an engine that is shipped: of config/accelerate/, or `accelerate_config`, the default one."""
    return CONFIG / f"{name}.yaml" if name == "accelerate_config" else CONFIG / "accelerate" / f"{name}.yaml"


def start(
    words: Sequence[str],
    log: Path,
    engine: str | None = None,
    options: Sequence[str] = (),
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
) -> subprocess.Popen:
    """Start forget.py with these `words`; what it says is added to the file `log`.

    Args:
        engine: that it is launched under, see `engine_file`; None: no launcher.
        options: of accelerate's launcher.
        env: what the environment has beside this process's own.

    Raises:
        Skip: there is no forget.py, which an installed wheel does not bring.
    """
    if not FORGET.is_file():
        raise Skip("forget.py is not here; the commands that are started lie in a checkout")
    launcher = [sys.executable]
    if engine:
        launcher += ["-m", "accelerate.commands.launch", "--config_file", str(engine_file(engine)), *options]
    with open(log, "a", encoding="utf-8") as said:
        command = [*launcher, str(FORGET), *words]
        return subprocess.Popen(command, cwd=cwd, env=os.environ | env, stdout=said, stderr=said)


def finish(process: subprocess.Popen, log: Path) -> None:
    """Wait for a good end. Raises `RuntimeError`, with the last of what it said, for any other."""
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{last_lines(log)}\nstill at work after {PATIENCE} s, and ended; {LOCKED}") from None
    finally:
        kill_tree(process.pid)
        process.wait()
    if process.returncode:
        raise RuntimeError(f"{last_lines(log)}\nexit code {process.returncode}")


def last_lines(log: Path, count: int = 15) -> str:
    """The end of what a run has said."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-count:])


def kill_tree(number: int) -> None:
    """SIGKILL to a process and all below it, if it is there: the launcher's workers have sessions of their own."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for each in [*psutil.Process(number).children(recursive=True), psutil.Process(number)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
