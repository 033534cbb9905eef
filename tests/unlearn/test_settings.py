"""The config file: its defaults, what each short form means, and every key that cannot be used, named in one line."""

import dataclasses
import shlex

import pytest
from helpers import config, read_beside, read_lines, refusal
from omegaconf import OmegaConf
from transformers import TrainingArguments

from safeeraser.errors import BadInput
from safeeraser.model.lora import trained_parameters
from safeeraser.unlearn.config.read import read_settings
from safeeraser.unlearn.config.trainer_arguments import training_arguments, with_checked_trainer
from safeeraser.unlearn.data.plan import Schedule
from safeeraser.unlearn.engine import Engine

from .built import built
from .given import page, settings

GIVEN = read_beside(__file__, "golden/settings.yaml")
TOLD = read_beside(__file__, "golden/trainer.yaml")


def read(*words):
    """The checked settings of the config file with keys laid on it."""
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
    """KL compares with the untouched model, which none of them may change: on a fresh adapter it is 0."""
    keys = {"LoRA.targets": ["q_proj", "v_proj"], "LoRA.use_dora": True, "LoRA.use_rslora": True}
    keys |= {"LoRA.init_lora_weights": "gaussian", "trainer": {"optim": "sgd", "optim_args": "momentum=0.5"}}
    keys |= {"lr": 1e-3, "lr_scheduler_type": "cosine_with_min_lr", "trainer.lr_scheduler_kwargs.min_lr": 8e-4}
    trainer = built(tmp_path, "kl", keys, steps=2, noise=0)
    trainer.train()
    adapter = trainer.model.peft_config["default"]
    layers = r".*\.language_model\.layers\.\d+\.(\w+\.)*(q_proj|v_proj)"
    assert (adapter.use_dora, adapter.use_rslora, adapter.target_modules) == (True, True, layers)
    # Two layers, two targets of 64 x 64, rank 32, a magnitude for each output.
    counts = trained_parameters(trainer.model, trainer.forward.family)
    assert counts["LoRA"] == 2 * 2 * (2 * 32 * 64 + 64)
    groups = trainer.optimizer.param_groups
    assert all(group["momentum"] == 0.5 and "betas" not in group for group in groups)
    rows = read_lines(tmp_path / "train_log.jsonl")
    assert rows[0]["terms"]["kl"] == pytest.approx(0, abs=1e-6)
    # Half of a cosine from 1e-3 down to 8e-4.
    assert [row["learning_rate"] for row in rows] == pytest.approx([1e-3, 9e-4])
