"""Adapters: where LoRA sits, the two forms in which they are stored, and what does not fit or must not be loaded."""

import copy
import json
import pickle

import pytest
import torch
from helpers import MODEL, RECORDED
from peft import PeftModel, get_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file, save_file

from safeeraser import model as models
from safeeraser.errors import BadInput

FAMILY = models.families()["llava-1.5"]
RELEASED = load_file(RECORDED / "initial_adapter.safetensors")
CHECKPOINT = RECORDED / "inference" / "checkpoint.pt"


@pytest.fixture(scope="module")
def loaded():
    return models.load_model(str(MODEL), torch.float32)


@pytest.fixture
def base(loaded):
    return copy.deepcopy(loaded)


def attach(base, **more):
    return models.attach(base, models.lora_config(FAMILY, r=32, alpha=256, **more), FAMILY)


@torch.no_grad()
def logits(model):
    """What the model says to a prompt with a picture; 500 stands for one of its 16 tokens."""
    ids = torch.tensor([[1, *[500] * 16, 300, 310, 320, 330]])
    pixels = torch.linspace(-1, 1, 3 * 56 * 56).reshape(1, 3, 56, 56)
    return model.eval()(input_ids=ids, pixel_values=pixels).logits


def test_lora_sits_on_every_linear_layer_of_the_language_model_alone(base):
    model = attach(base)
    found = {name for name, module in model.named_modules() if hasattr(module, "lora_A")}
    prefix = "base_model.model.model.language_model.layers"
    assert found == {
        f"{prefix}.{layer}.{part}"
        for layer in (0, 1)
        for part in (
            *(f"self_attn.{name}_proj" for name in "qkvo"),
            *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
        )
    }


def test_a_count_that_is_not_expected_stops_the_run(base):
    config = models.lora_config(FAMILY, r=4, alpha=8)
    config.target_modules = ["q_proj"]  # by suffix: the vision tower has such layers too
    with pytest.raises(AssertionError, match="LoRA sits on 5 modules, expected 14 of language_model alone"):
        models.attach(base, config, FAMILY)


def test_a_target_that_no_layer_is_called_is_told_with_those_that_are(base):
    family = FAMILY.model_copy(update={"lora_targets": ("q_proj", "v_pro")})
    with pytest.raises(
        BadInput, match=r"LoRA.targets: no linear layer 'v_pro' in .*; did you mean 'v_proj'\? known: d"
    ):
        models.attach(base, models.lora_config(family, r=4, alpha=8), family)


def test_an_adapter_that_peft_cannot_make(base):
    with pytest.raises(BadInput, match="LoRA: Orthogonal initialization requires the LoRA rank to be even"):
        models.attach(base, models.lora_config(FAMILY, r=3, alpha=8, init_lora_weights="orthogonal"), FAMILY)


# 2 layers of rank 32: four projections 64 -> 64, gate and up 64 -> 128, down 128 -> 64.
LORA = 2 * 32 * (4 * (64 + 64) + 3 * (64 + 128))
PROJECTOR = (32 * 64 + 64) + (64 * 64 + 64)


@pytest.mark.parametrize(("projector", "vision"), [(True, False), (False, False), (True, True)])
def test_trained_parameters_are_counted_by_group(base, projector, vision):
    tower = sum(parameter.numel() for parameter in base.model.vision_tower.parameters())
    counts = models.trained_parameters(attach(base, projector=projector, vision=vision), FAMILY)
    assert counts == {
        "LoRA": LORA,
        "projector": PROJECTOR if projector else 0,
        "vision_tower": tower if vision else 0,
    }


def test_names_go_to_peft_and_back():
    here = models.from_release(RELEASED)
    assert "base_model.model.model.language_model.layers.1.mlp.up_proj.lora_B.weight" in here
    assert "base_model.model.model.multi_modal_projector.linear_2.bias" in here
    assert len(here) == len(RELEASED) == 32
    back = models.to_release(here)
    assert back.keys() == RELEASED.keys()
    assert all(torch.equal(back[name], RELEASED[name]) for name in RELEASED)
    # What is PEFT's already stays.
    assert models.from_release(here).keys() == here.keys()


