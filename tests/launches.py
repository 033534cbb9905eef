"""Run commands in real processes under an engine for CPUs, with the libraries loaded already (forks.py)."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from helpers import RECORDED, ROOT, kill

from safeeraser.selftest.run import LOCKED

SERIES = Path(__file__).with_name("series.py")
# Seconds without output after which an engine counts as hanging. On a busy machine DeepSpeed compiles for minutes.
SILENT = 900


class Launch:
    """A command as a user starts it, with all its processes, whose messages are in the file `log`.

    `forks`: provides its Python. With None it is the real Python, which signals reach as they reach a user's.
    """

    def __init__(self, forks, engine, log, *command, cwd, **env):
        env |= {"ACCELERATE_CONFIG": f"config/accelerate/{engine}.yaml", "DS_ACCELERATOR": "cpu"}
        env["PATH"] = os.pathsep.join(
            [*([str(forks.folder)] if forks else []), str(Path(sys.executable).parent), os.environ["PATH"]]
        )
        env["PYTHONPATH"] = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        self.log = log
        with open(log, "w") as said:
            # Its standard output stays open while any of its processes lives, so `kill` can wait for all of them.
            given = {"stdout": subprocess.PIPE, "stderr": said, "start_new_session": True}
            self.process = subprocess.Popen([*map(str, command)], cwd=cwd, env=os.environ | env, **given)

    def end(self):
        """Wait for its end, and kill it if it falls silent. Return whether it succeeded, and its last messages."""
        begun, why = time.time(), ""
        while self.process.poll() is None:
            if time.time() - max(begun, self.log.stat().st_mtime) > SILENT:
                why = f"nothing was written for {SILENT} s, so it was killed; {LOCKED}"
                self.kill()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(1)
        return self.process.returncode == 0, f"{self.process.returncode}: {why}{self.log.read_text()[-4000:]}"

    def kill(self):
        """Send SIGKILL to all its processes that are left."""
        if not self.process.stdout.closed:
            kill(self.process.pid)
            self.process.communicate()

    def once(self, begun):
        """Wait until `begun()` is true."""
        deadline = time.monotonic() + 400
        while not begun():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()[-4000:]
            time.sleep(0.005)

    def kill_once(self, begun):
        """Send SIGKILL to all its processes, as soon as `begun()` is true."""
        self.once(begun)
        self.kill()


def series(forks, engine, folder, *commands, cwd=RECORDED, **env):
    """Launch `commands`, each a script with its words, one after another in the same two processes."""
    (folder / "commands.json").write_text(json.dumps([[*map(str, words)] for words in commands]))
    launcher = ("accelerate", "launch", "--config_file", ROOT / "config" / "accelerate" / f"{engine}.yaml")
    return Launch(forks, engine, folder / "log", *launcher, SERIES, folder / "commands.json", cwd=cwd, **env)
