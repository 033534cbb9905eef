"""LoRA on the projector and SineProject for each family: what is trained and saved, and that plain PEFT loads it."""

import pytest
import torch
from helpers import RECORDED, refused, trained
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForImageTextToText

from safeeraser import model as vlm

from .recorded import Recorded, logits
from .test_training_settings import gradients, words

pytestmark = pytest.mark.slow

HOW = ("lora", "sine")
STEPS = ("lr=0.01", "warmup_ratio=0", "max_train_steps=2", "forget_loss=klpd")


def projector_of(family):
    """What the untouched projector has: parameters by name, and those of its linear layers."""
    page, model = vlm.family_of(family.path), family.model
    linear = {n for n, each in model.named_modules() if isinstance(each, nn.Linear) and page.part_of(n) == "projector"}
    parameters = {n: p for n, p in model.named_parameters() if page.part_of(n) == "projector"}
    return parameters, linear


@pytest.mark.parametrize("how", HOW)
def test_what_is_trained_and_saved(family, how, tmp_path):
    parameters, linear = projector_of(family)
    given = words(family, *STEPS, f"projector={how}")
    if how == "lora" and family.name == "gemma3":
        assert not linear
        refused(tmp_path, "forget", *given, f"save_dir={tmp_path / 'run'}", says="projector=lora: the projector of ",
                before="note")  # fmt: skip
        return
    folder, page = trained(tmp_path / "run", *given), vlm.family_of(family.path)
    saved = {
        name.removeprefix("base_model.model."): value
        for name, value in load_file(folder / "adapter_model.safetensors").items()
    }
    inside = {name: value for name, value in saved.items() if page.part_of(name.replace(".lora_", ".")) == "projector"}
    if how == "lora":
        assert {name.partition(".lora_")[0] for name in inside} == linear and len(inside) == 2 * len(linear)
    else:
        assert inside.keys() == parameters.keys()
        moved = {name for name, value in inside.items() if not torch.equal(value, parameters[name])}
        norms = {name for name in parameters if "norm" in name or "ln_q" in name}
        assert moved == parameters.keys() - norms
    batch = family.preprocessor.join([family.encode(row) for row in family.rows[:3]])
    bare = AutoModelForImageTextToText.from_pretrained(family.path, dtype=torch.float32, attn_implementation="eager")
    said = logits(PeftModel.from_pretrained(bare, folder).eval(), batch)
    assert torch.equal(said, logits(family.adapted(folder), batch))
    assert not torch.allclose(said, logits(family.model, batch), atol=1e-3)


@pytest.mark.parametrize("name", ["qwen3_vl", "gemma3", "internvl"])
def test_every_sine_has_a_gradient(name, tmp_path, monkeypatch):
    family = Recorded(name)
    monkeypatch.chdir(RECORDED)
    found = gradients(tmp_path, family, monkeypatch, "projector=sine")
    assert [each for each, gradient in found.items() if gradient is None] == []
    parameters, _ = projector_of(family)
    sines = [each for each in found if each.endswith(".original")]
    assert sines and all(found[each].norm() > 0 for each in sines)
    assert len(sines) <= len(parameters)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "smolvlm"])
def test_sines_beside_a_vision_tower_that_is_trained_whole(name, tmp_path):
    """The projector may lie within it, and is then saved as part of it."""
    family = Recorded(name)
    folder = trained(tmp_path / "run", *words(family, *STEPS, "projector=sine", "tune_vision_tower=true"))
    parameters, _ = projector_of(family)
    saved = load_file(folder / "adapter_model.safetensors")
    assert {f"base_model.model.{each}" for each in parameters} <= saved.keys()
    assert not any("parametrizations" in each for each in saved)
    batch = family.preprocessor.join([family.encode(row) for row in family.rows[:3]])
    assert not torch.allclose(logits(family.adapted(folder), batch), logits(family.model, batch), atol=1e-3)
