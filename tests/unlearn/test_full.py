"""`finetune=full`: the model itself is trained, without an adapter, and saved as a folder like any other."""

import json

import pytest
import torch
from helpers import MODEL, read_lines, trained
from transformers import LlavaForConditionalGeneration

from safeeraser.model import load_model

from .built import GIVEN

TWO = (*GIVEN, "finetune=full", "lr=0.001", "max_train_steps=2", "warmup_ratio=0")


@pytest.mark.slow
def test_language_model_and_projector_have_moved_and_nothing_else_nor_has_the_reference(tmp_path):
    """KL is 0 before the first step alone; were the reference trained along, it would stay there."""
    whole = trained(tmp_path / "run", *TWO, "forget_loss=klpd")
    before, after = (load_model(str(folder), torch.float32).state_dict() for folder in (MODEL, whole))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys() and moved == {name for name in before if ".vision_tower." not in name}
    projector, every = (sum(before[name].numel() for name in moved if part in name) for part in (".multi_modal_", ""))
    counts = {"LoRA": 0, "vision_tower": 0, "projector": projector, "language_model": every - projector}
    assert json.loads((whole / "run.json").read_text())["trained_parameters"] == counts
    first, second = (row["terms"]["kl"] for row in read_lines(whole / "train_log.jsonl"))
    assert first == pytest.approx(0, abs=1e-6) and second > 1e-5


@pytest.mark.slow
def test_the_projector_alone_saved_in_the_dtype_that_was_loaded(tmp_path):
    """What is trained is in float32 meanwhile, and would take twice the room."""
    words = ("tune_language_model=false", "forget_loss=gd", "max_train_steps=1", "dtype=bfloat16", "lr=0.1")
    folder = trained(tmp_path / "run", *TWO, *words)
    stored = LlavaForConditionalGeneration.from_pretrained(folder, dtype="auto").state_dict()
    before = LlavaForConditionalGeneration.from_pretrained(MODEL, dtype=torch.bfloat16).state_dict()
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}
    moved = {name for name in before if not torch.equal(before[name], stored[name])}
    assert moved == {name for name in before if ".multi_modal_projector." in name}
