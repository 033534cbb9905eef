"""What a user can get wrong with forget.py: exit code 2, one line that says what and where, and nothing touched."""

import json
import os
import shutil
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from helpers import MODEL, RECORDED, TRAIN, record, refused, run, start, write_dataset, write_json
from PIL import Image
from safetensors.torch import load_file, save_file

from safeeraser.benchmark.files import CONFIG
from safeeraser.unlearn.trainer import UnlearnTrainer

pytestmark = pytest.mark.slow

SECRET = "how to do the harmful thing"


@pytest.fixture
def data(tmp_path):
    """A good dataset of two records; a test spoils it."""
    value = record(0)
    value["unsafe_pairs"][0].update(question=SECRET, model_response=SECRET)
    return write_dataset(tmp_path / "data", value, record(1, "Sex"))


def refuses(tmp_path, *arguments, says, **more):
    base = [f"model_path={MODEL}", "dtype=float32", "workers=0", f"save_dir={tmp_path / 'run'}"]
    line = refused(tmp_path, "forget", *base, *arguments, says=says, **more)
    assert SECRET not in line
    return line


def spoil(path, change):
    records = json.loads(path.read_text())
    change(records[1])
    write_json(path, records)


def test_a_missing_picture(tmp_path, data):
    (data.parent / "img/Sex/1.jpg").unlink()
    says = f"{data}: record 1, image_path: picture img/Sex/1.jpg not found"
    refuses(tmp_path, f"data_path={data}", says=says)


def test_a_missing_benign_picture_only_where_it_is_read(tmp_path, data):
    (data.parent / "pdset/Sex/1.jpg").unlink()
    refuses(tmp_path, f"data_path={data}", "forget_loss=gdpd", says="record 1, SDImage_path: picture pdset/Sex/1.jpg")
    done = run("forget", f"model_path={MODEL}", f"data_path={data}", f"save_dir={tmp_path / 'gd'}", "forget_loss=gd",
               "max_train_steps=1", "gradient_accumulation_steps=1", "workers=0")  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_picture_that_cannot_be_decoded(tmp_path, data):
    path = data.parent / "pdset/Sex/1.jpg"
    path.write_bytes(path.read_bytes()[:300])
    refuses(tmp_path, f"data_path={data}", says=f"{path}: picture cannot be decoded")


def test_truncated_json(tmp_path, data):
    data.write_text(data.read_text()[:-40])
    refuses(tmp_path, f"data_path={data}", says=f"{data}: not valid JSON (")


def test_a_missing_key(tmp_path, data):
    spoil(data, lambda r: r["unsafe_pairs"][3].pop("question"))
    refuses(tmp_path, f"data_path={data}", says=f"{data}: record 1, unsafe_pairs.3.question: missing")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda r: r["unsafe_pairs"][1].update(model_response=""),
            "unsafe_pairs.1.model_response: the answer is empty",
        ),
        (lambda r: r["unsafe_pairs"][2].pop("sd_response"), "unsafe_pairs.2.sd_response: the answer is empty"),
        (lambda r: r["UnharmPair_text2"].update(Prediction="\n"), "UnharmPair_text2.Prediction: the answer is empty"),
    ],
)
def test_an_empty_answer(tmp_path, data, change, says):
    spoil(data, change)
    refuses(tmp_path, f"data_path={data}", "forget_loss=gdpd", says=f"{data}: record 1, {says}")


def test_no_refusals(tmp_path, data):
    (data.parent / "prompt.json").unlink()
    refuses(tmp_path, f"data_path={data}", "forget_loss=popd", says="prompt.json: no such file")


def test_a_text_with_a_picture_of_its_own(tmp_path, data):
    spoil(data, lambda r: r["unsafe_pairs"][1].update(question="What is <image>?"))
    refuses(tmp_path, f"data_path={data}", says="record 1, unsafe_pairs.1.sd_response: the text itself contains")


