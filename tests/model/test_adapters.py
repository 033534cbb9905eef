"""Adapters: the layers that have LoRA, the parameters that are trained, and the weights that a stored adapter gives a
model when it is applied fully or partly. Also weights rounded to 8 and 4 bits."""

import copy
import json

import pytest
import torch
from helpers import CHECKPOINT, MODEL, read_beside
from peft import PeftModel, get_peft_model_state_dict

from safeeraser.errors import BadInput
from safeeraser.model import lora
from safeeraser.model.llava import to_release
from safeeraser.model.lora import (
    adapter_parameters,
    check_parts,
    freeze_above,
    freeze_unseen,
    lora_config,
    trained_parameters,
    unfreeze,
)
from safeeraser.model.rounding import round_to, round_weights
from safeeraser.model.stored import convert, load_adapted

from .conftest import FAMILY, TARGETS, attach, said, shaken

# Rank 32 in 2 layers: four projections 64 -> 64, gate and up 64 -> 128, down 128 -> 64.
LORA = 2 * 32 * (4 * (64 + 64) + 3 * (64 + 128))
PROJECTOR = (32 * 64 + 64) + (64 * 64 + 64)
LONG = (4, {}, [7.0] + [0.4] * 128, [7.0] + [0.0] * 127 + [0.4])  # by default 128 columns share a scale
ROUNDED = read_beside(__file__, "rounded.yaml")


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(("projector", "vision"), [(True, False), (False, False), (True, True)])
def test_lora_sits_on_every_linear_layer_of_the_language_model_alone(base, projector, vision):
    tower = sum(parameter.numel() for parameter in base.model.vision_tower.parameters())
    model = attach(base, dropout=0.25, projector=projector, vision=vision)
    there = {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    prefix = "base_model.model.model.language_model.layers"
    assert there.keys() == {f"{prefix}.{layer}.{target}" for layer in (0, 1) for target in TARGETS}
    for module in there.values():
        assert (module.r["default"], module.scaling["default"], module.lora_dropout["default"].p) == (32, 8, 0.25)
        assert not module.cast_input_dtype_enabled
    assert adapter_parameters(model).keys() == trained(model)
    counts = trained_parameters(model, FAMILY)
    assert counts == {"LoRA": LORA, "projector": projector * PROJECTOR, "vision_tower": vision * tower}


def test_where_lora_cannot_sit_is_told_before_training(base, loaded):
    with pytest.raises(BadInput, match=r"LoRA.targets: no linear layer 'v_pro' in .*mean 'v_proj'"):
        attach(base, FAMILY.model_copy(update={"lora_targets": ("q_proj", "v_pro")}))
    check_parts(loaded, FAMILY)
    for key, wrong in {"projector": ("wrong",), "vision_tower": "wrong", "language_model": "wrong"}.items():
        with pytest.raises(BadInput, match=r"model_family=llava-1.5: the model has no part 'wrong'; known: language_m"):
            check_parts(loaded, FAMILY.model_copy(update={key: wrong}))
    config = lora_config(FAMILY, r=4, alpha=8)
    config.target_modules = ["q_proj"]  # this suffix matches layers of the vision tower too
    with pytest.raises(AssertionError, match="LoRA sits on 5 modules, expected 14 of language_model alone"):
        lora.attach(base, config, FAMILY)


@pytest.mark.parametrize(
    ("chosen", "frozen"),
    [(-2, ("layers.2.", "post_lay")), (-1, ("post_lay",)), ([-4, 1], ("layers.1.", "layers.2.", "post_lay"))],
)
def test_groups_are_trained_without_an_adapter_but_for_layers_that_nothing_looks_at(base, chosen, frozen):
    """The vision tower has three layers and so four states. State -2 is the output of its second layer."""
    unfreeze(base, FAMILY, {"projector", "head"})
    assert trained(base) == {name for name, _ in base.named_parameters() if "projector" in name or "lm_head" in name}
    counts = {"LoRA": 0, "projector": PROJECTOR, "vision_tower": 0, "language_model": base.lm_head.weight.numel()}
    assert trained_parameters(base, FAMILY) == counts
    unfreeze(base, FAMILY, {"vision_tower", "projector", "language_model", "head"})
    base.config.vision_feature_layer, before = chosen, trained(base)
    freeze_unseen(base, FAMILY)
    assert before - trained(base) == {name for name in before if "vision" in name and any(f in name for f in frozen)}
    before = trained(base)
    for layer, behind in ((1, ("lm_head.", "language_model.norm.")), (0, ("language_model.layers.1.",))):
        freeze_above(base, FAMILY, layer)
        lost = {name for name in before if any(part in name for part in behind)}
        assert before - trained(base) == lost != set()
        before -= lost


# The model that a stored adapter gives.


def weights(model):
    return model.merge_and_unload().state_dict()


def test_a_folder_and_a_checkpoint_are_the_same_model(loaded, base, tmp_path):
    """The release's checkpoint, saved as a PEFT folder, gives the same logits to the bit, and plain PEFT reads it."""
    released = load_adapted(base, CHECKPOINT)
    released.save_pretrained(tmp_path)
    folder = load_adapted(copy.deepcopy(loaded), tmp_path)
    plain = PeftModel.from_pretrained(copy.deepcopy(loaded), tmp_path)
    assert torch.equal(said(folder), said(released)) and torch.equal(said(plain), said(released))
    assert (said(released) - said(loaded)).abs().max() > 1e-3
    assert not trained(released) and folder.peft_config["default"].base_model_name_or_path == str(MODEL)
    # A PEFT folder records its alpha. For a bare file, the argument gives it.
    half = load_adapted(copy.deepcopy(loaded), CHECKPOINT, alpha=128)
    half.save_pretrained(tmp_path / "half")
    assert json.loads((tmp_path / "half" / "adapter_config.json").read_text())["lora_alpha"] == 128
    again = load_adapted(copy.deepcopy(loaded), tmp_path / "half", alpha=256)
    assert torch.equal(said(again), said(half)) and (said(half) - said(released)).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("how", "whole"), [({}, ["multi_modal_projector"]), ({"projector": False}, None),
                       ({"vision": True}, ["multi_modal_projector", "vision_tower"])]
)  # fmt: skip
def test_what_a_bare_file_is_of_is_read_from_its_names_and_shapes(loaded, base, tmp_path, how, whole):
    family = FAMILY.model_copy(update={"lora_targets": ("q_proj", "up_proj")})
    model = shaken(attach(base, family, r=4, alpha=16, **how))
    stored = to_release(get_peft_model_state_dict(model))
    # The release's name of the tower. The release reads with `strict=False`, and would silently skip another name.
    tower = "base_model.model.vision_tower.vision_model.encoder.layers.2.mlp.fc1.weight"
    assert (tower in stored) == ("vision" in how)
    torch.save(stored, tmp_path / "checkpoint.pt")
    back = load_adapted(copy.deepcopy(loaded), tmp_path / "checkpoint.pt", alpha=16)
    assert (back.peft_config["default"].r, back.peft_config["default"].modules_to_save) == (4, whole)
    assert torch.equal(said(back), said(model))


