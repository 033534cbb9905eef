"""One launch an engine, and one run of a name in this process, for the whole session."""

import json
import sys
from pathlib import Path

import pytest
from helpers import ROOT, run

from .runs import CONFORMANCE, GPUS, NINE, runs_of, start, words_of


@pytest.fixture(scope="session")
def one(tmp_path_factory):
    """Gives the folder of one process's run by its name and what is not as there, trained when first asked for."""
    folder, done = tmp_path_factory.mktemp("one"), {}

    def train(name, *more):
        if (name, more) not in done:
            begun = train("start") if name == "mask" else ""
            done[name, more] = folder / f"{len(done)}-{name}"
            said = run("forget", *words_of(name, done[name, more], *more, processes=1, start=begun), cwd=CONFORMANCE)
            assert said.returncode == 0, said.stderr
        return done[name, more]

    return train


@pytest.fixture(scope="session")
def trained(tmp_path_factory, one):
    """Gives the folder with an engine's runs, by their names; they are trained when first asked for."""
    folders, ended, series = {}, {}, Path(__file__).with_name("series.py")
    forks = start("", sys.executable, str(series), PET_START_METHOD="fork", PET_RUN_PATH="1")
    stand_in = {"GPU_ENGINES_ON_CPUS": str(ROOT / "benchmarks" / "gpu_engines_on_cpus" / "sitecustomize.py")}

    def train(engine):
        if engine not in folders:
            folder = folders[engine] = tmp_path_factory.mktemp(Path(engine).name)
            (folder / "nine.json").write_text(json.dumps({"steps": NINE}))
            narrow = ("dtype=bfloat16",) if engine in GPUS else ()
            words = [words_of(name, folder / name, *narrow, start=one("start")) for name in runs_of(engine)]
            (folder / "runs.json").write_text(json.dumps(words))
            given = {
                "config": str(ROOT / "config" / "accelerate" / f"{engine}.yaml"),
                "env": stand_in if narrow else {},
            }
            given |= {"runs": str(folder / "runs.json"), "log": str(folder / "log")}
            print(json.dumps(given), file=forks.stdin, flush=True)
            ended[engine] = forks.stdout.readline().strip()
        assert ended[engine] == "0", (folders[engine] / "log").read_text()[-4000:]
        return folders[engine]

    yield train
    forks.communicate()
