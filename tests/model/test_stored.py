"""The two forms in which adapters are stored, PEFT's folder and the release's checkpoint.pt: names, what does not fit,
what must not be loaded, and converting one into the other."""

import copy
import json
import pickle

import pytest
import torch
from families.recorded import Recorded
from helpers import MODEL, run
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from safeeraser import model as models
from safeeraser.errors import BadInput

from .conftest import CHECKPOINT, RELEASED, attach, shaken

HERE, THERE = "base_model.model.model.", "base_model.model."
# A vision tower of 3 layers in LLaVA as transformers 4.46 names its parameters; the spelling `layrnorm` is theirs.
LAYER = "self_attn.k_proj self_attn.v_proj self_attn.q_proj self_attn.out_proj layer_norm1 layer_norm2 mlp.fc1 mlp.fc2"
PLACES = ("pre_layrnorm", "post_layernorm", *(f"encoder.layers.{n}.{part}" for n in range(3) for part in LAYER.split()))
TOWER = [f"{THERE}vision_tower.vision_model.{place}.{kind}" for place in PLACES for kind in ("weight", "bias")]
for name in ("class_embedding", "patch_embedding.weight", "position_embedding.weight"):
    TOWER.append(f"{THERE}vision_tower.vision_model.embeddings.{name}")


def test_names_go_to_peft_and_back(base, tmp_path):
    here = models.from_release(RELEASED)
    assert here.keys() == models.from_release(here).keys() == get_peft_model_state_dict(attach(base)).keys()
    lora, whole = "language_model.layers.1.mlp.up_proj.lora_B", "multi_modal_projector.linear_2.bias"
    assert {f"{HERE}{lora}.weight", f"{HERE}{whole}"} < here.keys() and len(here) == len(RELEASED) == 32
    released = f"{THERE}{lora.replace('.layers', '.model.layers')}.default.weight"
    assert torch.equal(here[f"{HERE}{lora}.weight"], RELEASED[released]) and f"{THERE}{whole}" in RELEASED
    back = models.to_release(here)
    assert back.keys() == RELEASED.keys() and all(torch.equal(back[name], RELEASED[name]) for name in RELEASED)


def test_a_trained_vision_tower_goes_to_the_release_and_back(loaded, base, tmp_path):
    """It reads with `strict=False`: what has another name is left out there without a word."""
    model = shaken(attach(base, vision=True))
    model.save_pretrained(tmp_path / "adapter")
    models.convert(tmp_path / "adapter", tmp_path / "checkpoint.pt")
    stored = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert stored.keys() == RELEASED.keys() | set(TOWER) and {each.dtype for each in stored.values()} == {torch.float16}
    read, known = models.read_adapter(tmp_path / "checkpoint.pt"), models.read_adapter(tmp_path / "adapter")
    assert all(torch.equal(value.half(), read[name]) for name, value in known.items())
    merged = models.load_adapted(copy.deepcopy(loaded), tmp_path / "checkpoint.pt").merge_and_unload()
    for name, value in merged.model.vision_tower.named_parameters():
        assert torch.equal(value, known[f"{HERE}vision_tower.{name}"].half().float()), name


