"""Two real processes: sines and LoRA on the projector are trained as in one, and gone on with to the bit."""

import json
from pathlib import Path

import pytest
import torch
from helpers import ROOT, alone, read_lines
from safetensors.torch import load_file

from .test_engines import GPU_ENGINES, ended_well, farthest, start, told, words_of

pytestmark = pytest.mark.slow

HOW = ("sine", "lora")


def train(folder, engine):
    """Each way under an engine, with a reference; and again from the checkpoint in the middle. In one launch."""
    runs, items = [], 4 if engine == "one_gpu" else 2
    for how in HOW:
        words = ("init_adapter=null", "max_train_steps=4", "save_steps=2", "warmup_ratio=0", f"projector={how}")
        words += (f"gradient_accumulation_steps={items}", *(["dtype=bfloat16"] if engine in GPU_ENGINES else []))
        runs.append(words_of(folder / how, "klpd", *words))
        on = f"resume_from_checkpoint={folder / how / 'checkpoint-2'}"
        runs.append(words_of(folder / f"{how}_on", "klpd", *words, on))
    (folder / "runs.json").write_text(json.dumps(runs))
    config = ROOT / "config" / "accelerate" / f"{engine}.yaml"
    series = Path(__file__).with_name("series.py")
    with alone():
        ended_well(start(engine, "accelerate", "launch", "--config_file", config, series, folder / "runs.json"))
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return train(tmp_path_factory.mktemp("one"), "one_gpu")


@pytest.mark.parametrize("engine", ["cpu_ddp", "cpu_zero2", "cpu_zero3", "fsdp2"])
def test_two_processes_train_as_one_and_go_on_to_the_bit(one, tmp_path, engine):
    train(tmp_path, engine)
    for how in HOW:
        assert told(tmp_path / how)["engine"]["processes"] == 2
        assert told(tmp_path / f"{how}_on")["sittings"][0]["from_step"] == 2
        assert farthest(tmp_path / how, tmp_path / f"{how}_on") == 0
        assert farthest(tmp_path / how, tmp_path / how / "checkpoint-2") > 0
        rows, others = (read_lines(tmp_path / name / "train_log.jsonl") for name in (how, f"{how}_on"))
        assert rows[2:] == others
        kl = [row["terms"]["kl"] for row in rows]
        assert kl[0] == pytest.approx(0, abs=1e-6) and kl[-1] > 1e-6
        if engine not in GPU_ENGINES:
            assert farthest(tmp_path / how, one / how) < 1e-5
        assert {value.dtype for value in load_file(tmp_path / how / "adapter_model.safetensors").values()} == {
            torch.float32
        }