def test_no_dataset(tmp_path):
    says = "all_train.json: no such file; put the benchmark there (dataset/README.md says how) or build the mini"
    refuses(tmp_path, f"data_path={tmp_path / 'dataset' / 'all_train.json'}", says=says)


def test_a_split_that_the_data_does_not_have(tmp_path, data):
    says = "no records of a category 'Privacy'; "
    refuses(tmp_path, f"data_path={data}", "split=[Sex,Privacy]", says=says)


def test_no_model(tmp_path, data):
    says = f"model_path {tmp_path / 'nowhere'}: no model in this folder"
    refuses(tmp_path, f"data_path={data}", f"model_path={tmp_path / 'nowhere'}", says=says)


def test_another_kind_of_model(tmp_path, data):
    write_json(tmp_path / "gpt" / "config.json", {"model_type": "gpt2"})
    says = "a 'gpt2' model, for which config/model_family has no page; known: gemma3, idefics3, internvl, llava, "
    refuses(tmp_path, f"data_path={data}", f"model_path={tmp_path / 'gpt'}", says=says)


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("forget_loss=gdp", "forget_loss: no 'gdp'; did you mean 'gdpd'? known: ceu, ceu+pd, dpo,"),
        ("recipe=corect", "recipe: no 'corect'; did you mean 'corrected'?"),
        ("learning_rate=1", "learning_rate"),
        ("batchsize=1", "batchsize"),
        ("+batchsize=1", "no key 'batchsize'; did you mean 'batch_size'?"),
        ("LoRA.rank=8", "rank"),
        ("batch_size=two", "batch_size=two"),
        ("lr", "lr"),
        ("split=[Sex", "at input '[Sex'"),
        ("plan=nowhere.json", "nowhere.json: no such file"),
        ("LoRA.targets=[q_proj,v_proj,outproj]", "LoRA.targets: no linear layer 'outproj' in the model's layers; did"),
        ("resume_from_checkpoint=nowhere", "resume_from_checkpoint=nowhere: no checkpoint there"),
        ("init_adapter=nowhere", "nowhere: no adapter there"),
    ],
)
def test_a_command_line(tmp_path, data, argument, says):
    loaded = "the model is loaded first" if argument.startswith("init_adapter") else ""
    refuses(tmp_path, f"data_path={data}", argument, says=says, before=loaded)


def test_a_mistyped_key_of_a_method_is_looked_for_in_the_method_that_is_named(tmp_path, data):
    wrong = "forget_loss.terms.forget.bta=0.2"
    says = "config: no key 'forget_loss.terms.forget.bta'; did you mean 'forget_loss.terms.forget.beta'?"
    refuses(tmp_path, f"data_path={data}", "forget_loss=npo", wrong, says=says)
    (tmp_path / "pages" / "forget_loss").mkdir(parents=True)
    shutil.copy(CONFIG / "forget_loss" / "npo.yaml", tmp_path / "pages" / "forget_loss" / "mine.yaml")
    refuses(tmp_path, "--config-dir", tmp_path / "pages", "forget_loss=mine", wrong, says=says)


