"""What transformers' Trainer is told: by the settings, by the machine, and by `trainer:`."""

import math
from typing import Any

import torch
from transformers import Trainer, TrainingArguments, get_scheduler

from safeeraser import model as models
from safeeraser.errors import BadInput
from safeeraser.unlearn.engine import Engine
from safeeraser.unlearn.plan import Schedule
from safeeraser.unlearn.settings import Settings


def training_arguments(settings: Settings, engine: Engine, schedule: Schedule) -> TrainingArguments:
    """What Trainer is told; accelerate's launcher adds the engine through the environment.

    Raises:
        BadInput: that cannot be trained with, for the reason that transformers gives.
    """
    dtype = models.choose_dtype(settings.dtype)
    if dtype is torch.float16 and not (settings.dry_run or torch.accelerator.is_available()):
        raise BadInput("config: dtype=float16: a CPU does not train in it; bfloat16 and float32 are the others")
    defaults = {
        "optim": "adamw_torch",
        "dataloader_pin_memory": torch.cuda.is_available(),
        "dataloader_prefetch_factor": _batches_ahead(settings),
        "run_name": str(settings.save_dir),
        "ddp_find_unused_parameters": False,  # it would search the graph in every micro-step, for nothing
    }
    own = _of_the_loop(settings, schedule) | _of_the_machine(dtype, engine)
    try:
        arguments = TrainingArguments(**own, **defaults | settings.trainer)
    except (ValueError, TypeError, ImportError) as error:
        raise BadInput(f"config: not what transformers trains with: {str(error).strip().splitlines()[0]}") from None
    if arguments.dataloader_persistent_workers and not settings.workers:
        raise BadInput("config: trainer.dataloader_persistent_workers=True: there are none with workers=0")
    # A process has one GPU; where it sees several, Trainer would split each micro-step among them by DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _of_the_loop(settings: Settings, schedule: Schedule) -> dict[str, Any]:
    """What is trained for how long, what is logged and what is kept."""
    saves_evenly = isinstance(settings.save_steps, int) and settings.save_steps > 0
    return {
        "output_dir": str(settings.save_dir),
        "num_train_epochs": 1,  # the plan holds all epochs
        "max_steps": schedule.steps,
        "warmup_steps": schedule.warmup,
        "train_sampling_strategy": "sequential",
        "per_device_train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation_steps,
        "learning_rate": settings.lr,
        "lr_scheduler_type": settings.lr_scheduler_type,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "activation_checkpointing": settings.gradient_checkpointing,
        "activation_checkpointing_kwargs": {"use_reentrant": False},
        "seed": settings.seed,
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
    """What the dtype, and processes on CPUs, ask for."""
    several_cpus = engine.processes > 1 and not torch.cuda.is_available()
    return {
        "bf16": dtype is torch.bfloat16,
        "fp16": dtype is torch.float16,
        # Told that they are on CPUs, processes form a group; but then accelerate would quietly drop DeepSpeed and FSDP.
        "use_cpu": (several_cpus or not torch.accelerator.is_available()) and engine.name in ("single", "ddp"),
        "ddp_backend": "gloo" if several_cpus else None,
        # From pinned memory a batch is copied while the GPU works; else it waits once for each of its tensors.
        "accelerator_config": {"non_blocking": torch.cuda.is_available()},
    }


def _batches_ahead(settings: Settings) -> int | None:
    """How many batches each loading process keeps ready: together an optimizer step's, which Trainer takes at once.

    With torch's own two the GPU would wait for the rest. They lie in CPU memory, a picture of 336 pixels in 1.4 MB: 65
    MB for 16 micro-steps of three rows.
    """
    return max(2, math.ceil(settings.gradient_accumulation_steps / settings.workers)) if settings.workers else None


def check_optimizer(arguments: TrainingArguments, schedule: Schedule) -> None:
    """Build optimizer and schedule once, on nothing. Raises `BadInput` with the reason why that cannot be."""
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
