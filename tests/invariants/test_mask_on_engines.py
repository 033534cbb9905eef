"""Two real processes train under a gradient mask as one does, and what it holds never moves."""

import json
from pathlib import Path

import pytest
import torch
from helpers import ROOT, alone, run
from safetensors.torch import load_file

from safeeraser.unlearn.save_dir import MASK_FILE

from .test_engines import GPU_ENGINES, ended_well, farthest, start, told, words_of
from .test_release import CONFORMANCE

pytestmark = pytest.mark.slow

ADAPTER = "adapter_model.safetensors"
# A rate and a decay at which whatever may move does.
MOVES = ("max_train_steps=3", "lr=0.01", "weight_decay=0.5", "warmup_ratio=0", "mask={top:0.3,items:4}")


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """In one process an adapter whose B is not 0, and two methods that start from it under a mask."""
    folder = tmp_path_factory.mktemp("one")
    short = ("max_train_steps=2", "lr=0.01", "warmup_ratio=0", "gradient_accumulation_steps=4", "init_adapter=null")
    for words in (words_of(folder / "start", "gd", *short), *masked(folder, folder / "start", 1)):
        done = run("forget", *words, cwd=CONFORMANCE)
        assert done.returncode == 0, done.stderr
    return folder


def masked(folder, start, processes):
    """The words of two runs into `folder`, of four items an optimizer step."""
    each = (*MOVES, f"init_adapter={start}", f"gradient_accumulation_steps={4 // processes}")
    return [words_of(folder / method, method, *each) for method in ("klpd", "gdpd")]


def assert_held(folder, start, dtype):
    """What is held is what it was at the start, in the dtype that the engine starts from; the rest has moved."""
    mask, after, before = (load_file(file) for file in (folder / MASK_FILE, folder / ADAPTER, start / ADAPTER))
    assert len(mask) == 28
    for name, trains in mask.items():
        value, was = (each[name.replace(".default", "")] for each in (after, before))
        was = was.to(dtype).float()
        assert torch.equal(value[~trains], was[~trains]), name
        assert (value[trains] != was[trains]).float().mean() > 0.9, name


@pytest.mark.parametrize("engine", ["cpu_ddp", "cpu_zero2", "../accelerate_config"])
def test_two_processes_hold_what_one_does(one, tmp_path, engine):
    runs = masked(tmp_path, one / "start", 2)
    if engine in GPU_ENGINES:
        runs = [[*each, "dtype=bfloat16"] for each in runs]
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    config = ROOT / "config" / "accelerate" / f"{engine}.yaml"
    series = Path(__file__).with_name("series.py")
    with alone():
        ended_well(start(engine, "accelerate", "launch", "--config_file", config, series, tmp_path / "runs.json"))
    for method in ("klpd", "gdpd"):
        folder, alike = tmp_path / method, one / method
        assert told(folder)["engine"]["processes"] == 2
        assert_held(alike, one / "start", torch.float32)
        assert_held(folder, one / "start", torch.bfloat16 if engine in GPU_ENGINES else torch.float32)
        if engine not in GPU_ENGINES:
            assert (folder / MASK_FILE).read_bytes() == (alike / MASK_FILE).read_bytes()
            assert told(folder)["mask"] == told(alike)["mask"]
            assert farthest(folder, alike) < 1e-5
