"""The dry run: parameters and memory counted by hand, the complete output, whether a run fits its GPU, and the changes
that would make it fit."""

import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from helpers import MODEL, RECORDED, ROOT, TRAIN, config, pair, plan_dataset, read_beside, record, run, write_dataset
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

from safeeraser.model.load import load_config, load_preprocessor
from safeeraser.selftest.material import architecture
from safeeraser.unlearn.config.engine import Engine
from safeeraser.unlearn.config.read import read_settings
from safeeraser.unlearn.preflight.dry_run import outline, planned_steps
from safeeraser.unlearn.preflight.machine import advice
from safeeraser.unlearn.preflight.memory import MicroStep, Part, Setup, held, kept_bytes, memory

from .given import settings

GOLDEN = Path(__file__).parent / "golden"
MEMORY = read_beside(__file__, "golden/memory.yaml")
TINY = (f"data_path={TRAIN}", f"model_path={MODEL}", "dtype=float32", "dry_run=true")


SLOW = read_beside(__file__, "golden/dry_run.yaml")["slow"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *(pytest.param(name, words, marks=pytest.mark.slow) for name, words in SLOW.items()),
        ("whole", "forget_loss=kl finetune=full step=sam projector=frozen dtype=bfloat16 gpu_memory=40"
         " engine={config}/accelerate/cpu_zero2.yaml"),
    ],
)  # fmt: skip
def test_what_a_dry_run_prints(tmp_path, name, words):
    words = words.format(config=ROOT / "config", adapter=RECORDED / "initial_adapter.safetensors")
    model = shutil.copytree(MODEL, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    before = set(tmp_path.rglob("*"))
    done = run("forget", *TINY, f"model_path={model}", f"save_dir={tmp_path / 'no'}", *words.split())
    assert done.returncode == 0 and set(tmp_path.rglob("*")) == before, done.stderr
    lines = [line.rstrip() for line in done.stdout.replace(str(model), "MODEL").splitlines() if line.strip()]
    assert lines == (GOLDEN / f"dry_run_{name}.txt").read_text(encoding="utf-8").splitlines()


@cache
def family():
    """The settings for LLaVA-1.5-7B, and a model of its size in bfloat16 on the meta device."""
    read = read_settings(config("model_family=llava-1.5-7b"))
    return read, outline(read, architecture("7b"), torch.bfloat16)


def test_without_hub_and_folder_it_is_told_what_is_needed(tmp_path):
    done = run("forget", *TINY, "model_path=llava-hf/llava-1.5-7b-hf", f"save_dir={tmp_path / 'no'}")
    assert done.returncode == 2 and "a dry run needs no weights, only config.json" in done.stderr, done.stderr


@pytest.mark.parametrize("case", MEMORY)
def test_what_engines_share_out(case):
    name, processes, *more = case.split()
    read, model = family()
    if words := [word for word in more if "=" in word]:
        read = settings(*words)
    engine = Engine(name, int(processes), **{word: True for word in more if word.startswith("offload")})
    parts = {part.name: [part.device, part.cpu] for part in held(model, Setup(read, engine, torch.bfloat16))}
    assert parts == MEMORY[case]


def test_the_pictures_of_a_micro_step_are_counted():
    """Their own bytes count too. Autograd keeps little for them if the vision tower is not trained."""
    model = str(ROOT / "tests" / "data" / "families" / "smolvlm" / "model")
    read, inputs = settings(f"model_path={model}"), load_preprocessor(model).show(Image.new("RGB", (200, 120))).inputs
    setup, kept = Setup(read, Engine(), torch.bfloat16), {}
    for name, picture in (("text", {}), ("both", inputs)):
        shape = outline(read, load_config(model), torch.bfloat16)
        with FakeTensorMode(allow_non_fake_inputs=True):
            kept[name] = kept_bytes(shape.to_empty(device="cpu"), setup, MicroStep(read.method, 3, 40, {}, picture))
    given = sum(each.numel() * (2 if each.is_floating_point() else each.itemsize) for each in inputs.values())
    assert 1 < (kept["both"] - kept["text"]) / (3 * given) < 1.1


GIB = 2**30
CASES = read_beside(__file__, "golden/fit.yaml")


def told(name, processes, *words):
    """The advice for a run about as large as LLaVA-1.5-7B's, and the setups that were tried for it."""
    tried = []

    def asked(given, engine):
        spared = "checkpointing" if given.gradient_checkpointing else "plain"
        tried.append(f"{spared} {given.quantization} {engine.name} {engine.processes}")
        table = {(False, "none"): 38, (True, "none"): 16, (False, "nf4"): 29, (True, "nf4"): 7}
        shared = {"zero3": -4, "ddp": 1}.get(engine.name, 0) if given.quantization == "none" else 0
        return [Part("all", (table[given.gradient_checkpointing, given.quantization] + shared) * GIB, GIB)]

    given, engine = settings(*words), Engine(name, int(processes), offload_optimizer=name == "zero2")
    return list(advice(given, engine, asked(given, engine), asked, items=1000)), tried[1:]


@pytest.mark.parametrize("case", CASES)
def test_what_is_said_and_what_was_tried_for_it(case):
    """It names the first change that makes the run fit. Changes that are already on or refused are not tried."""
    says, tried = told(*case.split())
    assert (says, tried) == (CASES[case]["says"], CASES[case]["tried"])


def test_the_gpus_that_are_here(monkeypatch):
    """Among the GPUs that the run would use, the one with the least free memory counts."""
    free = [60, 30, 5]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda card: (free[card] * GIB, 80 * GIB))
    assert told("single", 1)[0][0].startswith("It fits in the 60.0 GiB that are free on the GPU")
    assert told("zero2", 2)[0][0].startswith("It does not fit in the 30.0 GiB that are free on the")


def test_rows_that_a_step_alone_reads_are_counted(tmp_path):
    """PO reads no answers about benign pictures. `step=tamper` relearns them, and they are the longest rows here."""
    path = write_dataset(tmp_path, record(0, unsafe_pairs=[pair(0, sd_response="fine " * 300)]))
    found = {}
    for step in ("sam", "tamper"):
        read = settings(f"data_path={path}", "forget_loss=po", f"step={step}", "max_length=400")
        steps = planned_steps(read, plan_dataset(read))
        parts = memory(
            outline(read, load_config(str(MODEL)), torch.float32), Setup(read, Engine(), torch.float32), *steps
        )
        kept = next(part.device for part in parts if part.name.startswith("activations"))
        found[step] = (max(each.length for each in steps), kept)
    assert found["tamper"][0] > 300 > found["sam"][0] and found["tamper"][1] > found["sam"][1]