def test_the_names_are_those_that_peft_saves(base, tmp_path):
    model = attach(base)
    assert models.from_release(RELEASED).keys() == get_peft_model_state_dict(model).keys()
    model.save_pretrained(tmp_path)
    assert models.to_release(load_file(tmp_path / "adapter_model.safetensors")).keys() == RELEASED.keys()


# A vision tower of 3 layers in LLaVA as transformers 4.46 names its parameters; the spelling `layrnorm` is theirs.
TOWER = [
    f"base_model.model.vision_tower.vision_model.{name}"
    for name in (
        *("embeddings.class_embedding", "embeddings.patch_embedding.weight", "embeddings.position_embedding.weight"),
        *(f"{norm}.{kind}" for norm in ("pre_layrnorm", "post_layernorm") for kind in ("weight", "bias")),
        *(
            f"encoder.layers.{layer}.{part}.{kind}"
            for layer in range(3)
            for part in (
                *(f"self_attn.{projection}_proj" for projection in ("k", "v", "q", "out")),
                *("layer_norm1", "mlp.fc1", "mlp.fc2", "layer_norm2"),
            )
            for kind in ("weight", "bias")
        ),
    )
]


def test_a_trained_vision_tower_of_the_release_is_loaded_whole(base, tmp_path):
    untouched = {name: value.clone() for name, value in base.model.vision_tower.named_parameters()}
    tower = {name: 2 * untouched[name.split("vision_model.")[1]] for name in TOWER}
    torch.save(torch.load(CHECKPOINT, weights_only=True) | tower, tmp_path / "checkpoint.pt")
    merged = models.load_adapted(base, tmp_path / "checkpoint.pt").merge_and_unload()
    trained = dict(merged.model.vision_tower.named_parameters())
    assert trained.keys() == untouched.keys() and len(trained) == len(TOWER)
    assert all(torch.equal(trained[name], 2 * untouched[name]) for name in untouched)


def test_a_trained_vision_tower_is_written_as_the_release_names_it(base, tmp_path):
    """It reads with `strict=False`: what has another name is left out there without a word."""
    attach(base, vision=True).save_pretrained(tmp_path / "adapter")
    models.convert(tmp_path / "adapter", tmp_path / "checkpoint.pt")
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True).keys() == RELEASED.keys() | set(TOWER)
    read = models.read_adapter(tmp_path / "checkpoint.pt")
    assert all(
        torch.equal(value.half(), read[name]) for name, value in models.read_adapter(tmp_path / "adapter").items()
    )


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_an_adapter_is_loaded_whole(base, tmp_path, suffix):
    torch.manual_seed(0)
    tensors = {name: torch.randn_like(value) for name, value in RELEASED.items()}
    path = tmp_path / f"adapter{suffix}"
    torch.save(tensors, path) if suffix == ".pt" else save_file(tensors, path)
    model = attach(base)
    models.load_adapter(model, path)
    stored = models.to_release(get_peft_model_state_dict(model))
    assert all(torch.equal(stored[name], tensors[name]) for name in tensors)


def fits_not(base, tmp_path, tensors):
    path = tmp_path / "adapter.safetensors"
    save_file(tensors, path)
    model = attach(base)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(BadInput) as error:
        models.load_adapter(model, path)
    assert str(error.value).startswith(f"{path}: this adapter does not fit the model: ")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return str(error.value)


def test_missing_unknown_and_misshapen_parameters_are_listed(base, tmp_path):
    tensors = dict(RELEASED)
    del tensors["base_model.model.multi_modal_projector.linear_1.bias"]
    tensors["base_model.model.language_model.model.layers.9.mlp.up_proj.lora_A.default.weight"] = torch.zeros(1)
    name = "base_model.model.language_model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
    tensors[name] = torch.zeros(8, 64)
    said = fits_not(base, tmp_path, tensors)
    assert "base_model.model.model.multi_modal_projector.linear_1.bias is missing" in said
    assert "base_model.model.model.language_model.layers.9.mlp.up_proj.lora_A.weight is unknown" in said
    assert "layers.0.self_attn.q_proj.lora_A.weight has shape (8, 64), not (32, 64)" in said


def test_many_misfits_are_counted(base, tmp_path):
    assert fits_not(base, tmp_path, {"x": torch.zeros(1)}).endswith(" and 30 more")