def test_an_adapter_that_does_not_fit(tmp_path, data):
    tensors = load_file(RECORDED / "initial_adapter.safetensors")
    save_file({name: torch.zeros(2, 2) for name in tensors}, tmp_path / "small.safetensors")
    refuses(
        tmp_path,
        f"data_path={data}",
        f"init_adapter={tmp_path / 'small.safetensors'}",
        says="small.safetensors: this adapter does not fit the model: ",
        before="the model is loaded first",
    )


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("earlier") / "run"
    done = run("forget", f"model_path={MODEL}", f"data_path={TRAIN}", "dtype=float32", "forget_loss=ga",
               "max_train_steps=1", "gradient_accumulation_steps=1", "workers=0", f"save_dir={folder}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_a_save_dir_that_holds_another_run(tmp_path, data, earlier):
    shutil.copytree(earlier, tmp_path / "run")
    says = (
        f"save_dir={tmp_path / 'run'}: holds a run already (ga); name another folder, go on with resume_from_checkpoint"
    )
    line = refuses(tmp_path, f"data_path={data}", says=says)
    assert "overwrite_dir=true" in line


@pytest.mark.parametrize(
    ("argument", "key"),
    [
        ("forget_loss=gd", "forget_loss.name (ga, now gd)"),
        ("seed=1", "seed (233, now 1)"),
        ("LoRA.r=8", "LoRA.r (32, now 8)"),
        ("recipe=corrected", "recipe.name (official, now corrected)"),
        ("lr=0.5", "lr (0.0001, now 0.5)"),
    ],
)
def test_resuming_another_run(tmp_path, earlier, argument, key):
    shutil.copytree(earlier, tmp_path / "run")
    same = ["forget_loss=ga", f"data_path={TRAIN}", "max_train_steps=1", "gradient_accumulation_steps=1"]
    refuses(
        tmp_path,
        *same,
        argument,
        "resume_from_checkpoint=auto",
        says=f"its run has another {key}; resume it as it was started",
    )


def test_a_run_of_an_earlier_version_is_the_same_run(tmp_path, earlier):
    """What it had no key for, it did as the default does."""
    shutil.copytree(earlier, tmp_path / "run")
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    for key in ("trainer", "data", "bad_items", "finetune", "allow_other_base"):
        del told["settings"][key]
    told["settings"]["LoRA"] = {"r": 32, "alpha": 256, "dropout": 0.05}
    write_json(tmp_path / "run" / "run.json", told)
    same = [f"model_path={MODEL}", "dtype=float32", "workers=0", "forget_loss=ga", f"data_path={TRAIN}"]
    same += ["max_train_steps=1", "gradient_accumulation_steps=1", "resume_from_checkpoint=auto"]
    done = run("forget", *same, f"save_dir={tmp_path / 'run'}")
    assert done.returncode == 0 and "done before" in done.stderr
    refuses(tmp_path, *same, "LoRA.use_rslora=true", says="another LoRA.use_rslora (False, now True)")


@pytest.mark.parametrize(
    ("argument", "says"),
    [("LoRA.alpha=32", "LoRA.alpha=256, this run 32"), ("LoRA.use_rslora=true", "LoRA.use_rslora=0, this run 1")],
)
def test_an_adapter_that_would_be_scaled_otherwise(tmp_path, data, earlier, argument, says):
    says = f"init_adapter={earlier}: has {says}"
    refuses(tmp_path, f"data_path={data}", f"init_adapter={earlier}", argument, says=says)


@pytest.mark.parametrize("more", ["overwrite_dir=true", "overwrite_dir=false", "resume_from_checkpoint=auto"])
def test_a_save_dir_that_is_no_run_is_never_touched(tmp_path, data, more):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    refuses(tmp_path, f"data_path={data}", more, says="exists and is no run of this project; nothing there is touched")


@pytest.mark.parametrize("more", ["overwrite_dir=true", "overwrite_dir=false", "resume_from_checkpoint=auto"])
def test_a_model_is_no_run_to_overwrite(tmp_path, data, more):
    """`merge` and `copy` write a run.json too."""
    shutil.copytree(MODEL, tmp_path / "run")
    write_json(tmp_path / "run" / "run.json", {"settings": {}, "merged": {}} if "auto" in more else {"copied": {}})
    refuses(tmp_path, f"data_path={data}", more, says="exists and is no run of this project; nothing there is touched")


def test_a_conversation_longer_than_the_context(tmp_path, data):
    spoil(data, lambda r: r["unsafe_pairs"][1].update(model_response="word " * 1500))
    says = f"{data}: record 1, unsafe_pairs.1.model_response: a conversation of "
    line = refuses(tmp_path, f"data_path={data}", "forget_loss=ga", "max_length=3000", says=says)
    assert "the model's context holds 1024; a smaller max_length" in line


def test_a_save_dir_that_is_a_file(tmp_path, data):
    (tmp_path / "run").write_text("a file")
    refuses(tmp_path, f"data_path={data}", "overwrite_dir=true", says="is no run of this project")


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("file/run", "cannot be made (Not a directory)"),
        ("x" * 300, "cannot be made (File name too long)"),
        (f"not/there/yet/{'x' * 300}", "cannot be made (File name too long)"),
        ("/".join(["x" * 200] * 30), "cannot be made (File name too long)"),
        ("closed/run", "closed cannot be written to"),
        ("closed", "closed cannot be written to"),
    ],
)
@pytest.mark.parametrize("more", [[], ["dry_run=true", "resume_from_checkpoint=auto"]])
def test_a_save_dir_that_cannot_be_made(tmp_path, data, monkeypatch, folder, says, more):
    (tmp_path / "file").write_text("a file")
    (tmp_path / "closed").mkdir()
    # To root, whom these tests may be run by, no folder is closed.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "closed")
    refuses(tmp_path, f"data_path={data}", f"save_dir={tmp_path / folder}", *more, says=says)


