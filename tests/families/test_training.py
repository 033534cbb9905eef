"""Training eight families by forget.py follows what transformers and PEFT recorded, and leaves an adapter of PEFT's."""

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from safeeraser import model as vlm
from safeeraser.unlearn.reference import untouched

from .recorded import PROJECTIONS, logits, nlls
from .trajectory import assert_follows, forget

# What the language model is called below the whole one, where it is not `language_model`.
LANGUAGE_MODEL = {"idefics3": "text_model", "smolvlm": "text_model"}


@pytest.fixture(scope="module")
def popd(family, tmp_path_factory):
    """The folder of the recorded training with `popd`."""
    return forget(family, tmp_path_factory.mktemp(family.name) / "popd", "popd")


def test_losses_gradients_and_norms_of_popd(family, popd):
    assert_follows(family, popd, "popd")


def test_losses_gradients_and_norms_of_klpd(family, tmp_path):
    """With a reference: the same model, whose adapter is off meanwhile, its projector's copy too."""
    assert_follows(family, forget(family, tmp_path / "klpd", "klpd"), "klpd")


def test_lora_sits_on_the_language_model_alone(family, popd):
    saved = load_file(popd / "adapter_model.safetensors")
    layers = family.config["text_config"]["num_hidden_layers"]
    language = f"base_model.model.model.{LANGUAGE_MODEL.get(family.name, 'language_model')}.layers"
    expected = {f"{language}.{layer}.{part}" for layer in range(layers) for part in PROJECTIONS}
    assert len(expected) == 7 * layers
    assert {name.partition(".lora_A.")[0] for name in saved if ".lora_A." in name} == expected
    assert {name.partition(".lora_B.")[0] for name in saved if ".lora_B." in name} == expected
    whole = [name for name in saved if ".lora_" not in name]
    assert all(any(f".{part}." in name for part in family.figures["projector"]) for name in whole)
    assert all(any(f".{part}." in name for name in whole) for part in family.figures["projector"])


def test_the_saved_adapter_loads_in_plain_peft(family, popd):
    base = AutoModelForImageTextToText.from_pretrained(family.path, dtype=torch.float32, attn_implementation="eager")
    plain = PeftModel.from_pretrained(base, popd).eval()
    rows = [family.encode(row) for row in family.rows[:12]]
    found = nlls(family, plain, rows)
    assert found == pytest.approx(nlls(family, family.adapted(popd), rows), abs=1e-6, rel=0)
    # It is what was trained: neither the adapter that training began with, nor none.
    for other in ("rows", "with_adapter"):
        before = [row["nll"] for row in family.figures[other][:12]]
        assert max(abs(one - two) for one, two in zip(found, before, strict=True)) > 1e-3


def test_the_reference_is_the_bare_model_to_the_bit(family, popd):
    batch = family.preprocessor.join([family.encode(row) for row in family.rows[:3]])
    adapted, bare = family.adapted(popd), logits(family.model, batch)
    with untouched(adapted, None) as reference:
        assert torch.equal(logits(reference, batch), bare)
    assert not torch.allclose(logits(adapted, batch), bare, atol=1e-2)


def test_what_is_trained_is_what_peft_switches_off(family):
    names = set(vlm.adapter_parameters(family.adapted(family.adapter)))
    assert names == set(family.read("training/popd.json")["final_norms"])
