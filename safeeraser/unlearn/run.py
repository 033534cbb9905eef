"""A whole unlearning run: from settings to an adapter in `save_dir`."""

import logging
import os
import platform
import shutil
import subprocess
import time
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PrinterCallback, ProgressCallback, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from safeeraser import __version__
from safeeraser import model as llava
from safeeraser.benchmark.files import RUN_FILE, read_json, sha256, write_json
from safeeraser.benchmark.records import DataFile, read_records, read_refusals
from safeeraser.errors import BadInput
from safeeraser.unlearn.batch import Collator, PlanDataset
from safeeraser.unlearn.plan import Step, make_plan, read_plan, write_plan
from safeeraser.unlearn.plot import plot_training
from safeeraser.unlearn.settings import Settings
from safeeraser.unlearn.trainer import TRAIN_LOG, Progress, TrainLog, UnlearnTrainer, optimizer_steps
from safeeraser.unlearn.views import build_views

log = logging.getLogger(__name__)

# What a resumed run may change: nothing that decides the result.
FREE_ON_RESUME = {"resume_from_checkpoint", "overwrite_dir", "workers", "save_steps", "save_total_limit", "save_model"}
FREE_ON_RESUME |= {"save_dir", "report_to", "dry_run", "tables", "model_family"}
PACKAGES = ("torch", "transformers", "peft", "accelerate")


def forget(settings: Settings) -> None:
    """Unlearn as `settings` say; everything that can be wrong with them is found before `save_dir` is touched.

    Leaves in `save_dir`: the PEFT adapter, `run.json` (settings, versions, data), `plan.json`, `train_log.jsonl`,
    `training.png`, and the checkpoints that `save_steps` asks for.
    """
    data = read_records(settings.data_path).only(settings.split)
    if settings.init_adapter:
        llava.adapter_file(settings.init_adapter)
    checkpoint = find_checkpoint(settings)
    check_save_dir(settings, checkpoint)
    arguments = training_arguments(settings)
    check_engine(arguments)
    dataset = load_data(settings, data, arguments.world_size)
    arguments.max_steps = optimizer_steps(
        len(dataset), settings.batch_size, settings.gradient_accumulation_steps, arguments.world_size
    )
    arguments.warmup_steps = round(settings.warmup_ratio * arguments.max_steps)
    log.info(
        "%s (recipe %s): %d records, %d items, %d optimizer steps, %d of them warm-up",
        settings.method.name,
        settings.recipe.name,
        len(data.records),
        len(dataset),
        arguments.max_steps,
        arguments.warmup_steps,
    )
    if settings.dry_run:
        return
    set_seed(settings.seed)
    model = load_model(settings)
    record = describe(settings, data, arguments, model)
    if arguments.process_index == 0:
        if settings.overwrite_dir and not checkpoint:
            shutil.rmtree(settings.save_dir, ignore_errors=True)
        write_json(settings.save_dir / RUN_FILE, record)
        write_plan(settings.save_dir / "plan.json", settings.method.name, settings.recipe, dataset.plan)
    train(settings, arguments, model, dataset, checkpoint)
    if arguments.process_index == 0:
        write_json(settings.save_dir / RUN_FILE, record | {"finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")})
        plot_training(settings.save_dir / TRAIN_LOG, settings.save_dir / "training.png", settings.method.name)
        log.info("done: %s", settings.save_dir)


def load_data(settings: Settings, data: DataFile, processes: int) -> PlanDataset:
    """The data that the method reads, and the plan through it. Raises `BadInput` for anything unusable in them."""
    views = settings.method.views
    refusals = read_refusals(settings.data_path) if "refusal" in views else []
    items = build_views(data, views)
    sizes = {view: len(items[view]) for view in views}
    sizes["forget"] = sum(len(record.unsafe_pairs) for record in data.records)
    if "refusal" in views:
        sizes["refusal"] = len(refusals)
    plan = make_or_read_plan(settings, sizes, processes)
    preprocessor = llava.load_preprocessor(settings.model_path)
    dataset = PlanDataset(plan, items, refusals, preprocessor, settings.recipe, settings.max_length)
    for view in views:
        for item in items[view]:
            # Found now rather than in the night: an item whose prompt leaves no room for an answer.
            dataset.encode(replace(item, answer=refusals[0]) if view == "refusal" else item)
    return dataset


