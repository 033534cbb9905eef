"""Shared by the entire session: each engine is launched once, and each named run is trained once in this process."""

import json
from pathlib import Path

import pytest
from helpers import ROOT, ran
from launches import series

from .runs import CONFORMANCE, GPUS, NINE, runs_of, words_of

STAND_IN = {"GPU_ENGINES_ON_CPUS": str(ROOT / "tests" / "gpu_engines_on_cpus" / "sitecustomize.py")}


@pytest.fixture(scope="session")
def one(tmp_path_factory):
    """A function that gives the folder of a run in one process, by its name and more words. It trains on first use."""
    folder, done = tmp_path_factory.mktemp("one"), {}

    def train(name, *more):
        if (name, more) not in done:
            begun = train("start") if name == "mask" else ""
            out = folder / f"{len(done)}-{name}"
            ran("forget", *words_of(name, out, *more, processes=1, start=begun), cwd=CONFORMANCE)
            done[name, more] = out
        return done[name, more]

    return train


@pytest.fixture(scope="session")
def trained(tmp_path_factory, forks, one):
    """A function that gives the folder with an engine's runs, by their names. They are trained on first use."""
    folders, ended = {}, {}

    def train(engine):
        if engine not in folders:
            narrow, env = (("dtype=bfloat16",), STAND_IN) if engine in GPUS else ((), {})
            begun, folder = one("start"), tmp_path_factory.mktemp(Path(engine).name)
            words = [("forget", *words_of(name, folder / name, *narrow, start=begun)) for name in runs_of(engine)]
            for plan, steps in (("nine", NINE), ("twins", NINE[:1] * 4)):
                (folder / f"{plan}.json").write_text(json.dumps({"steps": steps}))
            folders[engine] = folder
            ended[engine] = series(forks, engine, folder, *words, cwd=CONFORMANCE, **env).end()
        assert ended[engine][0], ended[engine][1]
        return folders[engine]

    return train
