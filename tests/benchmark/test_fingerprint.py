"""The fingerprint of a base: the same wherever and in however many files it lies, another for any other weights."""

import shutil

import pytest
import torch
from helpers import MODEL
from safetensors.torch import load_file, save_file

from safeeraser.errors import BadInput
from safeeraser.model import fingerprint, load_model

WEIGHTS = MODEL / "model.safetensors"
LAYER = "language_model.model.layers.0.mlp.up_proj.weight"


def weights(folder):
    return fingerprint(str(folder))["weights"]


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(MODEL, tmp_path / "model")


def test_it_names_the_model_and_depends_on_no_folder_division_or_names(folder, tmp_path):
    told = fingerprint(str(folder))
    assert told == {"model_path": str(folder), "revision": None, "weights": weights(MODEL)}
    model = load_model(str(MODEL), "auto")
    # Several files; and transformers 5's names, under which a model that is trained whole is written.
    model.save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    model.save_pretrained(tmp_path / "new", save_original_format=False)
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 3
    assert load_file(tmp_path / "new" / "model.safetensors").keys().isdisjoint(load_file(WEIGHTS))
    assert weights(tmp_path / "sharded") == weights(tmp_path / "new") == told["weights"]


def test_every_tensor_its_shape_and_its_dtype_count(folder):
    tensors, untouched = load_file(WEIGHTS), weights(MODEL)
    changed = [{name: tensor * 1.01 + 1e-3} for name, tensor in tensors.items()]
    changed += [{LAYER: tensors[LAYER].reshape(64, 128)}, {LAYER: tensors[LAYER].view(torch.int32)}]
    for change in changed:
        save_file(tensors | change, folder / "model.safetensors")
        assert weights(folder) != untouched, [*change]


def test_weights_of_the_older_form_and_of_the_hub(folder, tmp_path, monkeypatch):
    tensors, commit = load_file(WEIGHTS), "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--llava"
    shutil.copytree(MODEL, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert len({weights(folder), weights(MODEL), None}) == 3
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    told = {"model_path": "someone/llava", "revision": commit, "weights": weights(MODEL)}
    assert fingerprint("someone/llava") == fingerprint("someone/llava", here=True) == told


@pytest.mark.parametrize("left", [0, 5, 800_000])
def test_weights_that_are_cut_off_are_named(folder, left):
    (folder / "model.safetensors").write_bytes(WEIGHTS.read_bytes()[:left])
    with pytest.raises(BadInput, match="model: its weights are damaged or incomplete"):
        fingerprint(str(folder))
