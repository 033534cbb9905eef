"""Commands in two real processes: launched as a user does, or from one process that has the libraries loaded."""

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import psutil
from helpers import RECORDED, ROOT, kill

from safeeraser.selftest.engines import waits_for_nobody

SERIES = Path(__file__).with_name("series.py")
# Seconds: an engine that writes nothing for so long hangs. What DeepSpeed compiles takes minutes on a busy machine.
SILENT = 900


def start(engine, *command, cwd, stdout=subprocess.PIPE, **env):
    """Start a command with what an engine on CPUs wants to be told."""
    env |= {"ACCELERATE_CONFIG": f"config/accelerate/{engine}.yaml", "DS_ACCELERATOR": "cpu"}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env["PYTHONPATH"] = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    pipes = {"stdin": subprocess.PIPE, "stdout": stdout, "stderr": None if stdout == subprocess.PIPE else stdout}
    return subprocess.Popen(command, cwd=cwd, env=os.environ | env, text=True, **pipes)


class Launches:
    """One launch at a time, from a process that is started when it is first needed."""

    def __init__(self):
        self.source, self.pid, self.log = None, 0, Path()

    def begin(self, engine, folder, *commands, cwd=RECORDED, **env):
        """Launch `commands`, each a script and its words, one after the other; `folder` keeps what they say."""
        if not self.source or self.source.poll() is not None:
            call = (sys.executable, str(SERIES))
            self.source = start("", *call, cwd=ROOT, PET_START_METHOD="fork", PET_RUN_PATH="1")
        (folder / "commands.json").write_text(json.dumps([[*map(str, words)] for words in commands]))
        self.log = folder / "log"
        given = [ROOT / "config" / "accelerate" / f"{engine}.yaml", folder / "commands.json", self.log, cwd]
        print(json.dumps([*map(str, given), env]), file=self.source.stdin, flush=True)
        self.pid = int(self.source.stdout.readline())

    def end(self):
        """Wait for the launch: whether it ended well, and what it said; it is killed if it falls silent."""
        begun = time.time()
        while not select.select([self.source.stdout], [], [], 1)[0]:
            if time.time() - max(begun, self.log.stat().st_mtime if self.log.exists() else 0) > SILENT:
                waits = waits_for_nobody()
                self.kill()
                return False, f"nothing was written for {SILENT} s, so it was killed; {waits}"
        ended = self.source.stdout.readline().strip()
        return ended == "0", f"{ended}: {self.log.exists() and self.log.read_text()[-4000:]}"

    def kill(self):
        """SIGKILL for all processes of the launch."""
        kill(self.pid)
        self.source.stdout.readline()

    def kill_once(self, begun):
        """SIGKILL for all processes of the launch, as soon as `begun` is true."""
        deadline = time.monotonic() + 400
        while not begun():
            assert psutil.pid_exists(self.pid) and time.monotonic() < deadline, self.log.read_text()[-4000:]
            time.sleep(0.005)
        self.kill()

    def close(self):
        """End the process that launches."""
        if self.source:
            kill(self.source.pid)
