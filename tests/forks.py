"""A `python` that starts as a fork of this process: its libraries, which take ten seconds and more, are loaded already.

`Forks` is a process that waits for calls and forks. Its programs `python` and `accelerate` take the usual words, and
pass them on with their working directory, environment and standard streams. Killing a program kills its call.
"""

import json
import logging
import os
import runpy
import select
import signal
import socket
import sys
import traceback
from contextlib import suppress
from multiprocessing import get_context

from helpers import kill
from hydra.core.global_hydra import GlobalHydra

PROGRAM = """#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as asked:
    asked.connect("{address}")
    given = {{"words": [*{words}, *sys.argv[1:]], "cwd": os.getcwd(), "env": dict(os.environ)}}
    socket.send_fds(asked, [len(text := json.dumps(given).encode()).to_bytes(4, "big")], [0, 1, 2])
    asked.sendall(text)
    code = asked.recv(1)
sys.exit(code[0] if code else 1)
"""


PROGRAMS = {"python": [], "accelerate": ["-m", "accelerate.commands.accelerate_cli"]}


def call(words):
    """Do what `python WORDS` does, and return the exit code."""
    words = words[words[0] == "-u" :]
    sys.argv, kind = words[words[0] in ("-m", "-c") :], words[0]
    try:
        if kind == "-m":
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        elif kind == "-c":
            exec(sys.argv[0], {"__name__": "__main__"})
        else:
            sys.path.insert(0, os.path.dirname(os.path.abspath(kind)))
            runpy.run_path(kind, run_name="__main__")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


class Forks:
    """The forking process and its programs in `folder`, which can be called until `close`."""

    def __init__(self, folder):
        self.folder, self.python = folder, str(folder / "python")
        for name, words in PROGRAMS.items():
            (folder / name).write_text(PROGRAM.format(python=sys.executable, address=folder / "calls", words=words))
            (folder / name).chmod(0o755)
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(str(folder / "calls"))
        self.listening.listen()
        self.process = get_context("fork").Process(target=self._wait)
        self.process.start()
        self.listening.close()

    def close(self):
        """Kill the process and everything that it has started."""
        kill(self.process.pid)
        self.process.join()

    def _wait(self):
        import deepspeed  # noqa: F401  (for the forks)

        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no process waits for the watchers
        logging.getLogger().handlers.clear()  # pytest's handlers; with them, a command's own setup would have no effect
        sys.executable = self.python
        while True:
            asked, _ = self.listening.accept()
            if os.fork() == 0:
                self._watch(asked)
            asked.close()

    def _watch(self, asked):
        """Fork once more for the call, send its exit code to the caller, and kill it if the caller is gone."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        size, files, _, _ = socket.recv_fds(asked, 4, 3)
        with asked.makefile("rb") as reader:
            given = json.loads(reader.read(int.from_bytes(size, "big")))
        if (pid := os.fork()) == 0:
            asked.close()
            for number, file in enumerate(files):
                os.dup2(file, number)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
            os.chdir(given["cwd"])
            os.environ.clear()
            os.environ.update(given["env"])
            GlobalHydra.instance().clear()
            code = call(given["words"])
            sys.stdout.flush()
            os._exit(code)
        for file in files:
            os.close(file)
        while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
            if select.select([asked], [], [], 0.01)[0]:
                kill(pid)
        with suppress(OSError):
            asked.sendall(bytes([os.waitstatus_to_exitcode(ended[1]) & 255]))
        os._exit(0)