def make_or_read_plan(settings: Settings, sizes: dict[str, int], processes: int) -> list[Step]:
    """The plan of the whole run, as long as `max_train_steps` wants it, or else `num_epochs` or the given plan."""
    per_step = settings.batch_size * settings.gradient_accumulation_steps * processes
    wanted = settings.max_train_steps and settings.max_train_steps * per_step
    if settings.plan:
        plan = read_plan(settings.plan, sizes)
        if wanted and wanted > len(plan):
            raise BadInput(f"{settings.plan}: has {len(plan)} items, max_train_steps takes {wanted}")
    else:
        epochs = -(-wanted // sizes["forget"]) if wanted else settings.num_epochs
        plan = make_plan(sizes, epochs=epochs, seed=settings.seed, recipe=settings.recipe)
    return plan[:wanted] if wanted else plan


def load_model(settings: Settings) -> PeftModel:
    """The model with its adapter attached, the trained parameters in float32."""
    parts = settings.model_family.parts
    base = llava.load_model(
        settings.model_path, llava.choose_dtype(settings.dtype), llava.choose_attention(settings.attention)
    )
    config = llava.lora_config(
        parts,
        r=settings.LoRA.r,
        alpha=settings.LoRA.alpha,
        dropout=settings.LoRA.dropout,
        projector=settings.tune_mm_projector,
        vision=settings.tune_vision_tower,
    )
    model = llava.attach(base, config, parts)
    if settings.init_adapter:
        llava.load_adapter(model, settings.init_adapter)
    for parameter in model.parameters():
        if parameter.requires_grad:
            # In bfloat16 most updates of this size would round to nothing.
            parameter.data = parameter.data.float()
    counts = llava.trained_parameters(model, parts)
    log.info("trained: %s", ", ".join(f"{name} {count:,}" for name, count in counts.items() if count))
    return model


def train(
    settings: Settings, arguments: TrainingArguments, model: PeftModel, dataset: PlanDataset, checkpoint: str | None
) -> None:
    """Run the loop and write the adapter."""
    trainer = UnlearnTrainer(
        method=settings.method,
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=Collator(settings.method, dataset.preprocessor.pad_token),
        callbacks=[TrainLog()],
    )
    for noisy in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(noisy)
    trainer.add_callback(Progress())
    trainer.train(resume_from_checkpoint=checkpoint)
    if settings.save_model:
        trainer.save_model(str(settings.save_dir))


def training_arguments(settings: Settings) -> TrainingArguments:
    """What transformers' Trainer is told; accelerate's launcher adds the engine through the environment."""
    dtype = llava.choose_dtype(settings.dtype)
    trackers = [name for name in settings.report_to if name != "none"]
    for tracker in trackers:
        if find_spec(tracker) is None:
            raise BadInput(f"report_to={tracker}: not installed; 'pip install {tracker}' brings it")
    several_cpus = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(settings.save_dir),
        num_train_epochs=1,  # the plan holds all epochs
        train_sampling_strategy="sequential",
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        optim="adamw_torch",
        learning_rate=settings.lr,
        lr_scheduler_type=settings.lr_scheduler_type,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        bf16=dtype is torch.bfloat16,
        fp16=dtype is torch.float16,
        seed=settings.seed,
        dataloader_num_workers=settings.workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps" if settings.save_steps else "no",
        save_steps=settings.save_steps or 500,
        save_total_limit=settings.save_total_limit,
        report_to=trackers or "none",
        run_name=str(settings.save_dir),
        ddp_find_unused_parameters=False,
        # Told that they are on CPUs, processes form a group; but then accelerate would quietly drop DeepSpeed.
        use_cpu=several_cpus and asked_engine() != "DEEPSPEED",
        ddp_backend="gloo" if several_cpus else None,
    )


def asked_engine() -> str | None:
    """The engine that accelerate's launcher was told to use: `DEEPSPEED`, `FSDP`, or None for data parallelism."""
    asked = [name for name in ("DEEPSPEED", "FSDP") if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true"]
    return asked[0] if asked else None


def check_engine(arguments: TrainingArguments) -> None:
    """Refuse to train under another engine than the one asked for, which accelerate falls back to quietly on CPUs."""
    asked, runs = asked_engine(), arguments.distributed_state.distributed_type.value
    if (asked == "DEEPSPEED" and runs != "DEEPSPEED") or (asked == "FSDP" and not runs.startswith("MULTI_GPU")):
        raise BadInput(f"engine: {asked} was asked for, but accelerate runs {runs} on this machine")


def find_checkpoint(settings: Settings) -> str | None:
    """The folder to resume from, if any. Raises `BadInput` if the one named is no checkpoint."""
    wanted = settings.resume_from_checkpoint
    if wanted is None:
        return None
    if wanted == "auto":
        return get_last_checkpoint(settings.save_dir) if settings.save_dir.is_dir() else None
    if not (Path(wanted) / "trainer_state.json").is_file():
        raise BadInput(f"resume_from_checkpoint={wanted}: no checkpoint there (it would hold trainer_state.json)")
    return wanted


def check_save_dir(settings: Settings, checkpoint: str | None) -> None:
    """Refuse a `save_dir` that holds something else than what this run may continue or was told to replace."""
    folder = settings.save_dir
    if not folder.exists() or (folder.is_dir() and all(path.name.startswith(".") for path in folder.iterdir())):
        return
    if not (folder / RUN_FILE).is_file():
        raise BadInput(f"save_dir={folder}: exists and is no run of this project; nothing there is touched")
    earlier = read_json(folder / RUN_FILE)["settings"]
    if settings.resume_from_checkpoint:
        now = settings.model_dump(mode="json")
        for key in (key for key in now if key not in FREE_ON_RESUME):
            if earlier.get(key) != now[key]:
                told = "" if isinstance(now[key], dict) else f" ({earlier.get(key)}, now {now[key]})"
                raise BadInput(f"save_dir={folder}: its run has another {key}{told}; resume it as it was started")
    elif not settings.overwrite_dir:
        raise BadInput(
            f"save_dir={folder}: holds another run ({earlier['forget_loss']['name']}); name another folder, go on with "
            "resume_from_checkpoint=auto, or replace it with overwrite_dir=true"
        )


def describe(settings: Settings, data: DataFile, arguments: TrainingArguments, model: PeftModel) -> dict[str, Any]:
    """What `run.json` records, so that a result carries its configuration."""
    return {
        "settings": settings.model_dump(mode="json"),
        "data": {"records": len(data.records), "sha256": sha256(data.path)},
        "optimizer_steps": arguments.max_steps,
        "warmup_steps": arguments.warmup_steps,
        "processes": arguments.world_size,
        "engine": asked_engine() or arguments.distributed_state.distributed_type.value,
        "trained_parameters": llava.trained_parameters(model, settings.model_family.parts),
        "versions": {"safeeraser": __version__, "python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
        "git_commit": _git_commit(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _git_commit() -> str | None:
    """The commit this code stands at; None outside a checkout."""
    found = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or None
