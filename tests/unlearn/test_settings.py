"""The config file: its defaults, its short forms, and one-line errors for keys that cannot be used. Also the release's
own file, choices as parts of names, and keywords in place of a command line.

Other mistakes with forget.py give exit code 2 and one line that names the mistake and its place. They touch no file.
"""

import dataclasses
import json
import os
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from helpers import MODEL, RECORDED, TRAIN, config, ran, read_beside, read_lines, refusal, refused, run, write_json
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from transformers import TrainingArguments

from safeeraser.errors import BadInput
from safeeraser.model.lora import trained_parameters
from safeeraser.unlearn.config.compose import from_keys
from safeeraser.unlearn.config.engine import Engine
from safeeraser.unlearn.config.read import read_settings
from safeeraser.unlearn.config.trainer_arguments import Schedule, training_arguments, with_checked_trainer

from .built import built
from .given import page, refuses, settings

GIVEN = read_beside(__file__, "golden/settings.yaml")
TOLD = read_beside(__file__, "golden/trainer.yaml")


def read(*words):
    """The checked settings of the config file with the keys in `words` changed."""
    return read_settings(OmegaConf.merge(page(given=()), OmegaConf.from_dotlist(list(words))))


def test_the_defaults_are_the_release_settings_and_recipes_differ_in_six_switches():
    found, expected = OmegaConf.create(read().model_dump(mode="json")), GIVEN["defaults"]
    assert {key: OmegaConf.select(found, key) for key in expected} == expected
    assert (read().method.name, read().title, read().views) == ("popd", "PO+PD", ["retain", "decoupled", "refusal"])
    found = {name: read_settings(config(f"recipe={name}")).recipe.model_dump() for name in GIVEN["recipes"]}
    assert found == GIVEN["recipes"]


@pytest.mark.parametrize("words", GIVEN["short"])
def test_what_is_written_in_short_is_read(words):
    checked = read(*words.split())
    expected = GIVEN["short"][words]
    found = {key: getattr(checked, key) for key in expected}
    assert {key: sorted(value) if isinstance(value, set) else value for key, value in found.items()} == expected


@pytest.mark.parametrize("words", GIVEN["refused"])
def test_a_key_that_cannot_be_used_is_named(words):
    line = refusal(read, *shlex.split(words))
    assert line.startswith("config: ") and GIVEN["refused"][words] in line and "\n" not in line
    assert "hf_secret" not in line


@pytest.mark.parametrize("words", TOLD["besides"])
def test_what_trainer_is_told(words):
    plain = TrainingArguments("out")
    given = training_arguments(settings("save_dir=out", *words.split()), Engine(), Schedule(12, 2))
    names = [field.name for field in dataclasses.fields(plain) if field.name not in TOLD["machine"]]
    expected = TOLD["always"] | TOLD["besides"][words]
    assert {name: getattr(given, name) for name in names if getattr(given, name) != getattr(plain, name)} == {
        name: value for name, value in expected.items() if value != getattr(plain, name)
    }


def test_what_this_project_says_is_refused_and_all_else_is_passed_on():
    said = {*TOLD["always"], *TOLD["machine"], "bf16", "fp16", "full_determinism", "activation_checkpointing"}
    said -= set(TOLD["overridable"])
    given = settings()
    for field in dataclasses.fields(TrainingArguments):
        try:
            options = {field.name: None if field.default is dataclasses.MISSING else field.default}
            checked = with_checked_trainer(given.model_copy(update={"trainer": options}))
            assert checked.trainer == options and field.name not in said
        except BadInput as error:
            assert str(error).startswith(f"config: trainer.{field.name}: ")
            said.discard(field.name)
    assert not said, "what the project says itself can be said otherwise"


def test_options_of_lora_the_optimizer_and_the_schedule_reach_the_run(tmp_path):
    """No option may change the untouched model that KL compares with: under a fresh adapter KL is 0."""
    keys = {"LoRA.targets": ["q_proj", "v_proj"], "LoRA.use_dora": True, "LoRA.use_rslora": True}
    keys |= {"LoRA.init_lora_weights": "gaussian", "trainer": {"optim": "sgd", "optim_args": "momentum=0.5"}}
    keys |= {"lr": 1e-3, "lr_scheduler_type": "cosine_with_min_lr", "trainer.lr_scheduler_kwargs.min_lr": 8e-4}
    trainer = built(tmp_path, "kl", keys, steps=2, noise=0)
    trainer.train()
    adapter = trainer.model.peft_config["default"]
    layers = r".*\.language_model\.layers\.\d+\.(\w+\.)*(q_proj|v_proj)"
    assert (adapter.use_dora, adapter.use_rslora, adapter.target_modules) == (True, True, layers)
    # Two layers, two targets of 64 x 64, rank 32, and DoRA's magnitude for each output.
    counts = trained_parameters(trainer.model, trainer.objective.family)
    assert counts["LoRA"] == 2 * 2 * (2 * 32 * 64 + 64)
    groups = trainer.optimizer.param_groups
    assert all(group["momentum"] == 0.5 and "betas" not in group for group in groups)
    rows = read_lines(tmp_path / "train_log.jsonl")
    assert rows[0]["terms"]["kl"] == pytest.approx(0, abs=1e-6)
    # The rate is a cosine from 1e-3 to 8e-4, and the second of the two steps is at its middle.
    assert [row["learning_rate"] for row in rows] == pytest.approx([1e-3, 9e-4])


