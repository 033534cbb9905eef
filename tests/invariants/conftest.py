"""One launch an engine, and one run of a name in this process, for the whole session."""

import json
import select
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT, run

from safeeraser.selftest.engines import waits_for_nobody

from .runs import CONFORMANCE, GPUS, NINE, kill, runs_of, start, words_of

SERIES = Path(__file__).with_name("series.py")
STAND_IN = {"GPU_ENGINES_ON_CPUS": str(ROOT / "benchmarks" / "gpu_engines_on_cpus" / "sitecustomize.py")}
# Seconds: an engine that writes nothing for so long hangs. What DeepSpeed compiles takes minutes on a busy machine.
SILENT = 900


@pytest.fixture(scope="session")
def one(tmp_path_factory):
    """Gives the folder of one process's run by its name and what is not as there, trained when first asked for."""
    folder, done = tmp_path_factory.mktemp("one"), {}

    def train(name, *more):
        if (name, more) not in done:
            begun = train("start") if name == "mask" else ""
            out = folder / f"{len(done)}-{name}"
            said = run("forget", *words_of(name, out, *more, processes=1, start=begun), cwd=CONFORMANCE)
            assert said.returncode == 0, said.stderr
            done[name, more] = out
        return done[name, more]

    return train


def answer(forks, log):
    """The exit code that a launch ended with, once it has; it is killed if it falls silent."""
    begun = time.time()
    while not select.select([forks.stdout], [], [], 1)[0]:
        if time.time() - max(begun, log.stat().st_mtime if log.exists() else 0) > SILENT:
            kill(forks)
            return f"nothing was written for {SILENT} s, so it was killed; {waits_for_nobody()}"
    return forks.stdout.readline().strip()


@pytest.fixture(scope="session")
def trained(tmp_path_factory, one):
    """Gives the folder with an engine's runs, by their names; they are trained when first asked for."""
    folders, ended, started = {}, {}, []

    def train(engine):
        if engine not in folders:
            narrow, env = (("dtype=bfloat16",), STAND_IN) if engine in GPUS else ((), {})
            begun, folder = one("start"), tmp_path_factory.mktemp(Path(engine).name)
            words = [words_of(name, folder / name, *narrow, start=begun) for name in runs_of(engine)]
            (folder / "nine.json").write_text(json.dumps({"steps": NINE}))
            (folder / "runs.json").write_text(json.dumps(words))
            given = [ROOT / "config" / "accelerate" / f"{engine}.yaml", folder / "runs.json", folder / "log"]
            if not started or started[-1].poll() is not None:
                started.append(start("", sys.executable, str(SERIES), PET_START_METHOD="fork", PET_RUN_PATH="1"))
            print(json.dumps([*map(str, given), env]), file=started[-1].stdin, flush=True)
            folders[engine], ended[engine] = folder, answer(started[-1], folder / "log")
        said = folders[engine] / "log"
        assert ended[engine] == "0", (ended[engine], said.exists() and said.read_text()[-4000:])
        return folders[engine]

    yield train
    for each in started:
        kill(each)