class Harmful:
    """Unpickled, this would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_checkpoint_that_carries_code_is_refused_and_not_run(base, tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"a": Harmful(tmp_path / "owned")}, path)
    for content in (path.read_bytes(), pickle.dumps({"a": Harmful(tmp_path / "owned")})):
        path.write_bytes(content)
        with pytest.raises(BadInput) as error:
            models.load_adapted(copy.deepcopy(base), path)
        assert str(error.value).startswith(f"{path}: not a readable adapter (") and "\n" not in str(error.value)
        assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04cut"])
@pytest.mark.parametrize("name", ["checkpoint.pt", "adapter.safetensors"])
def test_a_damaged_file_is_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=f"{name}: not a readable adapter"):
        models.read_adapter(tmp_path / name)


@pytest.mark.parametrize("value", [[torch.zeros(1)], {"a": 1}, torch.zeros(1)])
def test_a_checkpoint_of_something_else(tmp_path, value):
    torch.save(value, tmp_path / "checkpoint.pt")
    with pytest.raises(BadInput, match="holds no dict of named tensors"):
        models.read_adapter(tmp_path / "checkpoint.pt")


def test_a_folder_that_lost_its_configuration_is_no_adapter(tmp_path):
    """Its weights alone do not tell the scaling, and another one would give another model without a word."""
    models.convert(CHECKPOINT, tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_config.json").unlink()
    with pytest.raises(BadInput, match=r"adapter_config.json: missing, and only it tells the adapter's scaling"):
        models.adapter_config(tmp_path / "adapter")


def test_a_link_to_a_folder_that_is_yet_to_be_leads_to_the_adapter(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "adapter")
    models.convert(CHECKPOINT, tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk" / "adapter" / "adapter_config.json").is_file()
    assert models.read_adapter(tmp_path / "link").keys() == models.read_adapter(CHECKPOINT).keys()


def test_no_adapter(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "checkpoint.pt"):
        with pytest.raises(BadInput, match="no adapter there"):
            models.read_adapter(path)


def test_a_folder_and_a_checkpoint_are_the_same_model(base, tmp_path):
    """The release's checkpoint, saved again as a PEFT folder, says the same to the bit."""
    released = models.load_adapted(copy.deepcopy(base), CHECKPOINT)
    released.save_pretrained(tmp_path)
    folder = models.load_adapted(copy.deepcopy(base), tmp_path)
    plain = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path)
    assert torch.equal(logits(folder), logits(released)) and torch.equal(logits(plain), logits(released))
    assert (logits(released) - logits(base)).abs().max() > 1e-3


def test_alpha_is_the_folders_own_but_given_for_a_bare_file(base, tmp_path):
    half = models.load_adapted(copy.deepcopy(base), CHECKPOINT, alpha=128)
    whole = models.load_adapted(copy.deepcopy(base), CHECKPOINT)
    assert (logits(half) - logits(whole)).abs().max() > 1e-4
    half.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["lora_alpha"] == 128
    assert torch.equal(logits(models.load_adapted(copy.deepcopy(base), tmp_path, alpha=256)), logits(half))


def test_the_rank_of_a_bare_file_is_read_from_its_shapes(base, tmp_path):
    small = models.attach(copy.deepcopy(base), models.lora_config(FAMILY, r=4, alpha=256, projector=False), FAMILY)
    torch.save(models.to_release(get_peft_model_state_dict(small)), tmp_path / "checkpoint.pt")
    model = models.load_adapted(base, tmp_path / "checkpoint.pt")
    assert model.peft_config["default"].r == 4 and not model.peft_config["default"].modules_to_save


def test_a_merged_model_says_the_same(base):
    adapted = models.load_adapted(copy.deepcopy(base), CHECKPOINT)
    apart = logits(adapted)
    merged = adapted.merge_and_unload()
    assert torch.allclose(logits(merged), apart, atol=1e-5)
    assert not any("lora" in name or "modules_to_save" in name for name in merged.state_dict())


@pytest.fixture(params=["use_dora", "use_rslora"])
def variant(request, loaded, tmp_path):
    """A folder with a trained adapter of that kind, and what the model says with it."""
    torch.manual_seed(0)
    config = models.lora_config(FAMILY, r=8, alpha=16, **{request.param: True})
    model = models.attach(copy.deepcopy(loaded), config, FAMILY)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / request.param)
    return tmp_path / request.param, logits(model)


