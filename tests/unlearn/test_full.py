"""`finetune=full`: the model itself is trained, without an adapter, and saved as a folder like any other."""

import json

import pytest
import torch
from helpers import MODEL, TRAIN, read_lines, run, trained
from torch import nn
from transformers import LlavaForConditionalGeneration

from safeeraser.errors import BadInput
from safeeraser.model import load_model
from safeeraser.unlearn.reference import check_room

from .built import GIVEN

TWO = (*GIVEN, "finetune=full", "lr=0.001", "max_train_steps=2", "warmup_ratio=0")


def weights(folder):
    return load_model(str(folder), torch.float32).state_dict()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("full") / "run", *TWO, "forget_loss=klpd")


def test_language_model_and_projector_have_moved_and_nothing_else(whole):
    before, after = weights(MODEL), weights(whole)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys() and moved == {name for name in before if ".vision_tower." not in name}
    counts = {"LoRA": 0, "vision_tower": 0}
    counts["projector"] = sum(before[name].numel() for name in before if ".multi_modal_projector." in name)
    counts["language_model"] = sum(before[name].numel() for name in moved) - counts["projector"]
    assert json.loads((whole / "run.json").read_text())["trained_parameters"] == counts


def test_the_reference_stays_untouched_and_must_find_room(whole):
    """KL is 0 before the first step alone; were the reference trained along, it would stay there."""
    first, second = (row["terms"]["kl"] for row in read_lines(whole / "train_log.jsonl"))
    assert first == pytest.approx(0, abs=1e-6) and second > 1e-5
    with torch.device("meta"):
        model = nn.Linear(2**20, 2**20, bias=False)  # four tebibytes
    with pytest.raises(BadInput, match=r"needs a second copy; that takes 4096\.0 GiB, and [0-9.]+ are free"):
        check_room(model, torch.device("cpu"), torch.float32)
    check_room(nn.Linear(8, 8), torch.device("cpu"), torch.float32)


@pytest.mark.slow
def test_the_folder_answers_as_a_model_does(whole, tmp_path):
    given = ["--eval_file", TRAIN, "--greedy", "--max_new_tokens", 4, "--limit", 1, "--model_path", whole]
    done = run("ckpt_infer", *given, "--output_file", tmp_path / "p.json", "--loss_type", "klpd")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "p.run.json").read_text())["training"]["method"] == "klpd"


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
