"""The ways to train the projector: the parameters that each trains, saves and records, the adapters that each accepts,
and a step of SineProject by hand. Also `finetune=full`, which trains the model itself and saves an ordinary folder."""

import json
from contextlib import nullcontext

import pytest
import torch
from helpers import MODEL, read_lines, run, trained
from peft import PeftModel
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from safeeraser.errors import BadInput
from safeeraser.model.load import load_model
from safeeraser.unlearn.job import check_projector

from .built import ADAPTER, GIVEN, Gradients, built, checked

WHOLE = {f"linear_{n}.{kind}" for n in (1, 2) for kind in ("weight", "bias")}
INSIDE = {f"linear_{n}.lora_{side}.weight" for n in (1, 2) for side in "AB"}


def of_projector(folder):
    """The projector's tensors in an adapter, by their names within the projector."""
    saved, mark = load_file(folder / ADAPTER), ".multi_modal_projector."
    return {name.partition(mark)[2]: value for name, value in saved.items() if mark in name}


def untouched():
    return load_model(str(MODEL), torch.float32).eval()


@torch.no_grad()
def logits(model, batch):
    return model.eval()(**batch).logits


@pytest.mark.slow
@pytest.mark.parametrize("how", ["full", "lora", "sine", "frozen"])
def test_what_is_saved_and_recorded_and_which_ways_take_it_up(tmp_path, how):
    """`full` and `sine` both store the entire projector. An adapter that stores it otherwise is refused by name."""
    words = ("forget_loss=klpd", "LoRA.r=4", "LoRA.alpha=16", "lr=0.01", "warmup_ratio=0", "max_train_steps=1")
    folder = trained(tmp_path / "run", *GIVEN, *words, f"projector={how}")
    found, stays = of_projector(folder), untouched().model.multi_modal_projector.state_dict()
    assert found.keys() == {"full": WHOLE, "sine": WHOLE, "lora": INSIDE, "frozen": set()}[how]
    for name, value in found.items():
        assert not torch.equal(value, stays.get(name, torch.zeros_like(value))), name
    told = json.loads((folder / "run.json").read_text())
    assert (told["settings"]["projector"], told["settings"]["tune_mm_projector"]) == (how, how != "frozen")
    lora, size = 2 * 4 * (4 * (64 + 64) + 3 * (64 + 128)), (32 * 64 + 64) + (64 * 64 + 64)
    lora, size = (lora + 4 * (32 + 64 + 64 + 64) * (how == "lora"), size * (how in ("full", "sine")))
    assert told["trained_parameters"] == {"LoRA": lora, "projector": size, "vision_tower": 0}
    for ours in ("full", "lora", "sine", "frozen"):
        read = checked("kl", {"projector": ours, "init_adapter": str(folder), "LoRA.r": 4, "LoRA.alpha": 16})
        says = "full or sine" if how in ("full", "sine") else how
        refusal = pytest.raises(BadInput, match=rf"\(projector={says}\), and this run projector={ours}")
        with nullcontext() if ours in says else refusal:
            check_projector(read, folder)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["sine", "lora"])
def test_what_was_saved_answers_as_the_trained_model_and_the_reference_stays(tmp_path, how):
    """The saved adapter gives the same logits to the bit, also at the start of another run; merged, nearly so."""
    keys = {"projector": how, "lr": 0.01, "warmup_ratio": 0}
    trainer = built(tmp_path, "kl", keys, steps=2, noise=0)
    batch = trainer.data_collator([trainer.train_dataset[0]])["batch"].inputs
    expected = logits(untouched(), batch)
    assert torch.equal(logits(trainer.model, batch), expected)
    trainer.train()
    trainer.save_model()
    found = logits(trainer.model, batch)
    assert (found - expected).abs().max() > 0.01
    with trainer.model.disable_adapter():
        assert torch.equal(logits(trainer.model, batch), expected)
    assert torch.equal(logits(PeftModel.from_pretrained(untouched(), tmp_path), batch), found)
    again = built(tmp_path / "again", "kl", keys | {"init_adapter": str(tmp_path)}, noise=0)
    assert torch.equal(logits(again.model, batch), found)
    assert run("safeeraser.model", "merge", tmp_path, tmp_path / "merged", "--model_path", MODEL).returncode == 0
    merged = load_model(str(tmp_path / "merged"), torch.float32)
    assert torch.allclose(logits(merged, batch), found, atol=1e-4)


def test_a_step_of_plain_descent_moves_each_weight_by_the_sine_of_its_own(tmp_path):
    """At D = 0, D has W's gradient g. So after a step the adapter holds W + sin(-rate g). Training W itself gives g."""
    kept, rate = Gradients(), 20.0
    keys = {"trainer.optim": "sgd", "lr": rate, "warmup_ratio": 0, "weight_decay": 0}
    built(tmp_path / "full", "none", keys, noise=0, callbacks=[kept]).train()
    trainer = built(tmp_path, "none", keys | {"projector": "sine"}, noise=0)
    trainer.train()
    trainer.save_model()
    stays = untouched().model.multi_modal_projector.state_dict()
    for name, value in of_projector(tmp_path).items():
        (gradient,) = (each for key, each in kept.steps[0].items() if key.endswith(f".default.{name}"))
        torch.testing.assert_close(value, stays[name] + torch.sin(-rate * gradient), rtol=1e-5, atol=1e-5)
        assert (value - stays[name] + rate * gradient).abs().max() > 1e-4, name


TWO = (*GIVEN, "finetune=full", "lr=0.001", "max_train_steps=2", "warmup_ratio=0")


@pytest.mark.slow
def test_language_model_and_projector_have_moved_and_nothing_else_nor_has_the_reference(tmp_path):
    """KL is 0 only before the first step. If the reference were trained too, KL would stay 0."""
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
    """During training, trained weights are in float32, which would take twice the space."""
    words = ("tune_language_model=false", "forget_loss=gd", "max_train_steps=1", "dtype=bfloat16", "lr=0.1")
    folder = trained(tmp_path / "run", *TWO, *words)
    stored = LlavaForConditionalGeneration.from_pretrained(folder, dtype="auto").state_dict()
    before = LlavaForConditionalGeneration.from_pretrained(MODEL, dtype=torch.bfloat16).state_dict()
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}
    moved = {name for name in before if not torch.equal(before[name], stored[name])}
    assert moved == {name for name in before if ".multi_modal_projector." in name}
