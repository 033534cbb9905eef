"""The config file: its defaults, what each short form means, and every key that cannot be used, named in one line."""

import dataclasses
import json

import pytest
import torch
from helpers import MODEL, TRAIN, config, read_lines, trained
from omegaconf import OmegaConf
from transformers import TrainingArguments

from safeeraser import model as models
from safeeraser.errors import BadInput
from safeeraser.unlearn.arguments import training_arguments
from safeeraser.unlearn.composed import read_settings
from safeeraser.unlearn.engine import Engine
from safeeraser.unlearn.options import check_options
from safeeraser.unlearn.plan import Schedule
from safeeraser.unlearn.run import forget
from safeeraser.unlearn.settings import Settings

from .given import page, settings


def read(*words):
    """The checked settings of the config file with keys laid on it."""
    return read_settings(OmegaConf.merge(page(given=()), OmegaConf.from_dotlist(list(words))))


def test_the_defaults_are_the_release_settings():
    found = read()
    assert (found.LoRA.r, found.LoRA.alpha, found.LoRA.dropout) == (32, 256, 0.05)
    assert (found.lr, found.weight_decay, found.warmup_ratio, found.lr_scheduler_type) == (1e-4, 0.01, 0.06, "cosine")
    assert (found.num_epochs, found.batch_size, found.gradient_accumulation_steps) == (10, 1, 16)
    assert (found.max_grad_norm, found.seed, found.max_length) == (1.0, 233, 512)
    assert (found.projector, found.tune_vision_tower, found.finetune) == ("full", False, "lora")
    assert (found.data.name, found.bad_items, found.model_path) == ("safeeraser", "stop", "llava-hf/llava-1.5-7b-hf")
    assert (found.method.name, found.title, found.views) == ("popd", "PO+PD", ["retain", "decoupled", "refusal"])


def test_the_two_recipes_differ_in_six_switches():
    official, corrected = (read_settings(config(f"recipe={n}")).recipe.model_dump() for n in ("official", "corrected"))
    weights = dict.fromkeys(["forget", "retain", "kl", "preference", "decoupled"])
    assert official == {
        "name": "official", "capitalize": True, "decoupled": "retain_index", "shuffle": False, "end_of_answer": False,
        "kl_positions": "all", "training_system": "human", "weights": weights,
    }  # fmt: skip
    switched = {"capitalize": False, "decoupled": "own_pair", "shuffle": True, "end_of_answer": True}
    assert corrected == official | switched | {"name": "corrected", "kl_positions": "answer", "training_system": "user"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["split=Violence"], {"split": ["Violence"]}),
        (["split=[Violence,Sex]"], {"split": ["Violence", "Sex"]}),
        (["max_train_steps=-1"], {"max_train_steps": None}),
        (["resume_from_checkpoint=''"], {"resume_from_checkpoint": None}),
        (["save_steps=[1,2,8]"], {"save_steps": [1, 2, 8]}),
        (["report_to=null"], {"report_to": ["none"], "trackers": []}),
        (["report_to=[tensorboard]"], {"trackers": ["tensorboard"]}),
        (["tune_mm_projector=false"], {"projector": "frozen", "tune_mm_projector": False}),
        (["projector=frozen"], {"projector": "frozen", "tune_mm_projector": False}),
        (["projector=lora"], {"projector": "lora", "tune_mm_projector": True, "whole": {"language_model", "head"}}),
        (["tune_vision_tower=true"], {"whole": {"language_model", "head", "projector", "vision_tower"}}),
        (["finetune=full", "tune_language_model=false"], {"whole": {"projector"}, "adapter": None}),
        (["mask.from=forget"], {"views": ["forget", "retain", "decoupled", "refusal"]}),
        (["LoRA.targets=[q_proj]"], {"family": ("q_proj",)}),
    ],
)
def test_what_is_written_in_short_is_read(words, expected):
    checked = read(*words)
    found = {key: getattr(checked, key) for key in expected}
    assert found | ({"family": found["family"].lora_targets} if "family" in found else {}) == expected


