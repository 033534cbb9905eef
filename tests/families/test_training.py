"""Training eight families by forget.py follows what transformers and PEFT recorded, and leaves an adapter of PEFT's."""

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from safeeraser import model as vlm
from safeeraser.unlearn.reference import untouched

from .recorded import logits, nlls
from .trajectory import assert_follows, forget

pytestmark = pytest.mark.slow

PROJECTIONS = (*(f"self_attn.{name}_proj" for name in "qkvo"), *(f"mlp.{name}_proj" for name in ("gate", "up", "down")))
# What the language model is called below the whole one, where it is not `language_model`.
LANGUAGE_MODEL = {"idefics3": "text_model", "smolvlm": "text_model"}


def test_losses_gradients_and_norms_of_popd(family, popd):
    assert_follows(family, popd, "popd")


def test_losses_gradients_and_norms_of_klpd(family, tmp_path):
    """With a reference: the same model, whose adapter is off meanwhile, its projector's copy too."""
    assert_follows(family, forget(family, tmp_path / "klpd", "klpd"), "klpd")


def test_lora_sits_on_the_language_model_alone(family, popd):
    saved = load_file(popd / "adapter_model.safetensors")
    layers = family.read("model/config.json")["text_config"]["num_hidden_layers"]
    language = f"base_model.model.model.{LANGUAGE_MODEL.get(family.name, 'language_model')}.layers"
    expected = {f"{language}.{layer}.{part}" for layer in range(layers) for part in PROJECTIONS}
    for side in (".lora_A.", ".lora_B."):
        assert {name.partition(side)[0] for name in saved if side in name} == expected
    whole = {name for name in saved if ".lora_" not in name}
    parts = [{name for name in whole if f".{part}." in name} for part in family.figures["projector"]]
    assert all(parts) and set().union(*parts) == whole


def test_plain_peft_loads_the_adapter_as_trained(family, popd):
    base = AutoModelForImageTextToText.from_pretrained(family.path, dtype=torch.float32, attn_implementation="eager")
    plain, adapted = PeftModel.from_pretrained(base, popd).eval(), family.adapted(popd)
    rows = [family.encode(row) for row in family.rows[:12]]
    found = nlls(family, plain, rows)
    assert found == pytest.approx(nlls(family, adapted, rows), abs=1e-6, rel=0)
    # It is what was trained: neither the adapter that training began with, nor none.
    for other in ("rows", "with_adapter"):
        before = [row["nll"] for row in family.figures[other][:12]]
        assert max(abs(one - two) for one, two in zip(found, before, strict=True)) > 1e-3
    batch = family.preprocessor.join(rows[:3])
    bare = logits(family.model, batch)
    with untouched(adapted, None) as reference:
        assert torch.equal(logits(reference, batch), bare), "the reference is the bare model to the bit"
    assert not torch.allclose(logits(adapted, batch), bare, atol=1e-2)
    # What is trained is what PEFT switches off.
    assert set(vlm.adapter_parameters(adapted)) == set(family.read("training/popd.json")["final_norms"])
