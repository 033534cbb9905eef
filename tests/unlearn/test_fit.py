"""Whether a run fits its GPU, and what would make it fit, as a dry run tells it."""

from pathlib import Path

import pytest
import torch
import yaml

from safeeraser.unlearn.engine import Engine
from safeeraser.unlearn.fit import advice
from safeeraser.unlearn.memory import Part

from .given import settings

GIB = 2**30
CASES = yaml.safe_load((Path(__file__).with_name("golden") / "fit.yaml").read_text())


def told(name, processes, *words):
    """The advice for a run as large as LLaVA-1.5-7B's, and what was tried: checkpointing, quantization and engine."""
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
    """The first change that makes it fit, and only what is not on already and goes together."""
    says, tried = told(*case.split())
    assert (says, tried) == (CASES[case]["says"], CASES[case]["tried"])


def test_the_gpus_that_are_here(monkeypatch):
    """The fullest of those that would be used counts."""
    free = [60, 30, 5]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda card: (free[card] * GIB, 80 * GIB))
    assert told("single", 1)[0][0].startswith("It fits in the 60.0 GiB that are free on the GPU")
    assert told("zero2", 2)[0][0].startswith("It does not fit in the 30.0 GiB that are free on the")
