"""`projector`: what each way trains, saves and records, SineProject against a loop by hand, and what may follow."""

import json

import pytest
import torch
from helpers import MODEL, refused, run, trained
from peft import PeftModel
from safetensors.torch import load_file

from safeeraser import model as models
from safeeraser.errors import BadInput
from safeeraser.unlearn.job import check_projector

from .built import ADAPTER, GIVEN, Gradients, built, checked

WORDS = (*GIVEN, "forget_loss=klpd", "LoRA.r=4", "LoRA.alpha=16", "lr=0.01", "warmup_ratio=0", "max_train_steps=1")
WAYS = ("lora", "sine", *(pytest.param(how, marks=pytest.mark.slow) for how in ("full", "frozen")))
LAYERS = ("linear_1", "linear_2")
WHOLE = {f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")}
LORA = {f"{layer}.lora_{side}.weight" for layer in LAYERS for side in "AB"}
SIZE = (32 * 64 + 64) + (64 * 64 + 64)


@pytest.fixture(scope="module", params=WAYS)
def through(request, tmp_path_factory):
    """A run of klpd in one way."""
    return request.param, trained(tmp_path_factory.mktemp("run") / "run", *WORDS, f"projector={request.param}")


def of_projector(folder):
    """What an adapter holds of the projector, by the names below it."""
    saved = load_file(folder / ADAPTER)
    mark = ".multi_modal_projector."
    return {name.partition(mark)[2]: value for name, value in saved.items() if mark in name}


def untouched():
    return models.load_model(str(MODEL), torch.float32).eval()


@torch.no_grad()
def logits(model, batch):
    return model.eval()(**batch).logits


def test_what_is_saved_and_recorded(through):
    how, folder = through
    found = of_projector(folder)
    assert found.keys() == {"full": WHOLE, "sine": WHOLE, "lora": LORA, "frozen": set()}[how]
    stays = untouched().model.multi_modal_projector.state_dict()
    for name, value in found.items():
        assert not torch.equal(value, stays.get(name, torch.zeros_like(value))), name
    told = json.loads((folder / "run.json").read_text())
    assert (told["settings"]["projector"], told["settings"]["tune_mm_projector"]) == (how, how != "frozen")
    inside = 4 * (32 + 64) + 4 * (64 + 64) if how == "lora" else 0
    assert told["trained_parameters"] == {
        "LoRA": 2 * 4 * (4 * (64 + 64) + 3 * (64 + 128)) + inside,
        "projector": SIZE if how in ("full", "sine") else 0,
        "vision_tower": 0,
    }


def test_an_adapter_is_taken_up_by_the_ways_that_store_alike_alone(through):
    """`full` and `sine` store the projector whole; the others hold something else, and are refused by name."""
    how, folder = through
    for ours in ("full", "lora", "sine", "frozen"):
        read = checked("kl", {"projector": ours, "init_adapter": str(folder), "LoRA.r": 4, "LoRA.alpha": 16})
        if how == ours or {how, ours} == {"full", "sine"}:
            check_projector(read, folder)
            continue
        says = "full or sine" if how in ("full", "sine") else how
        with pytest.raises(BadInput, match=rf"\(projector={says}\), and this run projector={ours}"):
            check_projector(read, folder)


@pytest.mark.parametrize("how", ["sine", "lora"])
def test_what_was_saved_answers_as_the_trained_model_and_the_reference_stays(tmp_path, how):
    """To the bit. And sines begin around the adapter that is given, as it answers."""
    keys = {"projector": how, "lr": 0.01, "warmup_ratio": 0}
    trainer = built(tmp_path, "kl", keys, steps=2, noise=0)
    batch, bare = trainer.data_collator([trainer.train_dataset[0]])["inputs"], untouched()
    expected = logits(bare, batch)
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
    again.save_model()
    one, two = (load_file(folder / ADAPTER) for folder in (tmp_path, tmp_path / "again"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_step_of_plain_descent_moves_each_weight_by_the_sine_of_its_own(tmp_path):
    """At D = 0 its gradient is W's: after a step the adapter holds W + sin(-rate g), g as training W itself has it."""
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


@pytest.mark.slow
@pytest.mark.parametrize("through", ["sine", "lora"], indirect=True)
def test_merged_it_answers_alike(through, tmp_path):
    how, folder = through
    trainer = built(tmp_path / "rows", "gd")
    batch = trainer.data_collator([trainer.train_dataset[0]])["inputs"]
    plain = logits(PeftModel.from_pretrained(untouched(), folder), batch)
    assert torch.equal(logits(models.load_adapted(untouched(), folder), batch), plain)
    assert run("safeeraser.model", "merge", folder, tmp_path / "merged").returncode == 0
    merged = logits(models.load_model(str(tmp_path / "merged"), torch.float32), batch)
    assert torch.allclose(merged, plain, atol=1e-4) and not torch.allclose(
        merged, logits(untouched(), batch), atol=1e-3
    )
    if how == "lora":
        words = ("safeeraser.model", "convert", folder, tmp_path / "checkpoint.pt")
        refused(tmp_path, *words, says="for which the release's form, of LLaVA-1.5 alone, has no name")
