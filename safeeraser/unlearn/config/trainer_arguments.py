"""The arguments of transformers' Trainer, from the settings, the machine, and the key `trainer:` for the rest."""

from dataclasses import dataclass
from math import ceil
from typing import Any, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError
from transformers import Trainer, TrainingArguments, get_scheduler

from safeeraser.errors import BadInput, nearest
from safeeraser.model.load import choose_dtype
from safeeraser.unlearn.config.engine import Engine
from safeeraser.unlearn.config.settings import Settings

ENGINE = "the engine's file (ACCELERATE_CONFIG)"
# Arguments that a key of this project sets under another name. Arguments of the same name need no entry.
SAID_BY = {
    "output_dir": "save_dir",
    "num_train_epochs": "num_epochs",
    "max_steps": "max_train_steps",
    "warmup_steps": "warmup_ratio",
    "per_device_train_batch_size": "batch_size",
    "auto_find_batch_size": "batch_size",
    "learning_rate": "lr",
    "bf16": "dtype",
    "fp16": "dtype",
    "activation_checkpointing": "gradient_checkpointing",
    "dataloader_num_workers": "workers",
    "data_seed": "seed",
    "full_determinism": "deterministic",
    "train_sampling_strategy": "recipe.shuffle",
    "save_strategy": "save_steps",
    "eval_strategy": "probe_every",
    "hub_token": "HF_TOKEN in the environment",
    "hub_private_repo": "hub_private",
    **dict.fromkeys(("deepspeed", "fsdp", "fsdp_config", "parallelism_config", "ddp_backend", "use_cpu"), ENGINE),
}
# Arguments that keep transformers' defaults. Either the plan, the losses, the log or the checkpoints rely on them, or
# nothing reads them, because there is no evaluation set.
_AS_THEY_ARE = """
average_tokens_across_devices batch_eval_metrics bf16_full_eval dataloader_drop_last do_eval do_predict do_train
eval_accumulation_steps eval_delay eval_do_concat_batches eval_on_start eval_steps eval_use_gather_object fp16_full_eval
gradient_checkpointing_kwargs greater_is_better hub_always_push hub_revision hub_strategy ignore_data_skip
include_for_metrics label_names label_smoothing_factor length_column_name liger_kernel_config load_best_model_at_end
local_rank logging_first_step logging_strategy metric_for_best_model neftune_noise_alpha per_device_eval_batch_size
prediction_loss_only enable_jit_checkpoint restore_callback_states_from_checkpoint save_only_model use_cache
use_liger_kernel
"""


@dataclass(frozen=True)
class Schedule:
    """A run's optimizer steps, its warm-up steps among them, and the number of items left out at the plan's end."""

    steps: int
    warmup: int
    left_out: int = 0

    @classmethod
    def of(
        cls, items: int, *, batch_size: int, accumulation: int, processes: int, warmup_ratio: float = 0.0
    ) -> "Schedule":
        """The schedule of a plan of `items`. Rounds that do not fill an optimizer step make a smaller last step."""
        left_out = items % (batch_size * processes) if processes > 1 else 0
        rounds = ceil((items - left_out) / (batch_size * processes))
        steps = ceil(rounds / accumulation)
        return cls(steps, round(warmup_ratio * steps), left_out)


def training_arguments(settings: Settings, engine: Engine, schedule: Schedule) -> TrainingArguments:
    """Trainer's arguments. accelerate's launcher adds the engine through the environment. Raises `BadInput` with
    transformers' reason if it cannot train with them."""
    dtype = choose_dtype(settings.dtype)
    if dtype is torch.float16 and not (settings.dry_run or torch.accelerator.is_available()):
        raise BadInput("config: dtype=float16: a CPU cannot train in it; take bfloat16 or float32")
    ours = _of_the_loop(settings, schedule) | _of_the_machine(dtype, engine)
    try:
        arguments = TrainingArguments(**ours, **_defaults(settings) | settings.trainer)
    except (ValueError, TypeError, ImportError) as error:
        raise BadInput(f"config: not what transformers trains with: {str(error).strip().splitlines()[0]}") from None
    if arguments.dataloader_persistent_workers and not settings.workers:
        raise BadInput("config: trainer.dataloader_persistent_workers=True: there are none with workers=0")
    # A process has one GPU; where it sees several, Trainer would split each micro-step among them by DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _defaults(settings: Settings) -> dict[str, Any]:
    """This project's defaults, which `trainer:` may override.

    Trainer takes all batches of an optimizer step at once, so the workers together keep that many ready. With torch's
    default, two for each worker, the GPU would wait for the rest. The batches lie in CPU memory. A picture of 336
    pixels takes 1.4 MB there, so 16 micro-steps of three rows take 65 MB.
    """
    workers = settings.workers
    return {
        "optim": "adamw_torch",
        "dataloader_pin_memory": torch.cuda.is_available(),
        "dataloader_prefetch_factor": max(2, ceil(settings.gradient_accumulation_steps / workers)) if workers else None,
        "run_name": str(settings.save_dir),
        "ddp_find_unused_parameters": False,  # it would search the graph in every micro-step, for nothing
    }


