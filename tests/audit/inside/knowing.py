"""The tiny model, and one that has learnt a few answers by heart. They are shared by all tests: nobody changes them."""

from functools import lru_cache

import torch
from helpers import MODEL, TRAIN

from safeeraser.audit.inside import Pair, read_pairs
from safeeraser.audit.inside.reading import batches
from safeeraser.benchmark.records import read_records
from safeeraser.model import VLM


@lru_cache(1)
def some_pairs() -> list[Pair]:
    """Eight pairs of the recorded data, whole answers."""
    return read_pairs(read_records(TRAIN), range(2))


@lru_cache(1)
def untouched() -> VLM:
    """The tiny model."""
    vlm = VLM.load(str(MODEL), torch.float32)
    vlm.model.eval()
    return vlm


@lru_cache(1)
def knowing() -> VLM:
    """The tiny model, its language model trained until it says the pairs' true answers."""
    vlm = VLM.load(str(MODEL), torch.float32)
    vlm.model.eval()
    (batch,) = batches(vlm, [(pair, pair.true) for pair in some_pairs()], len(some_pairs()))
    weights = [*vlm.model.get_decoder().requires_grad_(True).parameters()]
    optimizer = torch.optim.Adam(weights, lr=3e-3)
    for _ in range(50):
        logits = vlm.logits(batch.inputs, batch.places(back=1))
        torch.nn.functional.cross_entropy(logits, batch.targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    vlm.model.requires_grad_(False)
    return vlm
