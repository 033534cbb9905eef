"""What a user can get wrong with forget.py: exit code 2, one line that says what and where, and nothing touched."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from helpers import MODEL, RECORDED, TRAIN, refused, start, write_json
from safetensors.torch import load_file, save_file

from safeeraser.benchmark.files import CONFIG

GIVEN = (f"model_path={MODEL}", "dtype=float32", "workers=0")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("forget_loss=gdp", "forget_loss: no 'gdp'; did you mean 'gdpd'? known: ceu, ceu+pd, dpo,"),
        ("recipe=corect", "recipe: no 'corect'; did you mean 'corrected'?"),
        ("batchsize=1", "no key 'batchsize'; did you mean 'batch_size'?"),
        ("data=own data.views.retain.answr=x", "no key 'data.views.retain.answr'; did you mean 'data.views.retain.ans"),
        ("forget_loss=npo forget_loss.terms.forget.bta=2", "forget_loss.terms.forget.bta'; did you mean 'forget_loss."),
        ("--config-dir . forget_loss=mine forget_loss.terms.forget.bta=2", "did you mean 'forget_loss.terms.forget.be"),
        # A choice beside defaults would be another method's run, and nobody would be told.
        ("--config-dir . --config-name both", "both.yaml: forget_loss: gd: say '- override"),
        ("--config-dir . --config-name torn", "config: not YAML ("),
        ("lr", "lr"),
        ("split=[Sex", "at input '[Sex'"),
        ("model_path=???", "model_path"),
        ("batch_size=two", "batch_size=two"),
        ("plan=nowhere.json", "nowhere.json: no such file"),
        ("data_path=nowhere/all_train.json", "all_train.json: no such file; put the benchmark there"),
        ("model_path=nowhere", "model_path nowhere: no model in this folder"),
        ("model_path=gpt", "a 'gpt2' model, for which config/model_family has no page; known: gemma3, idefics3,"),
        ("LoRA.targets=[q_proj,outproj]", "LoRA.targets: no linear layer 'outproj' in the model's layers; did"),
        ("init_adapter=small.safetensors", "small.safetensors: this adapter does not fit the model: "),
        ("save_steps=[1,99]", "save_steps=[1, 99]: the run ends after 30 optimizer steps"),
        ("max_length=20", "leaves no room for its answer"),
        *([] if find_spec("wandb") else [("report_to=wandb", "report_to=wandb: not installed; 'pip install wandb'")]),
        ("save_dir=mine", "save_dir=mine: exists and is no run of this project; nothing there is touched"),
        ("save_dir=mine overwrite_dir=true", "exists and is no run of this project; nothing there is touched"),
        ("save_dir=mine resume_from_checkpoint=auto", "exists and is no run of this project; nothing there is touched"),
        ("save_dir=merged overwrite_dir=true", "exists and is no run of this project; nothing there is touched"),
        ("save_dir=copied resume_from_checkpoint=auto", "exists and is no run of this project; nothing there is touc"),
        ("save_dir=file overwrite_dir=true", "is no run of this project"),
        ("save_dir=file/run dry_run=true", "cannot be made (Not a directory)"),
        (f"save_dir=not/there/yet/{'x' * 300}", "cannot be made (File name too long)"),
        ("save_dir=closed/run", "closed cannot be written to"),
        ("save_dir=closed dry_run=true", "closed cannot be written to"),
    ],
)
def test_it_is_refused_in_one_line(tmp_path, monkeypatch, words, says):
    tensors = load_file(RECORDED / "initial_adapter.safetensors")
    save_file({name: torch.zeros(2, 2) for name in tensors}, tmp_path / "small.safetensors")
    write_json(tmp_path / "gpt" / "config.json", {"model_type": "gpt2"})
    for name in ("merged", "copied"):  # `merge` and `copy` write a run.json too
        write_json(tmp_path / name / "run.json", {"settings": {}, name: {}} if name == "merged" else {name: {}})
    for name in ("mine/thesis.tex", "file", "closed/.keep"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("years of work")
    (tmp_path / "both.yaml").write_text("defaults: [forget_lora, _self_]\nforget_loss: gd\n")
    (tmp_path / "torn.yaml").write_text("workers: [\n")
    (tmp_path / "forget_loss").mkdir()
    shutil.copy(CONFIG / "forget_loss" / "npo.yaml", tmp_path / "forget_loss" / "mine.yaml")
    # To root, whom these tests may be run by, no folder is closed.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "closed")
    given = (*GIVEN, f"data_path={TRAIN}", "save_dir=run", *words.split())
    noted = "what it does not tell" if "init_adapter" in words else ""
    refused(tmp_path, "forget", *given, says=says, cwd=tmp_path, before=noted)


@pytest.mark.slow
def test_the_command_itself_prints_one_line(tmp_path):
    """The same as a user starts it: no traceback, no warning beside the line."""
    process = start("forget", *GIVEN, f"data_path={tmp_path / 'none.json'}", cwd=tmp_path)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 2 and out == ""
    assert err.startswith("error: ") and "none.json: no such file" in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
