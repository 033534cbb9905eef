"""A whole unlearning run: from settings to an adapter in `save_dir`."""

import logging
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

from safeeraser import __version__
from safeeraser import model as llava
from safeeraser.benchmark.files import RUN_FILE, sha256, write_json
from safeeraser.benchmark.records import DataFile, read_records, read_refusals
from safeeraser.errors import BadInput
from safeeraser.unlearn.batch import Collator, PlanDataset
from safeeraser.unlearn.engine import Engine, check_engine, check_running, engine_of
from safeeraser.unlearn.plan import Schedule, Step, make_plan, read_plan, write_plan
from safeeraser.unlearn.plot import plot_training
from safeeraser.unlearn.save_dir import check_save_dir, find_checkpoint
from safeeraser.unlearn.settings import Settings
from safeeraser.unlearn.trainer import TRAIN_LOG, Progress, TrainLog, UnlearnTrainer
from safeeraser.unlearn.views import Item, build_views

log = logging.getLogger(__name__)

PACKAGES = ("torch", "transformers", "peft", "accelerate")


def forget(settings: Settings) -> None:
    """Unlearn as `settings` say; everything that can be wrong with them is found before `save_dir` is touched.

    Leaves in `save_dir`: the PEFT adapter, `run.json` (settings, versions, data), `plan.json`, `train_log.jsonl`,
    `training.png`, and the checkpoints that `save_steps` asks for.
    """
    data = read_records(settings.data_path).only(settings.split)
    check_files(settings)
    engine = engine_of(settings)
    checkpoint = find_checkpoint(settings)
    check_save_dir(settings, checkpoint)
    items, refusals = load_items(settings, data)
    plan = make_or_read_plan(settings, plan_sizes(data, items, refusals), engine.processes)
    check_engine(engine, settings, items=len(plan))
    schedule = Schedule.of(
        len(plan),
        batch_size=settings.batch_size,
        accumulation=settings.gradient_accumulation_steps,
        processes=engine.processes,
        warmup_ratio=settings.warmup_ratio,
    )
    if settings.dry_run:
        dry_run(settings, engine, schedule, data, items, refusals, plan)
        return
    arguments = training_arguments(settings, engine, schedule)
    check_running(engine, arguments)
    dataset = load_dataset(settings, plan, items, refusals)
    log.info("%s", summary(settings, schedule, data, plan))
    set_seed(settings.seed)
    model = load_model(settings)
    record = describe(settings, data, engine, schedule, model)
    if arguments.process_index == 0:
        if settings.overwrite_dir and not checkpoint:
            shutil.rmtree(settings.save_dir, ignore_errors=True)
        write_json(settings.save_dir / RUN_FILE, record)
        write_plan(settings.save_dir / "plan.json", settings.method.name, settings.recipe, plan)
    train(settings, arguments, model, dataset, checkpoint)
    if arguments.process_index == 0:
        write_json(settings.save_dir / RUN_FILE, record | {"finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")})
        plot_training(settings.save_dir / TRAIN_LOG, settings.save_dir / "training.png", settings.method.name)
        log.info("done: %s", settings.save_dir)
    # Together: one that leaves while gloo's threads still let go of its tensors is aborted, and takes the others along.
    arguments.distributed_state.wait_for_everyone()
    arguments.distributed_state.destroy_process_group()


def summary(settings: Settings, schedule: Schedule, data: DataFile, plan: list[Step]) -> str:
    """One line about a run."""
    return (
        f"{settings.method.name} (recipe {settings.recipe.name}): {len(data.records)} records, {len(plan)} items, "
        f"{schedule.steps} optimizer steps, {schedule.warmup} of them warm-up"
    )


def dry_run(settings, engine, schedule, data, items, refusals, plan) -> None:
    load_dataset(settings, plan, items, refusals)
    log.info("%s", summary(settings, schedule, data, plan))


def check_files(settings: Settings) -> None:
    """Raises `BadInput` for an adapter or a tracker that is not there."""
    if settings.init_adapter:
        llava.adapter_file(settings.init_adapter)
    for tracker in settings.trackers:
        if find_spec(tracker) is None:
            raise BadInput(f"report_to={tracker}: not installed; 'pip install {tracker}' brings it")


def load_items(settings: Settings, data: DataFile) -> tuple[dict[str, list[Item]], list[str]]:
    """The items of each view that the method reads, and the refusals if it reads them."""
    views = settings.method.views
    refusals = read_refusals(settings.data_path) if "refusal" in views else []
    return build_views(data, views), refusals


def load_dataset(
    settings: Settings, plan: list[Step], items: dict[str, list[Item]], refusals: list[str]
) -> PlanDataset:
    """The plan as a dataset. Raises `BadInput` for an item whose prompt leaves no room for an answer."""
    preprocessor = llava.load_preprocessor(settings.model_path)
    dataset = PlanDataset(plan, items, refusals, preprocessor, settings.recipe, settings.max_length)
    for view in items:
        for item in items[view]:
            # Found now rather than in the night.
            dataset.encode(replace(item, answer=refusals[0]) if view == "refusal" else item)
    return dataset


def plan_sizes(data: DataFile, items: dict[str, list[Item]], refusals: list[str]) -> dict[str, int]:
    """How many of each kind a plan chooses from."""
    sizes = {view: len(items[view]) for view in items}
    sizes["forget"] = sum(len(record.unsafe_pairs) for record in data.records)
    return sizes | ({"refusal": len(refusals)} if refusals else {})


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


def training_arguments(settings: Settings, engine: Engine, schedule: Schedule) -> TrainingArguments:
    """What transformers' Trainer is told; accelerate's launcher adds the engine through the environment."""
    dtype = llava.choose_dtype(settings.dtype)
    several_cpus = engine.processes > 1 and not torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(settings.save_dir),
        num_train_epochs=1,  # the plan holds all epochs
        max_steps=schedule.steps,
        warmup_steps=schedule.warmup,
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
        activation_checkpointing=settings.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        seed=settings.seed,
        dataloader_num_workers=settings.workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps" if settings.save_steps else "no",
        save_steps=settings.save_steps or 500,
        save_total_limit=settings.save_total_limit,
        report_to=settings.trackers or "none",
        run_name=str(settings.save_dir),
        ddp_find_unused_parameters=False,
        # Told that they are on CPUs, processes form a group; but then accelerate would quietly drop DeepSpeed.
        use_cpu=several_cpus and not engine.deepspeed,
        ddp_backend="gloo" if several_cpus else None,
    )


def describe(
    settings: Settings, data: DataFile, engine: Engine, schedule: Schedule, model: PeftModel
) -> dict[str, Any]:
    """What `run.json` records, so that a result carries its configuration."""
    return {
        "settings": settings.model_dump(mode="json"),
        "data": {"records": len(data.records), "sha256": sha256(data.path)},
        "optimizer_steps": schedule.steps,
        "warmup_steps": schedule.warmup,
        "engine": engine.record,
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