def failed_start(folder, data, **patched):
    """A run that breaks off before its first optimizer step, with the probes asked once."""
    given = [f"model_path={MODEL}", f"data_path={data}", "dtype=float32", "workers=0", f"save_dir={folder}"]
    probed = ["probe_every=1", f"probe.data_path={data}", "probe.max_new_tokens=1", "seed=7"]
    with patch.object(UnlearnTrainer, "training_step", side_effect=torch.OutOfMemoryError), pytest.raises(RuntimeError):
        run("forget", *given, *probed)
    assert {path.name for path in folder.iterdir()} == {"run.json", "plan.json", "probe.jsonl"}
    return given


def test_a_run_that_trained_nothing_is_in_nobodys_way(tmp_path, data):
    given = failed_start(tmp_path / "run", data)
    done = run("forget", *given, "forget_loss=ga", "max_train_steps=1", "gradient_accumulation_steps=1")
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert told["settings"]["forget_loss"]["name"] == "ga" and len(told["sittings"]) == 1
    assert not (tmp_path / "run" / "probe.jsonl").exists()
    refuses(tmp_path, f"data_path={data}", says="holds a run already (ga)")


@pytest.mark.parametrize("name", ["notes.txt", "checkpoint-2/trainer_state.json", "adapter_model.safetensors"])
def test_a_run_with_anything_to_lose_is(tmp_path, data, name):
    failed_start(tmp_path / "run", data)
    (tmp_path / "run" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "run" / name).write_text("{}")
    refuses(tmp_path, f"data_path={data}", says="holds a run already (popd)")


@pytest.mark.parametrize("spoiled", ["picture", "model", "adapter"])
def test_a_run_to_be_overwritten_stays_if_the_new_one_cannot_start(tmp_path, data, earlier, spoiled):
    """Its results are removed only once nothing is known to be in the new one's way."""
    shutil.copytree(earlier, tmp_path / "run")
    arguments = {"picture": "max_train_steps=1", "model": f"model_path={tmp_path}", "adapter": "init_adapter=nowhere"}
    if spoiled == "picture":
        Image.new("RGB", (4, 4)).save(data.parent / "img/Sex/1.png")
        (data.parent / "img/Sex/1.jpg").unlink()
    says = {"picture": "not found", "model": "no model in this folder", "adapter": "no adapter there"}[spoiled]
    before = "the model is loaded first" if spoiled == "adapter" else ""
    refuses(tmp_path, f"data_path={data}", "overwrite_dir=true", arguments[spoiled], says=says, before=before)


def test_the_command_itself_prints_one_line(tmp_path):
    """The same as a user starts it: no traceback, no warning beside the line."""
    process = start("forget", "forget_loss=popdd", f"save_dir={tmp_path / 'run'}", cwd=tmp_path)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2 and out == ""
    assert err.startswith("error: forget_loss: no 'popdd'; did you mean 'popd'?") and err.count("\n") == 1
    process = start("forget", f"model_path={MODEL}", f"data_path={tmp_path / 'none.json'}", cwd=tmp_path)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2 and out == ""
    assert err.startswith("error: ") and "none.json: no such file" in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
