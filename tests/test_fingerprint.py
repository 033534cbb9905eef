"""The fingerprint of a base: the same wherever and in however many files it lies, another for any other weights."""

import json
import shutil
import time

import pytest
import torch
from helpers import MODEL
from safetensors.torch import load_file, save_file

from safeeraser.errors import BadInput
from safeeraser.model import fingerprint, load_model
from safeeraser.model.merge import copy

WEIGHTS = MODEL / "model.safetensors"


def weights(folder):
    return fingerprint(str(folder))["weights"]


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(MODEL, tmp_path / "model")


def test_it_names_the_model_and_depends_on_no_folder(folder):
    told = fingerprint(str(folder))
    assert told == {"model_path": str(folder), "revision": None, "weights": weights(MODEL)}
    assert len(told["weights"]) == 64


def test_the_division_into_files_does_not_matter(tmp_path):
    load_model(str(MODEL), "auto").save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 3
    copy(str(MODEL), tmp_path / "copy")
    assert weights(tmp_path / "sharded") == weights(tmp_path / "copy") == weights(MODEL)


def test_names_do_not_matter(tmp_path):
    """Those of transformers 5, under which a model that is trained whole is written."""
    load_model(str(MODEL), "auto").save_pretrained(tmp_path / "new", save_original_format=False)
    assert load_file(tmp_path / "new" / "model.safetensors").keys().isdisjoint(load_file(WEIGHTS))
    assert weights(tmp_path / "new") == weights(MODEL)


def test_every_tensor_counts(folder):
    tensors, untouched = load_file(WEIGHTS), weights(MODEL)
    for name, tensor in tensors.items():
        save_file(tensors | {name: tensor * 1.01 + 1e-3}, folder / "model.safetensors")
        assert weights(folder) != untouched, name


@pytest.mark.parametrize("change", [lambda t: t.reshape(64, 128), lambda t: t.view(torch.int32)])
def test_shapes_and_dtypes_count(folder, change):
    """Each of them with the same bytes."""
    name = "language_model.model.layers.0.mlp.up_proj.weight"
    tensors = load_file(WEIGHTS)
    save_file(tensors | {name: change(tensors[name])}, folder / "model.safetensors")
    assert weights(folder) != weights(MODEL)


def test_weights_of_the_older_form(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    before = weights(folder)
    assert before and before == weights(folder) and before != weights(MODEL)
    tensors["language_model.model.layers.0.mlp.up_proj.weight"] += 1
    torch.save(tensors, folder / "pytorch_model.bin")
    assert weights(folder) != before


def test_a_model_of_the_hub_tells_its_commit(tmp_path, monkeypatch):
    commit, repository = "0123456789abcdef0123456789abcdef01234567", tmp_path / "models--someone--llava"
    shutil.copytree(MODEL, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    told = {"model_path": "someone/llava", "revision": commit, "weights": weights(MODEL)}
    assert fingerprint("someone/llava") == fingerprint("someone/llava", here=True) == told
    unknown = {"model_path": "someone/else", "revision": None, "weights": None}
    assert fingerprint("someone/else") == fingerprint("someone/else", here=True) == unknown


@pytest.mark.parametrize("left", [0, 5, 3000, 800_000])
def test_weights_that_are_cut_off(folder, left):
    (folder / "model.safetensors").write_bytes(WEIGHTS.read_bytes()[:left])
    with pytest.raises(BadInput, match="model: its weights are damaged or incomplete"):
        fingerprint(str(folder))


def test_a_missing_file_of_several(folder):
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadInput, match=r"incomplete .*model-00001-of-00001\.safetensors"):
        fingerprint(str(folder))


def test_14_gb_take_less_than_a_second(tmp_path):
    """Of this process's time, since the machine may be busy; the file is a hole, so that it needs no disk."""
    size, shape = 20_000_000, [10_000_000]
    header = {
        f"layer.{n}": {"dtype": "F16", "shape": shape, "data_offsets": [n * size, (n + 1) * size]} for n in range(700)
    }
    text = json.dumps(header).encode()
    with open(tmp_path / "model.safetensors", "wb") as handle:
        handle.write(len(text).to_bytes(8, "little") + text)
        handle.truncate(8 + len(text) + 700 * size)
    begun = time.process_time()
    assert weights(tmp_path)
    assert time.process_time() - begun < 1