def test_a_variant_of_lora_is_read_back_and_merged(loaded, variant):
    folder, trained = variant
    adapted = models.load_adapted(copy.deepcopy(loaded), folder)
    assert torch.equal(logits(adapted), trained)
    assert torch.allclose(logits(adapted.merge_and_unload()), trained, atol=1e-4)
    assert (trained - logits(loaded)).abs().max() > 0.1


def test_part_of_a_variant_lies_on_the_line_too(loaded, variant):
    untouched = loaded.state_dict()
    at = {
        scale: models.load_adapted(copy.deepcopy(loaded), variant[0], scale=scale).merge_and_unload().state_dict()
        for scale in (0.0, 0.5, 1.0)
    }
    for key, value in untouched.items():
        assert torch.equal(at[0.0][key], value), key
        torch.testing.assert_close(at[0.5][key], (value + at[1.0][key]) / 2, rtol=1e-5, atol=1e-5)


def test_the_release_form_cannot_say_what_a_variant_is(variant, tmp_path):
    with pytest.raises(BadInput, match=f"trained with {variant[0].name}, which the release's form cannot say"):
        models.convert(variant[0], tmp_path / "checkpoint.pt")
    assert not (tmp_path / "checkpoint.pt").exists()


def test_fewer_targets_go_to_the_release_form_and_back(base, tmp_path):
    family = FAMILY.model_copy(update={"lora_targets": ("q_proj", "v_proj")})
    torch.manual_seed(0)
    model = models.attach(
        copy.deepcopy(base), models.lora_config(family, r=8, alpha=16, init_lora_weights=False), family
    )
    assert models.trained_parameters(model, family)["LoRA"] == 2 * 2 * 8 * (64 + 64)
    model.save_pretrained(tmp_path / "folder")
    models.convert(tmp_path / "folder", tmp_path / "checkpoint.pt")
    back = models.load_adapted(copy.deepcopy(base), tmp_path / "checkpoint.pt", alpha=16)
    assert torch.allclose(logits(back), logits(model), atol=1e-2) and not torch.equal(logits(back), logits(base))


def test_the_base_model_is_frozen_and_the_preprocessor_is_the_models(loaded):
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    preprocessor = models.load_preprocessor(str(MODEL))
    assert (preprocessor.picture_token, preprocessor.pad_token) == (500, 501)
    shown = Image.new("RGB", (90, 60))
    assert preprocessor.encode(models.Turn(shown, "What?")).input_ids.count(500) == 16


@pytest.mark.parametrize(("name", "dtype"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
def test_dtypes(monkeypatch, name, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert models.choose_dtype(name) == dtype


def test_an_unknown_dtype():
    with pytest.raises(BadInput, match="dtype float8: must be one of auto, float32, bfloat16, float16"):
        models.choose_dtype("float8")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_none_of_an_adapter_is_the_untouched_model_and_all_of_it_the_trained_one(dtype):
    """To the bit, before merging and after; in 16 bits the adapter stays in the dtype that PEFT keeps it in."""

    def scaled(scale):
        model = models.load_adapted(models.load_model(str(MODEL), dtype), CHECKPOINT, scale=scale)
        return model.merge_and_unload().state_dict()

    untouched = models.load_model(str(MODEL), dtype).state_dict()
    trained = models.load_adapted(models.load_model(str(MODEL), dtype), CHECKPOINT).merge_and_unload().state_dict()
    none, whole = scaled(0.0), scaled(1.0)
    assert all(torch.equal(none[key].to(dtype), untouched[key]) for key in untouched)
    assert all(torch.equal(whole[key], trained[key]) for key in trained)
    assert any(not torch.equal(trained[key].to(dtype), untouched[key]) for key in untouched)


def test_half_and_more_of_an_adapter_lie_on_the_line(loaded):
    untouched = loaded.state_dict()
    at = {
        scale: models.load_adapted(copy.deepcopy(loaded), CHECKPOINT, scale=scale).merge_and_unload().state_dict()
        for scale in (0.5, 1.0, 1.5)
    }
    for key, value in untouched.items():
        for scale in (0.5, 1.5):
            expected = value + scale * (at[1.0][key] - value)
            torch.testing.assert_close(at[scale][key], expected, rtol=1e-5, atol=1e-5)
