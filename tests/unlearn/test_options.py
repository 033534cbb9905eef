"""What `trainer:` passes on: any option of transformers', none that this project sets; what cannot work is one line."""

import json
import os
from dataclasses import MISSING, fields
from unittest.mock import patch

import pytest
import torch
from helpers import MODEL, TRAIN, read_lines, refused, run, settings
from transformers import TrainingArguments

from safeeraser import model as models
from safeeraser.errors import BadInput
from safeeraser.infer.checkpoint import load_merged
from safeeraser.unlearn import arguments as training
from safeeraser.unlearn import run as running
from safeeraser.unlearn.engine import Engine
from safeeraser.unlearn.options import FIXED, SAID_BY, check_options
from safeeraser.unlearn.plan import Schedule
from safeeraser.unlearn.settings import Settings

pytestmark = pytest.mark.slow

GIVEN = (f"model_path={MODEL}", f"data_path={TRAIN}", "dtype=float32", "workers=0", "forget_loss=ga")
GIVEN += ("gradient_accumulation_steps=1", "max_train_steps=2")
OVERRIDABLE = {"optim", "run_name", "dataloader_pin_memory", "dataloader_prefetch_factor", "ddp_find_unused_parameters"}


def trained(folder, *more):
    done = run("forget", *GIVEN, f"save_dir={folder}", *more)
    assert done.returncode == 0, done.stderr
    return folder


def test_what_the_project_sets_is_refused_and_the_rest_is_passed():
    with patch.object(training, "TrainingArguments", wraps=TrainingArguments) as told:
        training.training_arguments(settings(), Engine(), Schedule(1, 0))
    own = told.call_args.kwargs.keys() - OVERRIDABLE
    refused = {field.name for field in fields(TrainingArguments) if field.name in Settings.model_fields}
    refused |= SAID_BY.keys() | FIXED
    assert own <= refused
    for field in fields(TrainingArguments):
        if field.name in refused:
            with pytest.raises(BadInput, match=rf"^config: trainer\.{field.name}: set by this project"):
                check_options({field.name: None}, Settings.model_fields)
        elif field.default is not MISSING:
            options = {field.name: field.default}
            assert check_options(options, Settings.model_fields) == options
    # Nothing stands in the tables that TrainingArguments does not have.
    assert SAID_BY.keys() | FIXED <= {field.name for field in fields(TrainingArguments)}


@pytest.mark.parametrize(
    ("given", "ahead"),
    [
        (("workers=2", "gradient_accumulation_steps=16"), 8),
        (("workers=3", "gradient_accumulation_steps=16"), 6),
        (("workers=2", "gradient_accumulation_steps=1"), 2),
        (("workers=2", "trainer.dataloader_prefetch_factor=3"), 3),
        (("workers=0",), None),
    ],
)
def test_a_whole_optimizer_step_is_loaded_ahead(given, ahead):
    """Trainer takes its batches at once: each that is not there yet keeps the GPU waiting."""
    read = settings(*(f"+{text}" if text.startswith("trainer.") else text for text in given))
    assert training.training_arguments(read, Engine(), Schedule(1, 0)).dataloader_prefetch_factor == ahead


@pytest.mark.parametrize("gpu", [True, False])
def test_a_batch_is_copied_to_a_gpu_while_that_works(monkeypatch, gpu):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    arguments = training._of_the_machine(torch.float32, Engine())
    assert arguments["accelerator_config"] == {"non_blocking": gpu}


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("optm=sgd", "no key 'trainer.optm'; did you mean 'optim'? known: adam_beta1,"),
        ("learning_rate=1", "trainer.learning_rate: set by this project; use lr"),
        ("bf16=true", "trainer.bf16: set by this project; use dtype"),
        ("output_dir=x", "trainer.output_dir: set by this project; use save_dir"),
        ("seed=1", "trainer.seed: set by this project; use seed"),
        ("deepspeed=x.json", "trainer.deepspeed: set by this project; use the engine's file"),
        ("logging_steps=9", "trainer.logging_steps: set by this project, which relies on it"),
        ("hub_token=hf_secret", "trainer.hub_token: set by this project; use HF_TOKEN in the environment"),
        ("adam_beta1=fast", "trainer.adam_beta1: Input should be a valid number"),
        ("push_to_hub=true", "trainer.push_to_hub: set by this project; use push_to_hub"),
        ("hub_private_repo=true", "trainer.hub_private_repo: set by this project; use hub_private"),
        ("adam_beta1=7", "trainer.optim=adamw_torch: Invalid beta parameter"),
        ("enable_jit_checkpoint=true", "trainer.enable_jit_checkpoint: set by this project, which relies on it"),
        (
            "dataloader_persistent_workers=true",
            "trainer.dataloader_persistent_workers=True: there are none",
        ),
        ("optim=adamw_8bitt", "adamw_8bitt is not a valid OptimizerNames"),
    ],
)
def test_an_option_that_cannot_be_used(tmp_path, option, says):
    line = refused(tmp_path, "forget", *GIVEN, f"save_dir={tmp_path / 'run'}", f"trainer.{option}", says=says)
    assert "hf_secret" not in line


