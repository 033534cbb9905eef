"""An adapter knows its base, a checkpoint its run: whatever would put one on other weights is refused."""

import json
import shutil
import sys

import pytest
from helpers import MODEL, RECORDED, TRAIN, VAL, other_base, refused, run

from safeeraser import model as models
from safeeraser.benchmark.files import run_of, sha256
from safeeraser.errors import BadInput
from safeeraser.model import __main__ as command

pytestmark = pytest.mark.slow

CHECKPOINT = RECORDED / "inference" / "checkpoint.pt"
TRAINING = (f"data_path={TRAIN}", "dtype=float32", "workers=0", "gradient_accumulation_steps=1", "forget_loss=gd")
TRAINING += ("max_train_steps=2", "save_steps=1", "save_total_limit=1", "lr=0.01")
ASKING = ("--eval_file", VAL, "--dtype", "float32", "--max_new_tokens", 2, "--limit", 1, "--only", "retain")
AUDIT = ("--val_file", TRAIN, "--train_file", VAL, "--judge", "rules", "--dtype", "float32", "--dry_run")


def told(folder):
    return json.loads((folder / "run.json").read_text())


def forget(folder, *more):
    done = run("forget", *TRAINING, f"save_dir={folder}", *more)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of gd with a checkpoint after its second step."""
    return forget(tmp_path_factory.mktemp("runs") / "gd", f"model_path={MODEL}")


@pytest.fixture
def other(tmp_path):
    """Another model of the same shapes."""
    return other_base(tmp_path / "other")


def test_a_run_writes_down_its_base(trained):
    assert told(trained)["base"] == models.fingerprint(str(MODEL)) and told(trained)["parents"] == []


def commands(adapter, base, out):
    """Every command that would put the adapter on the base."""
    return {
        "training": ("forget", *TRAINING, f"model_path={base}", f"init_adapter={adapter}", f"save_dir={out}"),
        "dry run": ("forget", *TRAINING, f"model_path={base}", f"init_adapter={adapter}", "dry_run=true"),
        "inference": ("ckpt_infer", "--checkpoint_path", adapter, "--model_path", base, *ASKING, "--output_file", out),
        "audit": ("audit", "relearn", "--checkpoint_path", adapter, "--model_path", base, *AUDIT),
    }


@pytest.mark.parametrize("where", ["training", "dry run", "inference", "audit"])
def test_an_adapter_of_another_base_is_refused_by_name(trained, other, tmp_path, where):
    hashes = [models.fingerprint(str(model))["weights"][:12] for model in (MODEL, other)]
    answer = "--allow_other_base" if where in ("inference", "audit") else "allow_other_base=true"
    says = f"{trained}: was trained on {MODEL} (weights {hashes[0]}), not on {other} (weights {hashes[1]}); {answer}"
    given = commands(trained, other, tmp_path / "out")[where]
    refused(tmp_path, *given, says=says)
    checkpoint = trained / "checkpoint-2"
    refused(tmp_path, *commands(checkpoint, other, tmp_path / "out")[where], says=f"{checkpoint}: was trained on")
    done = run(*given, answer)
    assert done.returncode == 0, done.stderr
    if where == "training":
        assert told(tmp_path / "out")["settings"]["allow_other_base"] is True
        assert told(tmp_path / "out")["base"]["weights"].startswith(hashes[1])


def test_merge_refuses_it_too(trained, other, tmp_path, monkeypatch, capsys):
    with pytest.raises(BadInput, match=r"gd: was trained on .*llava-tiny .*, not on .*other .*; --allow_other_base"):
        models.merge(trained, tmp_path / "out", model_path=str(other))
    assert not (tmp_path / "out").exists()
    words = ["merge", trained, tmp_path / "out", "--model_path", other, "--allow_other_base"]
    monkeypatch.setattr(sys, "argv", ["safeeraser.model", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        command.main()
    assert stop.value.code == 0, capsys.readouterr().err
    merged = told(tmp_path / "out")
    assert merged["merged"]["base"] == models.fingerprint(str(other))["weights"] != merged["base"]["weights"]


def test_a_base_may_lie_elsewhere(trained, tmp_path):
    moved = shutil.copytree(MODEL, tmp_path / "moved")
    for where in ("training", "dry run", "inference", "audit"):
        done = run(*commands(trained, moved, tmp_path / where)[where])
        assert done.returncode == 0, done.stderr


def test_an_adapter_that_tells_no_base_says_so_once(tmp_path, caplog):
    adapter = shutil.copy(CHECKPOINT, tmp_path / "checkpoint.pt")
    for name in ("one", "two"):
        given = (*ASKING, "--model_path", MODEL, "--checkpoint_path", adapter, "--output_file", tmp_path / name)
        assert run("ckpt_infer", *given).returncode == 0
    notes = [message for message in caplog.messages if "which base" in message]
    assert notes == [f"note: {adapter} does not tell which base it was trained on"]


def test_a_checkpoint_knows_its_run(trained, tmp_path):
    checkpoint = trained / "checkpoint-2"
    ask = ("ckpt_infer", "--checkpoint_path", checkpoint, *ASKING, "--output_file", tmp_path / "p.json", "--loss_type")
    refused(tmp_path, *ask, "po", says=f"--loss_type po: {checkpoint} was trained with gd")
    assert run(*ask, "gd").returncode == 0
    settings = told(checkpoint)["settings"]
    assert (settings["forget_loss"]["name"], settings["recipe"]["name"]) == ("gd", "official")
    assert told(checkpoint)["base"] == told(trained)["base"] and "finished" not in told(checkpoint)


@pytest.fixture
def stopped(tmp_path):
    """A run that was stopped after its first step, on a base of its own."""
    base = shutil.copytree(MODEL, tmp_path / "base")
    folder = forget(tmp_path / "run", f"model_path={base}", "save_steps=[1]")
    record = told(folder)
    del record["finished"]
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def test_a_run_is_not_resumed_on_another_base(stopped, other, tmp_path):
    """Under the very name that it was begun with."""
    base, before = tmp_path / "base", models.fingerprint(str(tmp_path / "base"))["weights"]
    shutil.copy(other / "model.safetensors", base)
    given = ("forget", *TRAINING, f"model_path={base}", "save_steps=[1]", f"save_dir={stopped}")
    says = f"{stopped / 'checkpoint-1'}: was trained on {base} (weights {before[:12]}), not on {base} (weights"
    refused(tmp_path, *given, "resume_from_checkpoint=auto", says=says)
    named = f"resume_from_checkpoint={stopped / 'checkpoint-1'}"
    refused(tmp_path, *given[:-1], f"save_dir={tmp_path / 'new'}", named, says=says)
    done = run(*given, "resume_from_checkpoint=auto", "allow_other_base=true")
    assert done.returncode == 0, done.stderr
    assert told(stopped)["base"] == models.fingerprint(str(base)) and told(stopped)["sittings"][-1]["from_step"] == 1


def test_a_checkpoint_that_was_moved_still_tells_its_run(stopped, tmp_path):
    moved = shutil.copytree(stopped / "checkpoint-1", tmp_path / "elsewhere" / "checkpoint-1")
    given = (*TRAINING, f"model_path={tmp_path / 'base'}", "save_steps=[1]", f"save_dir={tmp_path / 'new'}")
    refused(tmp_path, "forget", *given, f"resume_from_checkpoint={moved}", "seed=1", says="has another seed")
    done = run("forget", *given, f"resume_from_checkpoint={moved}")
    assert done.returncode == 0, done.stderr
    assert sha256(tmp_path / "new" / "adapter_model.safetensors") == sha256(stopped / "adapter_model.safetensors")


def test_one_file_of_responses_has_one_base(other, tmp_path):
    """Finished or begun, with an adapter that does not know its base; one begun before this was told goes on."""
    base, out = shutil.copytree(MODEL, tmp_path / "base"), tmp_path / "p.json"
    given = ("ckpt_infer", "--model_path", base, "--checkpoint_path", CHECKPOINT, *ASKING, "--output_file")
    assert run(*given, out).returncode == 0
    settings = json.loads(out.with_suffix(".run.json").read_text())["settings"]
    assert settings["base"] == models.fingerprint(str(MODEL))["weights"]
    for name, begun in (("mixed", settings), ("older", {key: settings[key] for key in settings if key != "base"})):
        (tmp_path / f"{name}.partial.jsonl").write_text(json.dumps({"settings": begun}) + "\n")
    shutil.copy(other / "model.safetensors", base)
    refused(tmp_path, *given, out, says=f"exists, made with base={settings['base']}, now base=")
    refused(tmp_path, *given, tmp_path / "mixed", says=f"begun with base={settings['base']}, now base=")
    assert run(*given, tmp_path / "older").returncode == 0


def test_an_adapter_of_unknown_base_is_not_put_on_a_merged_model(tmp_path):
    models.merge(CHECKPOINT, tmp_path / "merged", model_path=str(MODEL))
    for where, given in commands(CHECKPOINT, tmp_path / "merged", tmp_path / "out").items():
        if where != "audit":  # which takes no file
            refused(tmp_path, *given, says=f"{CHECKPOINT}: {tmp_path / 'merged'} has an adapter merged into it already")
    with pytest.raises(BadInput, match="has an adapter merged into it already"):
        models.merge(CHECKPOINT, tmp_path / "again", model_path=str(tmp_path / "merged"))


def test_the_file_of_an_adapter_knows_what_its_folder_does(trained):
    file = trained / "adapter_model.safetensors"
    assert models.adapter_config(file).lora_alpha == models.adapter_config(trained).lora_alpha
    assert run_of(file) == told(trained) and models.base_of(file) == models.base_of(trained)


def test_a_checkpoint_of_an_earlier_version_is_known_by_the_run_beside_it(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    (checkpoint / "run.json").unlink()
    assert run_of(checkpoint) == told(trained)


def test_what_is_known_of_a_run_goes_from_folder_to_folder(trained, tmp_path):
    models.convert(trained, tmp_path / "folder")
    assert told(tmp_path / "folder") == told(trained)
    models.convert(trained, tmp_path / "checkpoint.pt")
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "checkpoint.pt"}


def test_a_model_that_a_run_wrote_whole_is_a_parent(tmp_path):
    whole = forget(tmp_path / "whole", f"model_path={MODEL}", "finetune=full", "save_steps=0")
    after = forget(tmp_path / "after", f"model_path={whole}", "save_steps=0")
    (parent,) = told(after)["parents"]
    assert parent == {
        "how": "full",
        "method": "gd",
        "recipe": "official",
        "split": "all",
        "adapter_sha256": None,
        "base": models.fingerprint(str(MODEL))["weights"],
    }
