"""Adapters: where LoRA sits, what is trained, and which weights a stored adapter makes of a model, in part or whole."""

import copy
import json

import pytest
import torch
from helpers import MODEL
from peft import PeftModel, get_peft_model_state_dict

from safeeraser import model as models
from safeeraser.errors import BadInput

from .conftest import CHECKPOINT, FAMILY, TARGETS, attach, said, shaken


def test_lora_sits_on_every_linear_layer_of_the_language_model_alone(base):
    model = attach(base, dropout=0.25)
    there = {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    prefix = "base_model.model.model.language_model.layers"
    assert there.keys() == {f"{prefix}.{layer}.{target}" for layer in (0, 1) for target in TARGETS}
    for module in there.values():
        assert (module.r["default"], module.scaling["default"], module.lora_dropout["default"].p) == (32, 8, 0.25)
        assert not module.cast_input_dtype_enabled
    names = models.adapter_parameters(model).keys()
    assert names == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(names) == 2 * 14 + 4  # and the projector's copy: two layers with their biases


# 2 layers of rank 32: four projections 64 -> 64, gate and up 64 -> 128, down 128 -> 64.
LORA = 2 * 32 * (4 * (64 + 64) + 3 * (64 + 128))
PROJECTOR = (32 * 64 + 64) + (64 * 64 + 64)


@pytest.mark.parametrize(("projector", "vision"), [(True, False), (False, False), (True, True)])
def test_trained_parameters_are_counted_by_group(base, projector, vision):
    tower = sum(parameter.numel() for parameter in base.model.vision_tower.parameters())
    counts = models.trained_parameters(attach(base, projector=projector, vision=vision), FAMILY)
    assert counts == {"LoRA": LORA, "projector": projector * PROJECTOR, "vision_tower": vision * tower}


def test_where_lora_cannot_sit_is_told_before_training(base, loaded):
    other = FAMILY.model_copy(update={"lora_targets": ("q_proj", "v_pro")})
    with pytest.raises(BadInput, match=r"LoRA.targets: no linear layer 'v_pro' in .*mean 'v_proj'"):
        attach(copy.deepcopy(loaded), other)
    with pytest.raises(BadInput, match="LoRA: Orthogonal initialization requires"):
        attach(copy.deepcopy(loaded), r=3, init_lora_weights="orthogonal")
    models.check_parts(loaded, FAMILY)
    for key in ("projector", "vision_tower", "language_model"):
        part = FAMILY.model_copy(update={key: ("wrong",) if key == "projector" else "wrong"})
        with pytest.raises(BadInput, match=r"model_family=llava-1.5: the model has no part 'wrong'; known: language_m"):
            models.check_parts(loaded, part)
    config = models.lora_config(FAMILY, r=4, alpha=8)
    config.target_modules = ["q_proj"]  # by suffix: the vision tower has such layers too
    with pytest.raises(AssertionError, match="LoRA sits on 5 modules, expected 14 of language_model alone"):
        models.attach(base, config, FAMILY)


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_groups_are_let_be_trained_without_an_adapter(base):
    models.unfreeze(base, FAMILY, {"projector", "head"})
    names = dict(base.named_parameters())
    assert trained(base) == {name for name in names if "projector" in name or "lm_head" in name}
    counts = {"LoRA": 0, "projector": PROJECTOR, "vision_tower": 0, "language_model": base.lm_head.weight.numel()}
    assert models.trained_parameters(base, FAMILY) == counts


@pytest.mark.parametrize(
    ("chosen", "frozen"),
    [(-2, ("layers.2.", "post_lay")), (-1, ("post_lay",)), ([-4, 1], ("layers.1.", "layers.2.", "post_lay"))],
)
def test_layers_of_the_vision_tower_that_nothing_looks_at_are_frozen(base, chosen, frozen):
    """Of three: number -2 of the four states is what the second layer makes."""
    base.config.vision_feature_layer = chosen
    models.unfreeze(base, FAMILY, {"vision_tower", "projector"})
    before = trained(base)
    models.freeze_unseen(base, FAMILY)
    assert before - trained(base) == {name for name in before if any(part in name for part in frozen)}


@pytest.mark.parametrize("layer", [0, 1])
def test_what_lies_behind_the_last_layer_that_is_looked_at_is_frozen(base, layer):
    models.unfreeze(base, FAMILY, {"vision_tower", "projector", "language_model", "head"})
    before = trained(base)
    models.freeze_above(base, FAMILY, layer)
    behind = ("lm_head.", "language_model.norm.", *(["language_model.layers.1."] if layer == 0 else []))
    assert before - trained(base) == {name for name in before if any(part in name for part in behind)}


# Which model a stored adapter makes.


def weights(model):
    return model.merge_and_unload().state_dict()


def test_a_folder_and_a_checkpoint_are_the_same_model(loaded, base, tmp_path):
    """The release's checkpoint, saved again as a PEFT folder, says the same to the bit, and plain PEFT reads it."""
    released = models.load_adapted(base, CHECKPOINT)
    released.save_pretrained(tmp_path)
    folder = models.load_adapted(copy.deepcopy(loaded), tmp_path)
    plain = PeftModel.from_pretrained(copy.deepcopy(loaded), tmp_path)
    assert torch.equal(said(folder), said(released)) and torch.equal(said(plain), said(released))
    assert (said(released) - said(loaded)).abs().max() > 1e-3
    assert not trained(released) and folder.peft_config["default"].base_model_name_or_path == str(MODEL)
    # Alpha is the folder's own, but given for a bare file.
    half = models.load_adapted(copy.deepcopy(loaded), CHECKPOINT, alpha=128)
    half.save_pretrained(tmp_path / "half")
    assert json.loads((tmp_path / "half" / "adapter_config.json").read_text())["lora_alpha"] == 128
    again = models.load_adapted(copy.deepcopy(loaded), tmp_path / "half", alpha=256)
    assert torch.equal(said(again), said(half)) and (said(half) - said(released)).abs().max() > 1e-4
    merged = folder.merge_and_unload()
    assert torch.allclose(said(merged), said(released), atol=1e-5)
    assert not any("lora" in name or "modules_to_save" in name for name in merged.state_dict())


@pytest.mark.parametrize(
    ("how", "whole"), [({}, ["multi_modal_projector"]), ({"projector": False}, None),
                       ({"vision": True}, ["multi_modal_projector", "vision_tower"])]
)  # fmt: skip
def test_what_a_bare_file_is_of_is_read_from_its_names_and_shapes(loaded, base, tmp_path, how, whole):
    model = shaken(
        attach(base, FAMILY.model_copy(update={"lora_targets": ("q_proj", "up_proj")}), r=4, alpha=16, **how)
    )
    torch.save(models.to_release(get_peft_model_state_dict(model)), tmp_path / "checkpoint.pt")
    back = models.load_adapted(copy.deepcopy(loaded), tmp_path / "checkpoint.pt", alpha=16)
    assert (back.peft_config["default"].r, back.peft_config["default"].modules_to_save) == (4, whole)
    assert torch.equal(said(back), said(model))


@pytest.fixture(params=["use_dora", "use_rslora"])
def variant(request, base, tmp_path):
    """A folder with a trained adapter of that kind, and what the model says with it."""
    model = shaken(attach(base, r=8, alpha=16, **{request.param: True}))
    model.save_pretrained(tmp_path / request.param)
    return tmp_path / request.param, said(model)


def test_a_variant_of_lora_is_read_back_merged_and_scaled(loaded, variant, tmp_path):
    folder, then = variant
    adapted = models.load_adapted(copy.deepcopy(loaded), folder)
    assert torch.equal(said(adapted), then) and (then - said(loaded)).abs().max() > 0.1
    at = {scale: weights(models.load_adapted(copy.deepcopy(loaded), folder, scale=scale)) for scale in (0.0, 0.5, 1.0)}
    for key, value in loaded.state_dict().items():
        assert torch.equal(at[0.0][key], value), key
        torch.testing.assert_close(at[0.5][key], (value + at[1.0][key]) / 2, rtol=1e-5, atol=1e-5)
    with pytest.raises(BadInput, match=f"trained with {folder.name}, which the release's form cannot say"):
        models.convert(folder, tmp_path / "checkpoint.pt")
    assert not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_part_of_an_adapter_lies_on_the_line_between_the_untouched_model_and_the_trained_one(dtype):
    """Both ends to the bit; in 16 bits the adapter stays in the dtype that PEFT keeps it in."""
    untouched = models.load_model(str(MODEL), dtype)
    at = {
        scale: weights(models.load_adapted(copy.deepcopy(untouched), CHECKPOINT, scale=scale))
        for scale in (0.0, 0.5, 1.0, 1.5)
    }
    trained = weights(models.load_adapted(copy.deepcopy(untouched), CHECKPOINT))
    untouched = untouched.state_dict()
    assert all(torch.equal(at[0.0][key].to(dtype), untouched[key]) for key in untouched)
    assert all(torch.equal(at[1.0][key], trained[key]) for key in trained)
    assert sum(not torch.equal(trained[key].to(dtype), untouched[key]) for key in untouched) == 14 + 4
    for key, value in untouched.items() if dtype == torch.float32 else ():
        for scale in (0.5, 1.5):
            torch.testing.assert_close(at[scale][key], value + scale * (trained[key] - value), rtol=1e-5, atol=1e-5)