def test_an_option_is_passed_on_and_recorded(tmp_path):
    folder = trained(tmp_path / "run", "trainer.optim=sgd", "trainer={optim_args: 'momentum=0.5'}", "save_steps=1")
    assert json.loads((folder / "run.json").read_text())["settings"]["trainer"] == {
        "optim": "sgd",
        "optim_args": "momentum=0.5",
    }
    groups = torch.load(folder / "checkpoint-2" / "optimizer.pt")["param_groups"]
    assert all(group["momentum"] == 0.5 and "betas" not in group for group in groups)


def test_an_optimizer_whose_package_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.trainer_optimizer.is_bitsandbytes_available", lambda: False)
    given = (*GIVEN, f"save_dir={tmp_path / 'run'}", "trainer.optim=adamw_8bit")
    refused(tmp_path, "forget", *given, says="trainer.optim=adamw_8bit: You need to install `bitsandbytes`")


@pytest.mark.parametrize("more", [(), ("dry_run=true",)])
@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("reduce_lr_on_plateau", "reduce_lr_on_plateau requires an eval strategy"),
        ("greedy", "greedy requires an eval strategy"),
        ("cosine_with_min_lr", "trainer.lr_scheduler_kwargs: One of min_lr or min_lr_rate should be set"),
        ("warmup_stable_decay", "missing 1 required positional argument: 'num_decay_steps'"),
    ],
)
def test_a_schedule_that_cannot_work(tmp_path, kind, says, more):
    given = (*GIVEN, f"save_dir={tmp_path / 'run'}", f"lr_scheduler_type={kind}", *more)
    refused(tmp_path, "forget", *given, says=says)


def test_a_schedule_gets_what_it_needs(tmp_path):
    schedule = ("lr=1e-3", "lr_scheduler_type=cosine_with_min_lr", "trainer.lr_scheduler_kwargs.min_lr=8e-4")
    folder = trained(tmp_path / "run", *schedule)
    # Half of a cosine from 1e-3 down to 8e-4.
    assert [row["learning_rate"] for row in read_lines(folder / "train_log.jsonl")] == pytest.approx([1e-3, 9e-4])


cpu_alone = pytest.mark.skipif(torch.accelerator.is_available(), reason="asks what a machine without a GPU says")


@cpu_alone
def test_a_cpu_trains_in_bfloat16_but_not_in_float16(tmp_path):
    folder = trained(tmp_path / "run", "dtype=bfloat16", "LoRA.dropout=0")
    whole = trained(tmp_path / "whole", "LoRA.dropout=0")
    one, two = (read_lines(run / "train_log.jsonl")[0]["loss"] for run in (folder, whole))
    assert one != two and one == pytest.approx(two, rel=0.01)
    given = (*GIVEN, f"save_dir={tmp_path / 'half'}", "dtype=float16")
    refused(tmp_path, "forget", *given, says="dtype=float16: a CPU does not train in it")
    # Under DeepSpeed nothing may say that there is no GPU.
    with pytest.raises(BadInput, match=r"^config: not what transformers trains with: Your setup doesn't support bf16"):
        training.training_arguments(settings("dtype=bfloat16"), Engine("zero2", 2), Schedule(1, 0))


def test_lora_options_reach_the_adapter_and_the_answers(tmp_path):
    """Trained, saved, checked against the untouched model (which KL compares with), and read back."""
    options = ("LoRA.use_dora=true", "LoRA.use_rslora=true", "LoRA.init_lora_weights=gaussian")
    folder = trained(tmp_path / "run", "forget_loss=kl", "LoRA.targets=[q_proj,v_proj]", *options, "lr=0.01")
    config = models.adapter_config(folder)
    assert (config.use_dora, config.use_rslora, config.target_modules) == (
        True,
        True,
        r".*\.language_model\.layers\.\d+\.\w+\.(q_proj|v_proj)",
    )
    # Two layers, two targets of 64 x 64, rank 32, a magnitude for each output.
    assert json.loads((folder / "run.json").read_text())["trained_parameters"]["LoRA"] == 2 * 2 * (2 * 32 * 64 + 64)
    assert len(models.read_adapter(folder)) == 2 * 2 * 3 + 4
    untouched, merged = (
        load_merged(str(MODEL), given, dtype="float32", lora_alpha=256).model for given in (None, folder)
    )
    changed = [
        name.split(".")[-2]
        for (name, one), two in zip(untouched.named_parameters(), merged.parameters(), strict=True)
        if not torch.equal(one, two)
    ]
    assert sorted(changed) == sorted([*["q_proj", "v_proj"] * 2, *["linear_1", "linear_2"] * 2])


def test_determinism_is_asked_for_before_anything_is_multiplied(tmp_path, monkeypatch):
    """On a GPU torch looks at the first product, and never again, what cuBLAS was told: Trainer's word comes too late
    where the untouched model has answered before."""
    told, load = [], running.load_model

    def seen(*given):
        told.append((torch.are_deterministic_algorithms_enabled(), os.environ.get("CUBLAS_WORKSPACE_CONFIG")))
        return load(*given)

    monkeypatch.setattr(running, "load_model", seen)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        trained(tmp_path / "run", "forget_loss=kl", "deterministic=true")
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False
    assert told == [(True, ":16:8")]
