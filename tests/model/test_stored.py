"""The two forms of stored adapters, PEFT's folder and the release's checkpoint.pt: names, adapters that do not fit,
files that must not be loaded, and conversion from one form to the other."""

import json
import pickle

import pytest
import torch
from families.recorded import Recorded
from helpers import CHECKPOINT, MODEL, refusal, run
from safetensors.torch import load_file, save_file

from safeeraser.errors import BadInput
from safeeraser.model.llava import from_release
from safeeraser.model.merge import base_of
from safeeraser.model.stored import adapter_config, check_kind, convert, load_adapted, load_adapter, read_adapter

from .conftest import RELEASED, attach

HERE, THERE = "base_model.model.model.", "base_model.model."


def test_missing_unknown_and_misshapen_parameters_are_listed_and_nothing_is_loaded(base, tmp_path):
    path, tensors, model = tmp_path / "adapter.safetensors", dict(RELEASED), attach(base)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    del tensors[f"{THERE}multi_modal_projector.linear_1.bias"]
    tensors[f"{THERE}language_model.model.layers.9.mlp.up_proj.lora_A.default.weight"] = torch.zeros(1)
    tensors[f"{THERE}language_model.model.layers.0.self_attn.q_proj.lora_A.default.weight"] = torch.zeros(8, 64)
    wrong = (
        f"{HERE}multi_modal_projector.linear_1.bias is missing; "
        f"{HERE}language_model.layers.9.mlp.up_proj.lora_A.weight is unknown; "
        f"{HERE}language_model.layers.0.self_attn.q_proj.lora_A.weight has shape (8, 64), not (32, 64)"
    )
    for given, says in ((tensors, wrong), ({"x": torch.zeros(1)}, " and 30 more")):
        save_file(given, path)
        said = refusal(load_adapter, model, path)
        assert said.startswith(f"{path}: this adapter does not fit the model: ") and said.endswith(says)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Harmful:
    """Unpickled, this would create a file in the working directory."""

    def __reduce__(self):
        return (open, ("owned", "w"))


def test_what_is_no_adapter_is_named_and_its_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, stored = tmp_path / "checkpoint.pt", (tmp_path / "checkpoint.pt", tmp_path / "adapter.safetensors")
    for content in (b"", b"text", b"PK\x03\x04cut", pickle.dumps({"a": Harmful()}), {"a": Harmful()}):
        for file in stored:
            file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
            with pytest.raises(BadInput, match=rf"^{file}: not a readable adapter \(.*$"):
                read_adapter(file)
    assert not (tmp_path / "owned").exists()
    for content in ([torch.zeros(1)], {"a": 1}, torch.zeros(1)):
        torch.save(content, path)
        with pytest.raises(BadInput, match=f"^{path}: .*holds no dict of named tensors"):
            read_adapter(path)
    two = {f"{HERE}language_model.layers.{n}.mlp.up_proj.lora_A.weight": torch.zeros(2 + 2 * n, 64) for n in (0, 1)}
    for tensors, ranks in ((two, [2, 4]), ({"x": torch.ones(1)}, [])):
        torch.save(tensors, path)
        with pytest.raises(BadInput, match=rf"holds no LoRA of one rank \(found ranks \{ranks!s}"):
            adapter_config(path)
    for gone in (tmp_path / "nowhere.pt", tmp_path):
        path.unlink(missing_ok=True)
        with pytest.raises(BadInput, match=f"^{gone}.*: .*no adapter there"):
            read_adapter(gone)


def test_an_adapter_of_another_family_is_refused_by_name(tmp_path, base):
    """Even if names and shapes match: its configuration names the family, and the release has only LLaVA-1.5."""
    other = Recorded("llava_next").adapter
    with pytest.raises(BadInput, match="an adapter of 'llava_next' models, and this is a 'llava'"):
        load_adapted(base, other)
    for path in (CHECKPOINT, CHECKPOINT.parent):
        with pytest.raises(BadInput, match="an adapter of 'llava' models, and this is a 'smolvlm'"):
            check_kind("smolvlm", path)
    with pytest.raises(BadInput, match=r"an adapter of 'llava_next' models; the release's form"):
        convert(other, tmp_path / "checkpoint.pt")


def test_converting_by_the_command(tmp_path, caplog):
    """A folder records its base and keeps run.json. Converted back, it gives the same tensors."""
    folder, more = tmp_path / "folder", ("--lora_alpha", 64, "--model_path", MODEL)
    assert run("safeeraser.model", "convert", CHECKPOINT, folder, *more).returncode == 0
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (32, 64, str(MODEL))
    assert base_of(folder) == str(MODEL) and base_of(CHECKPOINT) == "llava-hf/llava-1.5-7b-hf"
    assert adapter_config(folder / "adapter_model.safetensors").lora_alpha == 64
    (folder / "run.json").write_text('{"settings": {"seed": 1}}')
    convert(folder, tmp_path / "again")
    assert (tmp_path / "again" / "run.json").read_text() == (folder / "run.json").read_text()
    assert run("safeeraser.model", "convert", folder, tmp_path / "checkpoint.pt").returncode == 0
    assert "note: the .pt does not record r 32, alpha 64.0;" in caplog.text
    one, two = (torch.load(file, weights_only=True) for file in (CHECKPOINT, tmp_path / "checkpoint.pt"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert load_file(tmp_path / "again" / "adapter_model.safetensors").keys() == from_release(one).keys()
    (folder / "adapter_config.json").unlink()
    with pytest.raises(BadInput, match=r"adapter_config.json: missing, and only it has the adapter's scaling"):
        adapter_config(folder)