def test_missing_unknown_and_misshapen_parameters_are_listed_and_nothing_is_loaded(base, tmp_path):
    path, tensors, model = tmp_path / "adapter.safetensors", dict(RELEASED), attach(base)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    del tensors[f"{THERE}multi_modal_projector.linear_1.bias"]
    tensors[f"{THERE}language_model.model.layers.9.mlp.up_proj.lora_A.default.weight"] = torch.zeros(1)
    tensors[f"{THERE}language_model.model.layers.0.self_attn.q_proj.lora_A.default.weight"] = torch.zeros(8, 64)
    wrong = [
        f"{HERE}multi_modal_projector.linear_1.bias is missing",
        f"{HERE}language_model.layers.9.mlp.up_proj.lora_A.weight is unknown",
        f"{HERE}language_model.layers.0.self_attn.q_proj.lora_A.weight has shape (8, 64), not (32, 64)",
    ]
    for given, says in ((tensors, "; ".join(wrong)), ({"x": torch.zeros(1)}, " and 30 more")):
        save_file(given, path)
        with pytest.raises(BadInput) as error:
            models.load_adapter(model, path)
        assert str(error.value).startswith(f"{path}: this adapter does not fit the model: ")
        assert str(error.value).endswith(says)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Harmful:
    """Unpickled, this would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_checkpoint_that_carries_code_is_refused_and_not_run(loaded, tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"a": Harmful(tmp_path / "owned")}, path)
    for content in (path.read_bytes(), pickle.dumps({"a": Harmful(tmp_path / "owned")})):
        path.write_bytes(content)
        with pytest.raises(BadInput) as error:
            models.load_adapted(loaded, path)
        assert str(error.value).startswith(f"{path}: not a readable adapter (") and "\n" not in str(error.value)
        assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        *((name, junk, "not a readable adapter")
          for name in ("checkpoint.pt", "adapter.safetensors") for junk in (b"", b"text", b"PK\x03\x04cut")),
        *(("checkpoint.pt", value, "holds no dict of named tensors")
          for value in ([torch.zeros(1)], {"a": 1}, torch.zeros(1))),
        ("checkpoint.pt", None, "no adapter there"),
        (".", None, "no adapter there"),
    ],
)  # fmt: skip
def test_what_is_no_adapter_is_named(tmp_path, name, content, says):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / name)
    with pytest.raises(BadInput, match=f"{(tmp_path / name).name}.*: .*{says}"):
        models.read_adapter(tmp_path / name)


def test_a_file_of_several_ranks_or_none_is_no_lora(tmp_path):
    two = {f"{HERE}language_model.layers.{n}.mlp.up_proj.lora_A.weight": torch.zeros(2 + 2 * n, 64) for n in (0, 1)}
    for tensors, ranks in ((two, [2, 4]), ({"x": torch.ones(1)}, [])):
        torch.save(tensors, tmp_path / "checkpoint.pt")
        with pytest.raises(BadInput, match=rf"holds no LoRA of one rank \(found ranks \{ranks!s}"):
            models.adapter_config(tmp_path / "checkpoint.pt")


def test_an_adapter_of_another_family_is_refused_by_name(tmp_path, base):
    """Also where names and shapes are alike: by its configuration, or as the release's form, which is LLaVA's alone."""
    other = Recorded("llava_next").adapter
    with pytest.raises(BadInput, match="an adapter of 'llava_next' models, and this is a 'llava'"):
        models.load_adapted(base, other)
    for path in (CHECKPOINT, CHECKPOINT.parent):
        with pytest.raises(BadInput, match="an adapter of 'llava' models, and this is a 'smolvlm'"):
            models.check_kind("smolvlm", path)
    with pytest.raises(BadInput, match=r"an adapter of 'llava_next' models; the release's form"):
        models.convert(other, tmp_path / "checkpoint.pt")


def test_converting_by_the_command(tmp_path, caplog):
    """A folder has the base's name and what is known of the run; the way back gives the same tensors."""
    folder, more = tmp_path / "folder", ("--lora_alpha", 64, "--model_path", MODEL)
    assert run("safeeraser.model", "convert", CHECKPOINT, folder, *more).returncode == 0
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (32, 64, str(MODEL))
    assert models.base_of(folder) == str(MODEL) and models.base_of(CHECKPOINT) == "llava-hf/llava-1.5-7b-hf"
    assert models.adapter_config(folder / "adapter_model.safetensors").lora_alpha == 64
    (folder / "run.json").write_text('{"settings": {"seed": 1}}')
    models.convert(folder, tmp_path / "again")
    assert (tmp_path / "again" / "run.json").read_text() == (folder / "run.json").read_text()
    assert run("safeeraser.model", "convert", folder, tmp_path / "checkpoint.pt").returncode == 0
    assert "note: r 32, alpha 64.0 is not written down there" in caplog.text
    one, two = (torch.load(file, weights_only=True) for file in (CHECKPOINT, tmp_path / "checkpoint.pt"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert load_file(tmp_path / "again" / "adapter_model.safetensors").keys() == models.from_release(one).keys()
    caplog.clear()
    models.convert(CHECKPOINT, tmp_path / "same.pt")
    assert not caplog.records
    done = run("safeeraser.model", "convert", CHECKPOINT, tmp_path / "same.pt")
    assert done.returncode == 2 and f"{tmp_path / 'same.pt'}: exists; name another" in done.stderr


def test_a_folder_that_lost_its_configuration_is_no_adapter(tmp_path):
    """Its weights alone do not tell the scaling. A link to a folder that is yet to be leads to the adapter."""
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "adapter")
    models.convert(CHECKPOINT, tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and models.read_adapter(tmp_path / "disk" / "adapter")
    (tmp_path / "link" / "adapter_config.json").unlink()
    with pytest.raises(BadInput, match=r"adapter_config.json: missing, and only it tells the adapter's scaling"):
        models.adapter_config(tmp_path / "link")
