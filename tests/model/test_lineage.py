"""An adapter's run.json has the fingerprint of its base. Commands refuse to put the adapter on other weights."""

import json
import shutil

import pytest
import torch
from helpers import CHECKPOINT, MODEL, TRAIN, VAL, other_base, ran, refused, trained
from safetensors.torch import load_file, save_file

from safeeraser.benchmark.adapters import run_of
from safeeraser.benchmark.files import sha256
from safeeraser.errors import BadInput
from safeeraser.model.lineage import check_base, fingerprint, parents
from safeeraser.model.load import load_model

from .conftest import COMMIT

WEIGHTS = MODEL / "model.safetensors"


def weights(folder):
    return fingerprint(str(folder))["weights"]


BASE = weights(MODEL)


def test_a_fingerprint_depends_on_the_weights_alone(tmp_path, downloaded):
    """The folder, names and the division into files do not matter. Each tensor's values, shape and dtype do."""
    told = fingerprint(str(MODEL))
    assert told == {"model_path": str(MODEL), "revision": None, "weights": BASE} and len(BASE) == 64
    model, tensors = load_model(str(MODEL), "auto"), load_file(WEIGHTS)
    model.save_pretrained(tmp_path / "new", save_original_format=False, max_shard_size="100KB")  # version 5's names
    assert len(list((tmp_path / "new").glob("*.safetensors"))) > 3 and weights(tmp_path / "new") == BASE
    folder = shutil.copytree(MODEL, tmp_path / "model")
    for name, tensor in tensors.items():
        save_file(tensors | {name: tensor * 1.01 + 1e-3}, folder / WEIGHTS.name)
        assert weights(folder) != BASE, name
    up = "language_model.model.layers.0.mlp.up_proj.weight"
    for change in (tensors[up].reshape(64, 128), tensors[up].view(torch.int32)):  # each with the same bytes
        save_file(tensors | {up: change}, folder / WEIGHTS.name)
        assert weights(folder) != BASE
    for left in (0, 3000, 800_000):
        (folder / WEIGHTS.name).write_bytes(WEIGHTS.read_bytes()[:left])
        with pytest.raises(BadInput, match="model: its weights are damaged or incomplete"):
            weights(folder)
    (folder / WEIGHTS.name).unlink()
    assert weights(folder) is None
    torch.save(tensors, folder / "pytorch_model.bin")  # the older form
    assert weights(folder) not in (BASE, None)
    downloaded(MODEL)
    told = {"model_path": "someone/model", "revision": COMMIT, "weights": BASE}
    assert fingerprint("someone/model") == fingerprint("someone/model", here=True) == told


def noted(folder, **told):
    """Make a folder with the recorded checkpoint, and with the keywords as its run.json."""
    folder.mkdir()
    shutil.copy(CHECKPOINT, folder / "checkpoint.pt")
    (folder / "run.json").write_text(json.dumps(told))
    return folder


def test_another_base_is_refused_by_name(tmp_path, caplog):
    here = {"model_path": "here", "revision": None, "weights": "a" * 64}
    other = {"model_path": "there", "revision": "abc", "weights": "b" * 64}
    knows = noted(tmp_path / "knows", base=other)
    check_base(knows, other, allowed=False)
    check_base(knows, here | {"weights": None}, allowed=False)
    check_base(knows, here, allowed=True)
    says = f"knows: was trained on there .revision abc, weights {'b' * 12}., not on here .weights {'a' * 12}.; say so"
    with pytest.raises(BadInput, match=says):
        check_base(knows, here, allowed=False, answer="say so")
    silent, merged = noted(tmp_path / "silent"), noted(tmp_path / "merged", merged={"adapter_sha256": "c"})
    assert not caplog.messages
    for _ in range(2):  # the note is logged once
        check_base(silent, here, allowed=False)
    assert caplog.messages == [f"note: {silent} does not say which base it was trained on"]
    with pytest.raises(BadInput, match=r"silent: .*merged has an adapter merged into it already; --allow_other_base"):
        check_base(silent, here | {"model_path": str(merged)}, allowed=False)


def test_the_chain_of_what_a_model_was_made_of(tmp_path):
    """The runs that were merged, trained without an adapter, or started from, oldest first. Unknown values are None."""

    def run_json(name, method, base, parents=(), **more):
        settings = {"forget_loss": {"name": method}, "recipe": {"name": "official"}, "split": [name]}
        told = {"base": {"weights": base}, "parents": list(parents)} | ({"settings": settings} if method else {})
        return noted(tmp_path / name, **told, **more)

    def parent(how, name, method, base, digest):
        known = {"method": method, "recipe": "official", "split": [name]}
        return {"how": how, **known, "adapter_sha256": digest, "base": base}

    first = run_json("first", "popd", "a", merged={"adapter_sha256": "b", "base": "c"})
    one = parent("merged", "first", "popd", "c", "b")
    assert parents(str(first)) == [one] and parents(str(MODEL)) == []
    whole = run_json("whole", "gd", "d", parents=[one])
    assert parents(str(whole)) == [one, parent("full", "whole", "gd", "d", None)]
    adapter = run_json("adapter", "ga", "e", parents=[one])
    digest, nothing = sha256(CHECKPOINT), dict.fromkeys(("method", "recipe", "split", "base"))
    assert parents(str(whole), adapter) == [one, parent("init_adapter", "adapter", "ga", "e", digest)]
    last = {"how": "init_adapter", "adapter_sha256": digest} | nothing
    assert parents(str(MODEL), noted(tmp_path / "silent")) == [last]


TRAINING = (f"data_path={TRAIN}", "dtype=float32", "workers=0", "gradient_accumulation_steps=1", "forget_loss=gd")
TRAINING += ("max_train_steps=2", "save_steps=[1]", "lr=0.01")
ASKING = ("--eval_file", VAL, "--dtype", "float32", "--max_new_tokens", 2, "--limit", 1, "--only", "retain")


@pytest.mark.slow
def test_every_command_refuses_an_adapter_of_another_base_unless_told(tmp_path):
    other, out, base = other_base(tmp_path / "other"), tmp_path / "out", shutil.copytree(MODEL, tmp_path / "base")
    gd = trained(tmp_path / "gd", *TRAINING, f"model_path={base}")
    assert run_of(gd)["base"]["weights"] == run_of(gd / "checkpoint-1")["base"]["weights"] == BASE
    asked = ("--model_path", other, *ASKING, "--output_file", out)
    audit = ("relearn", "--checkpoint_path", gd, "--model_path", other, "--val_file", TRAIN, "--train_file", VAL)
    commands = [
        ("forget", "allow_other_base=true", *TRAINING, f"model_path={other}", f"init_adapter={gd}", f"save_dir={out}"),
        ("ckpt_infer", "--allow_other_base", "--checkpoint_path", gd / "checkpoint-1", *asked),
        ("audit", "--allow_other_base", *audit, "--judge", "rules", "--dtype", "float32", "--dry_run"),
        ("safeeraser.model", "--allow_other_base", "merge", gd, tmp_path / "merged", "--model_path", other),
    ]
    for command, answer, *given in commands:
        line = refused(tmp_path, command, *given, says=f": was trained on {base} (weights {BASE[:12]})")
        assert answer in line
        ran(command, *given, answer)
        shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
    merged = run_of(tmp_path / "merged")
    assert merged["merged"]["base"] == weights(other) != merged["base"]["weights"]
    refused(tmp_path, "ckpt_infer", *asked, "--model_path", tmp_path / "merged", "--checkpoint_path", CHECKPOINT,
            says="has an adapter merged into it already")  # fmt: skip