ECHOED = """
batch_size=two batch_size=0 lr=0 lr=inf warmup_ratio=1 LoRA.alpha=0 LoRA.dropout=1 LoRA.targets=[]
seed=4294967296 limit=0 max_bad_items=1 recipe.kl_positions=some recipe.weights.decoupled=much
max_train_steps=0 data.views.retain.image=[]
"""
REFUSED = {word: f"{word}: " for word in ECHOED.split()} | {
    "learning_rate=1": "no key 'learning_rate'",
    "LoRA.rank=8": "no key 'LoRA.rank'",
    "recipe.shufle=true": "no key 'recipe.shufle'; did you mean 'shuffle'?",
    "LoRA.init_lora_weights=pissa": "LoRA.init_lora_weights=pissa: must be true, false, gaussian or orthogonal",
    "split=[]": "split=[]: must be all, or name a category",
    "recipe.weights.kll=1": "recipe.weights.kll: no method has such a term; did you mean 'kl'?",
    "lr_scheduler_type=cosin": "no schedule 'cosin'; did you mean 'cosine'?",
    "report_to=mlflow": "report_to",
    "save_dir=null": "save_dir=None: ",
    "model_path=null": "model_path=None: model_family names a whole family",
    "projector=sine tune_mm_projector=false": "projector=sine: not with tune_mm_projector=false",
    "finetune=full projector=lora": "finetune=full: has no projector=lora",
    "finetune=full quantization=nf4": "finetune=full: cannot train weights in 4 bits",
    "finetune=full init_adapter=x": "finetune=full: takes no init_adapter",
    "finetune=full tune_mm_projector=false tune_language_model=false": "finetune=full: nothing to train",
    "push_to_hub=true": "push_to_hub=true: hub_model_id must say where to",
    "push_to_hub=true hub_model_id=a/b save_model=false": "nothing is left to send with save_model=false",
    "pd=1": "pd=1: popd has prompt decouple as it is",
    "retain=1": "retain=1: popd has no term retain, but preference, decoupled",
    "data.views.retain.answr=x": "no key 'data.views.retain.answr'; did you mean 'answer'?",
    "data.views.retane={image: x, question: y}": "no view 'retane'; did you mean 'retain'?",
    "data.views.retain.answer=null": "view 'retain' names no answer",
    **dict.fromkeys([f"save_steps={v}" for v in ("-1", "abc", "[]", "[0,2]", "[1,x]", "1.5", "true")], "save_steps="),
    "trainer.optm=sgd": "no key 'trainer.optm'; did you mean 'optim'?",
    "trainer.learning_rate=1": "trainer.learning_rate: set by this project; use lr",
    "trainer.logging_steps=9": "trainer.logging_steps: set by this project, which relies on it",
    "trainer.adam_beta1=fast": "trainer.adam_beta1: Input should be a valid number",
    "trainer.hub_token=hf_secret": "trainer.hub_token: set by this project; use HF_TOKEN in the environment",
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_key_that_cannot_be_used_is_named(words):
    given = words.replace(": ", ":\0").split(" ") if words.count("=") > 1 else [words]
    with pytest.raises(BadInput) as error:
        read(*(word.replace("\0", " ") for word in given))
    line = str(error.value)
    assert line.startswith("config: ") and REFUSED[words] in line and "\n" not in line
    assert "hf_secret" not in line


# What `trainer:` may say otherwise, and what depends on the machine.
OVERRIDABLE = {"optim", "run_name", "dataloader_pin_memory", "dataloader_prefetch_factor", "ddp_find_unused_parameters"}
MACHINE = {"dataloader_pin_memory", "use_cpu", "accelerator_config", "ddp_backend"}
CHECKPOINTS = {"use_reentrant": False}
ALWAYS = {
    "activation_checkpointing_kwargs": CHECKPOINTS, "gradient_checkpointing_kwargs": CHECKPOINTS, "learning_rate": 1e-4,
    "ddp_find_unused_parameters": False, "logging_nan_inf_filter": False, "logging_steps": 1, "max_steps": 12,
    "lr_scheduler_type": "cosine", "optim": "adamw_torch", "remove_unused_columns": False, "run_name": "out",
    "train_sampling_strategy": "sequential", "warmup_steps": 2, "weight_decay": 0.01, "num_train_epochs": 1,
    "per_device_train_batch_size": 1, "gradient_accumulation_steps": 16, "seed": 233, "save_strategy": "no",
}  # fmt: skip


AHEAD = {"dataloader_prefetch_factor": 3, "dataloader_num_workers": 8}


def told(*words, engine=Engine()):  # noqa: B008
    """What Trainer is told otherwise than transformers would have it, for 12 steps on the tiny model."""
    given, plain = (
        training_arguments(settings("save_dir=out", *words), engine, Schedule(12, 2)),
        TrainingArguments("out"),
    )
    pairs = ((f.name, getattr(given, f.name), getattr(plain, f.name)) for f in dataclasses.fields(TrainingArguments))
    return {name: value for name, value, before in pairs if value != before and name not in MACHINE}


@pytest.mark.parametrize(
    ("words", "more"),
    [
        ("save_steps=4", {"save_steps": 4, "save_strategy": "steps", "save_total_limit": 2}),
        ("max_grad_norm=0.5 batch_size=3", {"max_grad_norm": 0.5, "per_device_train_batch_size": 3}),
        # A whole optimizer step is loaded ahead: each batch that is not there yet keeps the GPU waiting.
        ("save_steps=[1,2] workers=2", {"dataloader_num_workers": 2, "dataloader_prefetch_factor": 8}),
        ("workers=3", {"dataloader_num_workers": 3, "dataloader_prefetch_factor": 6}),
        ("workers=8 +trainer.dataloader_prefetch_factor=3", AHEAD),
        ("dtype=bfloat16", {"bf16": True}),
        ("deterministic=true seed=7", {"full_determinism": True, "seed": 7}),
        ("gradient_checkpointing=true", {"activation_checkpointing": True, "gradient_checkpointing": True}),
    ],
)
def test_what_trainer_is_told(words, more):
    found, expected = told(*words.split()), ALWAYS | more
    plain = TrainingArguments("out")
    assert found == {name: value for name, value in expected.items() if value != getattr(plain, name)}


def test_what_this_project_says_is_refused_and_all_else_is_passed_on():
    said = {*ALWAYS, *MACHINE, "bf16", "fp16", "full_determinism", "activation_checkpointing"} - OVERRIDABLE
    for field in dataclasses.fields(TrainingArguments):
        try:
            options = {field.name: None if field.default is dataclasses.MISSING else field.default}
            assert check_options(options, Settings.model_fields) == options and field.name not in said
        except BadInput as error:
            assert str(error).startswith(f"config: trainer.{field.name}: ")
            said.discard(field.name)
    assert not said, "what the project says itself can be said otherwise"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("trainer.adam_beta1=7", "trainer.optim=adamw_torch: Invalid beta parameter"),
        ("trainer.optim=adamw_8bitt", "adamw_8bitt is not a valid OptimizerNames"),
        ("trainer.dataloader_persistent_workers=true", "trainer.dataloader_persistent_workers=True: there are none"),
        ("lr_scheduler_type=reduce_lr_on_plateau", "reduce_lr_on_plateau requires an eval strategy"),
        ("lr_scheduler_type=cosine_with_min_lr", "trainer.lr_scheduler_kwargs: One of min_lr or min_lr_rate should be"),
        ("lr_scheduler_type=warmup_stable_decay", "missing 1 required positional argument: 'num_decay_steps'"),
    ],
)
def test_what_no_optimizer_or_schedule_can_be_made_of(tmp_path, words, says):
    with pytest.raises(BadInput) as error:
        forget(settings(f"save_dir={tmp_path / 'run'}", f"++{words}", f"dry_run={'lr' in words}"))
    assert says in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.accelerator.is_available(), reason="asks what a machine without a GPU says")