@pytest.mark.parametrize("kind", [pytest.param("use_rslora", marks=pytest.mark.slow), "use_dora", "plain"])
def test_part_of_an_adapter_lies_on_the_line_between_the_untouched_model_and_the_trained_one(
    loaded, base, tmp_path, kind
):
    """So does part of a variant of LoRA, which the release's form cannot represent. Both ends are exact to the bit."""
    model = shaken(attach(base, r=8, alpha=16, **({} if kind == "plain" else {kind: True})))
    model.save_pretrained(tmp_path / "adapter")
    folder = tmp_path / "adapter"
    assert torch.equal(said(load_adapted(copy.deepcopy(loaded), folder)), said(model))
    at = {scale: weights(load_adapted(copy.deepcopy(loaded), folder, scale=scale)) for scale in (0, 0.5, 1.0, 1.5)}
    end = weights(model)
    for key, value in loaded.state_dict().items():
        assert torch.equal(at[0][key], value) and torch.equal(at[1.0][key], end[key]), key
        for scale in (0.5, 1.5) if kind != "use_dora" else (0.5,):
            torch.testing.assert_close(at[scale][key], value + scale * (end[key] - value), rtol=1e-5, atol=1e-5)
    if kind != "plain":
        with pytest.raises(BadInput, match=f"trained with {kind}, which the release's form cannot say"):
            convert(folder, tmp_path / "checkpoint.pt")
        assert not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize(("bits", "more", "weight", "expected"), [*ROUNDED, LONG], ids=str)
def test_a_row_by_hand(bits, more, weight, expected):
    torch.testing.assert_close(round_to(torch.tensor([weight]), bits, **more), torch.tensor([expected]))
    half = torch.tensor([weight]).bfloat16()  # the dtype stays; the computation is in float32
    assert torch.equal(round_to(half, bits, **more), round_to(half.float(), bits, **more).bfloat16())


@pytest.mark.parametrize(("name", "bits"), [("int8", 8), ("int4", 4), ("nf4", None)])
def test_the_language_model_alone_is_rounded_in_place(base, name, bits):
    before = {key: value.clone() for key, value in base.state_dict().items()}
    round_weights(base, name)
    changed = {key for key, value in base.state_dict().items() if not torch.equal(before[key], value)}
    assert changed == {f"model.language_model.layers.{n}.{target}.weight" for n in (0, 1) for target in TARGETS}
    assert not bits or all(torch.equal(base.state_dict()[key], round_to(before[key], bits)) for key in changed)