REFUSED = read_beside(__file__, "golden/refused.yaml")
RELEASE = Path(__file__).with_name("golden") / "release.yaml"
FEW = ("num_epochs=1", "workers=0", "save_model=false", "dtype=float32", "max_train_steps=1", "stop.forget_loss=90")
RUNS = REFUSED["run"] | ({} if find_spec("wandb") else REFUSED["wandb"])


@pytest.mark.parametrize("words", REFUSED["command"])
def test_the_command_says_it_in_one_line(tmp_path, words):
    (tmp_path / "both.yaml").write_text("defaults: [forget_lora, _self_]\nforget_loss: gd\n")
    (tmp_path / "torn.yaml").write_text("workers: [\n")
    given = (f"data_path={TRAIN}", "save_dir=run", *words.split())
    refused(tmp_path, "forget", *given, says=REFUSED["command"][words], cwd=tmp_path)


@pytest.mark.parametrize("words", RUNS)
def test_a_run_that_cannot_be_is_refused(tmp_path, monkeypatch, words):
    if "init_adapter" in words:
        tensors = load_file(RECORDED / "initial_adapter.safetensors")
        save_file({name: torch.zeros(2, 2) for name in tensors}, tmp_path / "small.safetensors")
        save_file({name: each * torch.nan for name, each in tensors.items()}, tmp_path / "broken.safetensors")
    write_json(tmp_path / "vector.json", [1, 2])
    write_json(tmp_path / "gpt" / "config.json", {"model_type": "gpt2"})
    write_json(tmp_path / "merged" / "run.json", {"settings": {}, "merged": {}})
    write_json(tmp_path / "copied" / "run.json", {"copied": {}})
    for name in ("mine/thesis.tex", "file", "closed/.keep"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("years of work")
    # These tests may run as root, who can write to every folder.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "closed")
    monkeypatch.chdir(tmp_path)
    assert RUNS[words] in refuses(tmp_path, *words.split())


@pytest.mark.slow
def test_the_release_file_runs_as_it_is_and_leaves_nothing_elsewhere(tmp_path):
    """A user also sets keys on the command line, some of which the file lacks."""
    release = ("--config-dir", shutil.copy(RELEASE, tmp_path / "release.yaml").parent, "--config-name", "release.yaml")
    shutil.copytree(RECORDED / "dataset", tmp_path / "dataset")
    ran("forget", *release, f"model_path={MODEL}", "forget_loss=idkpd", *FEW, cwd=tmp_path)
    told = json.loads((tmp_path / "ckpt_results" / "llava-7b" / "popd_0.0001_all_1" / "run.json").read_text())
    assert told["settings"]["forget_loss"]["name"] == "popd" and told["optimizer_steps"] == 1
    assert told["settings"]["model_family"]["name"] == "llava-1.5-7b"
    assert {path.name for path in tmp_path.iterdir()} == {"release.yaml", "dataset", "ckpt_results"}
    # It is the same run as `forget_loss=ga` here: the settings that differ do not decide the result.
    done = run("forget", *release, "--cfg", "job", cwd=tmp_path)
    theirs = read_settings(from_keys(OmegaConf.to_container(OmegaConf.create(done.stdout)))).model_dump()
    ours = read_settings(config("forget_loss=ga")).model_dump()
    different = {key for key in ours if ours[key] != theirs[key]}
    assert different <= {"save_dir", "workers", "report_to", "tune_language_model"}
    assert str(theirs["save_dir"]) == "ckpt_results/llava-7b/ga_0.0001_all_10"


def test_keywords_are_the_keys():
    """They set a group by name, in full or in part; other keys stay as in the file. `${GROUP}` is the group's name."""
    method = {"name": "own", "terms": {"forget": {"loss": "nll", "views": ["forget"], "weight": -2.0}}}
    given = {"forget_loss": method, "recipe": "corrected", "LoRA": {"r": 8}, "stop.not_finite": False}
    read = read_settings(from_keys(given | {"save_dir": "out/${forget_loss}_${recipe.name}"}))
    assert list(read.method.terms) == ["forget"] and read.method.terms["forget"].weight == -2.0
    assert read.recipe.shuffle and (read.LoRA.r, read.LoRA.alpha) == (8, 256) and not read.stop.not_finite
    assert str(read.save_dir) == "out/own_corrected"
    mini = read_settings(from_keys({"forget_loss": "ga"}, "mini"))
    assert (mini.max_train_steps, mini.lr, mini.batch_size) == (200, 2e-3, 8)
    both = read_settings(from_keys({"forget_loss": "npo+pd", "data": "own", "data.views.retain.answer": "caption"}))
    assert both.title == "NPO+PD" and both.method.terms["decoupled"].weight == 1.0
    assert {view: each.answer for view, each in both.data.views.items()}["retain"] == "caption"


@pytest.mark.parametrize(("keys", "page", "says"), REFUSED["keywords"], ids=str)
def test_keywords_that_cannot_be_meant_are_refused(keys, page, says):
    given = {key: object() if value == "an object" else value for key, value in keys.items()}
    assert says in refusal(lambda: read_settings(from_keys(given, page)))