def test_a_dtype_that_this_machine_does_not_train_in():
    with pytest.raises(BadInput, match=r"^config: dtype=float16: a CPU does not train in it"):
        told("dtype=float16")
    # Under DeepSpeed nothing may say that there is no GPU.
    with pytest.raises(BadInput, match=r"^config: not what transformers trains with: Your setup doesn't support bf16"):
        told("dtype=bfloat16", engine=Engine("zero2", 2))


def test_options_of_lora_the_optimizer_and_the_schedule_reach_the_run(tmp_path):
    """Trained, recorded, saved, and read back; KL compares with the untouched model, which none of them may change."""
    words = ("LoRA.targets=[q_proj,v_proj]", "LoRA.use_dora=true", "LoRA.use_rslora=true", "LoRA.dropout=0")
    words += ("LoRA.init_lora_weights=gaussian", "trainer.optim=sgd", "trainer={optim_args: 'momentum=0.5'}")
    words += ("lr=1e-3", "lr_scheduler_type=cosine_with_min_lr", "trainer.lr_scheduler_kwargs.min_lr=8e-4")
    shape = ("gradient_accumulation_steps=1", "max_train_steps=2", "save_steps=1", "workers=0", "dtype=float32")
    given = (f"model_path={MODEL}", f"data_path={TRAIN}", "forget_loss=kl")
    folder = trained(tmp_path / "run", *given, *words, *shape)
    config = models.adapter_config(folder)
    layers = r".*\.language_model\.layers\.\d+\.\w+\.(q_proj|v_proj)"
    assert (config.use_dora, config.use_rslora, config.target_modules) == (True, True, layers)
    run = json.loads((folder / "run.json").read_text())
    # Two layers, two targets of 64 x 64, rank 32, a magnitude for each output.
    assert run["trained_parameters"]["LoRA"] == 2 * 2 * (2 * 32 * 64 + 64)
    assert len(models.read_adapter(folder)) == 2 * 2 * 3 + 4
    assert run["settings"]["trainer"]["optim_args"] == "momentum=0.5"
    groups = torch.load(folder / "checkpoint-2" / "optimizer.pt")["param_groups"]
    assert all(group["momentum"] == 0.5 and "betas" not in group for group in groups)
    # Half of a cosine from 1e-3 down to 8e-4.
    assert [row["learning_rate"] for row in read_lines(folder / "train_log.jsonl")] == pytest.approx([1e-3, 9e-4])
