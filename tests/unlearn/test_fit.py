"""Whether a run fits its GPU, and what would make it fit, as a dry run tells it."""

import psutil
import pytest
import torch

from safeeraser.unlearn.engine import Engine
from safeeraser.unlearn.fit import advice
from safeeraser.unlearn.memory import Part

from .given import settings

GIB = 2**30
ZERO2 = Engine("zero2", 2, offload_optimizer=True)


def told(engine, *words):
    """The advice for a run as large as LLaVA-1.5-7B's, and what was tried: checkpointing, quantization and engine."""
    tried = []

    def asked(given, engine):
        tried.append((given.gradient_checkpointing, given.quantization, engine.name, engine.processes))
        table = {(False, "none"): 38, (True, "none"): 16, (False, "nf4"): 29, (True, "nf4"): 7}
        shared = {"zero3": -4, "ddp": 1}.get(engine.name, 0) if given.quantization == "none" else 0
        return [Part("all", (table[given.gradient_checkpointing, given.quantization] + shared) * GIB, GIB)]

    given = settings(*words)
    return list(advice(given, engine, asked(given, engine), asked, items=1000)), tried[1:]


FITS, NOT = "It fits in the {} GiB of gpu_memory: {} with what CUDA takes.", "It does not fit in the {} GiB of gpu_mem"
QUICKER = "So would it, with {} GiB, under ACCELERATE_CONFIG=config/accelerate/{}, which is quicker: zero2 moves"
NOR = "Nor would it with gradient checkpointing, four bits or zero3.yaml: "
WITH_BOTH = "It would with gradient_checkpointing=true and quantization=nf4: 8.0 GiB"
WITH_ZERO3 = "It would with ACCELERATE_CONFIG=config/accelerate/zero3.yaml: 13.0 GiB"
PLAIN, SPARED, BITS, BOTH = (False, "none"), (True, "none"), (False, "nf4"), (True, "nf4")


@pytest.mark.parametrize(
    ("engine", "words", "lines", "tried"),
    [
        # The first change that makes it fit, and only what is not on already and goes together: a model trained whole
        # does not go in four bits, nor four bits with ZeRO-3, nor a file of bfloat16 with dtype=float32.
        (ZERO2, "gpu_memory=39", [FITS.format("39.0", "39.0")], []),
        (ZERO2, "gpu_memory=38.9", [NOT.format(38.9), "It would with gradient_checkpointing=true: 17.0"], [SPARED]),
        (ZERO2, "gpu_memory=17", [NOT.format("17.0"), "It would with gradient_checkpointing=true: 17.0"], [SPARED]),
        (ZERO2, "gpu_memory=16.9", [NOT.format(16.9), WITH_BOTH],
         [SPARED, BITS, BOTH]),
        (ZERO2, "gpu_memory=2", [NOT.format("2.0"), NOR],
         [SPARED, BITS, BOTH]),
        (ZERO2, "gpu_memory=12.5 finetune=full dtype=auto", [NOT.format(12.5), NOR],
         [SPARED, (*PLAIN, "zero3", 2), (*SPARED, "zero3", 2)]),
        (ZERO2, "gpu_memory=13 gradient_checkpointing=true finetune=full dtype=auto",
         [NOT.format("13.0"), WITH_ZERO3], [(*SPARED, "zero3", 2)]),
        # One process has nobody to share with.
        (Engine(), "gpu_memory=2 dtype=auto", [NOT.format("2.0"), NOR], [SPARED, BITS, BOTH]),
        # What is quicker where all fits. DDP takes one GiB more here, and is not quicker than itself.
        (Engine("zero2", 4, offload_optimizer=True), "gpu_memory=80 dtype=auto",
         [FITS.format("80.0", "39.0"), QUICKER.format("40.0", "ddp.yaml")], [(*PLAIN, "ddp", 4)]),
        (Engine("zero2", 1, offload_optimizer=True), "gpu_memory=80 dtype=auto",
         [FITS.format("80.0", "39.0"), QUICKER.format("39.0", "one_gpu.yaml")], [(*PLAIN, "single", 1)]),
        (ZERO2, "gpu_memory=39.5 dtype=auto", [FITS.format("39.5", "39.0")], [(*PLAIN, "ddp", 2)]),
        (Engine("ddp", 2), "gpu_memory=80 dtype=auto", [FITS.format("80.0", "40.0")], []),
        (ZERO2, "seed=1", [], []),
    ],
)  # fmt: skip
def test_what_is_said_and_what_was_tried_for_it(engine, words, lines, tried):
    found, asked = told(engine, *words.split())
    assert [line[: len(says)] for line, says in zip(found, lines, strict=True)] == lines
    assert asked == [each if len(each) == 4 else (*each, engine.name, engine.processes) for each in tried]


def test_the_gpus_that_are_here(monkeypatch):
    """The fullest of those that would be used counts."""
    free = [60, 30, 5]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda card: (free[card] * GIB, 80 * GIB))
    assert told(Engine())[0][0].startswith("It fits in the 60.0 GiB that are free on the GPU")
    assert told(ZERO2)[0][0].startswith("It does not fit in the 30.0 GiB that are free on the")
    # Two processes move a GiB each to CPU memory.
    memory = psutil.virtual_memory()._replace(available=1.5 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    says = "CPU memory: all processes need 2.0 GiB together, and 1.5 are free here."
    assert told(ZERO2)[0][0] == says
