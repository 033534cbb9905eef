"""Whether a run fits its GPU, and what would make it fit, as a dry run tells it."""

import psutil
import pytest
import torch
from helpers import ROOT, TRAIN, run, settings

from safeeraser.unlearn.engine import Engine
from safeeraser.unlearn.fit import advice
from safeeraser.unlearn.memory import Part

pytestmark = pytest.mark.slow

GIB = 2**30
ZERO2 = Engine("zero2", 2, offload_optimizer=True)
DEFAULT = f"engine={ROOT / 'config' / 'accelerate_config.yaml'}"


def told(given, engine, estimate):
    """The advice, and what was estimated for it: checkpointing, quantization and engine."""
    tried = []

    def asked(settings, engine):
        tried.append((settings.gradient_checkpointing, settings.quantization, engine.name, engine.processes))
        return [Part("all", estimate(settings, engine) * GIB, GIB)]

    parts = asked(given, engine)
    return list(advice(given, engine, parts, asked, items=1000)), tried[1:]


def by_settings(given, engine):
    """GiB as those of LLaVA-1.5-7B, roughly."""
    table = {(False, "none"): 38, (True, "none"): 16, (False, "nf4"): 29, (True, "nf4"): 7}
    shared = {"zero3": -4, "ddp": 1}.get(engine.name, 0) if given.quantization == "none" else 0
    return table[given.gradient_checkpointing, given.quantization] + shared


@pytest.mark.parametrize(
    ("memory", "key"),
    [
        (38.9, "gradient_checkpointing=true: 17.0 GiB"),
        (17, "gradient_checkpointing=true: 17.0 GiB"),
        (16.9, "gradient_checkpointing=true and quantization=nf4: 8.0 GiB"),
    ],
)
def test_the_first_change_that_makes_it_fit(memory, key):
    lines, _ = told(settings(f"gpu_memory={memory}"), ZERO2, by_settings)
    assert lines == [
        f"It does not fit in the {memory:.1f} GiB of gpu_memory: 39.0 with what CUDA takes.",
        f"It would with {key}.",
    ]


def test_only_what_goes_together_is_tried():
    """What is on already is no change; nor does a model trained whole go in four bits, nor four bits with ZeRO-3."""
    lines, tried = told(settings("gpu_memory=12.5", "finetune=full", "dtype=auto"), ZERO2, by_settings)
    assert tried == [(True, "none", "zero2", 2), (False, "none", "zero3", 2), (True, "none", "zero3", 2)]
    assert "gradient checkpointing, four bits or zero3.yaml: 13.0 GiB at the least" in lines[-1]
    checkpointed = settings("gpu_memory=13", "gradient_checkpointing=true", "finetune=full", "dtype=auto")
    lines, tried = told(checkpointed, ZERO2, by_settings)
    assert tried == [(True, "none", "zero3", 2)]
    assert lines[-1] == "It would with ACCELERATE_CONFIG=config/accelerate/zero3.yaml: 13.0 GiB."
    # Files whose bfloat16 the settings contradict are no help, nor is ddp.yaml then quicker.
    _, tried = told(settings("gpu_memory=2"), ZERO2, by_settings)
    assert {name for _, _, name, _ in tried} == {"zero2"} and len(tried) == 3
    assert len(told(settings("gpu_memory=80"), ZERO2, by_settings)[0]) == 1
    # One process has nobody to share with.
    _, tried = told(settings("gpu_memory=2"), Engine(), by_settings)
    assert {name for _, _, name, _ in tried} == {"single"} and len(tried) == 3


@pytest.mark.parametrize(("processes", "file"), [(4, "ddp"), (1, "one_gpu")])
def test_what_is_quicker_where_all_fits(processes, file):
    engine = Engine("zero2", processes, offload_optimizer=True)
    lines, tried = told(settings("gpu_memory=80", "dtype=auto"), engine, by_settings)
    assert lines[0] == "It fits in the 80.0 GiB of gpu_memory: 39.0 with what CUDA takes."
    assert f"config/accelerate/{file}.yaml, which is quicker" in lines[1] and len(lines) == 2
    assert tried == [(False, "none", "ddp" if processes > 1 else "single", processes)]
    # DDP takes one GiB more here, and is not quicker than itself.
    assert len(told(settings("gpu_memory=39.5", "dtype=auto"), ZERO2, by_settings)[0]) == 1
    assert len(told(settings("gpu_memory=80", "dtype=auto"), Engine("ddp", 2), by_settings)[0]) == 1


def test_the_gpus_that_are_here(monkeypatch):
    """The fullest of those that would be used counts; without any, nothing is said."""
    assert told(settings(), ZERO2, by_settings) == ([], [])
    free = [60, 30, 5]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda card: (free[card] * GIB, 80 * GIB))
    assert told(settings(), Engine(), by_settings)[0][0].startswith("It fits in the 60.0 GiB that are free on the GPU")
    assert told(settings(), ZERO2, by_settings)[0][0].startswith("It does not fit in the 30.0 GiB that are free on the")
    # Two processes move a GiB each to CPU memory.
    memory = psutil.virtual_memory()._replace(available=1.5 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert told(settings(), ZERO2, by_settings)[0][0] == (
        "CPU memory: all processes need 2.0 GiB together, and 1.5 are free here."
    )


def test_a_dry_run_for_a_card_of_24(tmp_path):
    """The real 7B in bfloat16, though neither its weights nor such a card are here."""
    done = run("forget", f"data_path={TRAIN}", "dry_run=true", f"save_dir={tmp_path / 'no'}", DEFAULT, "gpu_memory=24")
    assert done.returncode == 0, done.stderr
    assert "(zero2, bfloat16)" in done.stdout and "Without a GPU here" not in done.stdout
    assert done.stdout.splitlines()[-2:] == [
        "It does not fit in the 24.0 GiB of gpu_memory: 39.0 with what CUDA takes.",
        "It would with gradient_checkpointing=true: 17.1 GiB.",
    ]