def _of_the_loop(settings: Settings, schedule: Schedule) -> dict[str, Any]:
    """The arguments for optimization, the length of training, logging and checkpoints."""
    saves_evenly = isinstance(settings.save_steps, int) and settings.save_steps > 0
    alike = ("gradient_accumulation_steps", "lr_scheduler_type", "max_grad_norm", "seed", "weight_decay")
    return {
        **{key: getattr(settings, key) for key in alike},
        "output_dir": str(settings.save_dir),
        "num_train_epochs": 1,  # the plan holds all epochs
        "max_steps": schedule.steps,
        "warmup_steps": schedule.warmup,
        "train_sampling_strategy": "sequential",
        "per_device_train_batch_size": settings.batch_size,
        "learning_rate": settings.lr,
        "activation_checkpointing": settings.gradient_checkpointing,
        "activation_checkpointing_kwargs": {"use_reentrant": False},
        "full_determinism": settings.deterministic,
        "dataloader_num_workers": settings.workers,
        "remove_unused_columns": False,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps" if saves_evenly else "no",
        "save_steps": settings.save_steps if saves_evenly else 500,
        "save_total_limit": settings.save_total_limit if saves_evenly else None,
        "report_to": settings.trackers or "none",
    }


def _of_the_machine(dtype: torch.dtype, engine: Engine) -> dict[str, Any]:
    """The arguments that follow from the dtype and the devices."""
    several_cpus = engine.processes > 1 and not torch.cuda.is_available()
    return {
        "bf16": dtype is torch.bfloat16,
        "fp16": dtype is torch.float16,
        # With `use_cpu`, processes on CPUs form a group, but accelerate drops DeepSpeed and FSDP without a warning.
        "use_cpu": (several_cpus or not torch.accelerator.is_available()) and engine.name in ("single", "ddp"),
        "ddp_backend": "gloo" if several_cpus else None,
        # From pinned memory, a batch is copied while the GPU works. Otherwise the GPU waits for each of its tensors.
        "accelerator_config": {"non_blocking": torch.cuda.is_available()},
    }


def with_checked_trainer(settings: Settings) -> Settings:
    """The settings, with the values of `trainer:` converted to the types of their fields.

    Raises:
        BadInput: a key is no field of TrainingArguments, or this project sets it, or its value has another type. The
            error does not repeat a value, which could be a credential.
    """
    types, checked, keys = get_type_hints(TrainingArguments), {}, Settings.model_fields
    ours = {*_AS_THEY_ARE.split(), *_of_the_loop(settings, Schedule(1, 0)), *_of_the_machine(torch.float32, Engine())}
    for name, value in settings.trainer.items():
        if where := name if name in keys else SAID_BY.get(name):
            raise BadInput(f"config: trainer.{name}: set by this project; use {where}")
        if name in ours:
            raise BadInput(f"config: trainer.{name}: set by this project, which relies on it")
        if name not in types:
            known = types.keys() - SAID_BY - ours - keys.keys()
            raise BadInput(f"config: no key 'trainer.{name}'; {nearest(name, known)}")
        try:
            checked[name] = TypeAdapter(types[name]).validate_python(value)
        except ValidationError as error:
            raise BadInput(f"config: trainer.{name}: {error.errors()[0]['msg']}") from None
    return settings.model_copy(update={"trainer": checked})


def check_optimizer(arguments: TrainingArguments, schedule: Schedule) -> None:
    """Build optimizer and schedule once, for a dummy parameter. Raises `BadInput` with the reason if that fails."""
    said = f"config: trainer.optim={arguments.optim.value}"
    try:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
        optimizer = kind([torch.nn.Parameter(torch.zeros(1))], **options)
        said = f"config: lr_scheduler_type={arguments.lr_scheduler_type.value}, trainer.lr_scheduler_kwargs"
        get_scheduler(
            arguments.lr_scheduler_type,
            optimizer,
            num_warmup_steps=schedule.warmup,
            num_training_steps=schedule.steps,
            scheduler_specific_kwargs=arguments.lr_scheduler_kwargs,
        )
    except (ValueError, TypeError, ImportError) as error:
        raise BadInput(f"{said}: {str(error).strip().splitlines()[0]}") from None
