"""A whole unlearning run: from settings to an adapter in `save_dir`."""

import logging
import shutil
import signal
import time
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, TrainingArguments, set_seed
from transformers.trainer_utils import enable_full_determinism

from safeeraser import model as models
from safeeraser.benchmark.files import RUN_FILE, held, read_object, write_json
from safeeraser.benchmark.origin import now
from safeeraser.errors import Interrupted
from safeeraser.processes import leave_together
from safeeraser.unlearn.arguments import check_optimizer, training_arguments
from safeeraser.unlearn.batch import Collator, PlanDataset
from safeeraser.unlearn.callbacks import SaveAfter
from safeeraser.unlearn.data import Data
from safeeraser.unlearn.dry_run import dry_run, outline
from safeeraser.unlearn.engine import Engine, check_running, share_out_layers
from safeeraser.unlearn.job import Job, prepare, without_effect
from safeeraser.unlearn.machine import check_machine, check_shared_memory
from safeeraser.unlearn.mask import Mask, check_holds, kept_mask, make_mask, told
from safeeraser.unlearn.plan import write_plan
from safeeraser.unlearn.plot import plot_training
from safeeraser.unlearn.probe import PROBE_LOG, Probes
from safeeraser.unlearn.record import TRAIN_LOG, Unlearned, describe, earlier_sittings, measure_sitting
from safeeraser.unlearn.reference import check_names, check_reference, check_room, row_logits
from safeeraser.unlearn.save_dir import MASK_FILE, finished
from safeeraser.unlearn.settings import Compared, Settings
from safeeraser.unlearn.spelling import note_spelling
from safeeraser.unlearn.trained import equip, reparametrize, save
from safeeraser.unlearn.trainer import UnlearnTrainer

log = logging.getLogger(__name__)


def forget(settings: Settings) -> Unlearned | None:
    """Unlearn as `settings` say; everything that can be wrong with them is found before `save_dir` is touched.

    Leaves in `save_dir`: the PEFT adapter, `run.json` (settings, versions, data), `plan.json`, `train_log.jsonl`,
    `training.png`, and the checkpoints that `save_steps` asks for. Returns what is there, in the process that wrote it.
    """
    job = prepare(settings)
    if when := finished(settings):
        log.info("done before, on %s: %s", when, settings.save_dir)
        return Unlearned.read(settings.save_dir)
    if not settings.dry_run:
        # What LoRA does not fit is found before weights are loaded; and before DeepSpeed, which would split this too.
        outline(settings, models.load_config(settings.model_path), torch.float32)
        check_machine(job.engine, build=True)
    # Of the engine that a dry run is told of, nothing runs.
    arguments = training_arguments(settings, Engine() if settings.dry_run else job.engine, job.schedule)
    check_optimizer(arguments, job.schedule)
    if settings.mask:
        check_holds(arguments)
    if settings.dry_run:
        dry_run(settings, job, arguments)
        return None
    check_running(job.engine, arguments)
    if settings.deterministic:
        # Trainer does so too, but torch looks at the first product on a GPU, and never again, what cuBLAS was told.
        enable_full_determinism(settings.seed)
    dataset = load_dataset(settings, job)
    check_shared_memory(dataset, collator(settings, dataset), arguments, job.engine.here)
    log.info("%s", job.summary(settings))
    for note in without_effect(settings):
        log.warning("%s", note)
    model = load_model(settings, job.engine, arguments, dataset)
    reference = load_reference(settings, job.engine, arguments, model)
    mask = load_mask(settings.mask, settings, job, model, dataset) if settings.mask else None
    trained = models.trained_parameters(model, settings.family)
    log.info("trained: %s", ", ".join(f"{name} {count:,}" for name, count in trained.items() if count))
    writes = arguments.process_index == 0
    settings.save_dir.resolve().mkdir(parents=True, exist_ok=True)  # what a link leads to need not be there yet
    with held(settings.save_dir, f"save_dir={settings.save_dir}") if writes else nullcontext():
        record = describe(settings, job, trained) | ({"mask": mask.record} if mask else {})
        if writes:
            begin(settings, job, record, mask)
        outcome = train(settings, arguments, model, reference, mask, dataset, job)
        if writes:
            finish(settings, record, outcome)
        leave_together()
        if name := outcome.get("interrupted"):
            raise Interrupted(how_to_resume(settings, outcome), signal.Signals[name])
        return Unlearned.read(settings.save_dir) if writes else None


def begin(settings: Settings, job: Job, record: dict[str, Any], mask: Mask | None) -> None:
    """Write down what is about to run, beside the earlier sittings of a run that is resumed."""
    folder = settings.save_dir
    if settings.overwrite_dir and not job.checkpoint and (folder / RUN_FILE).is_file():
        for path in folder.iterdir():
            # Of a link only the link is the run's.
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    step = read_object(Path(job.checkpoint) / "trainer_state.json")["global_step"] if job.checkpoint else 0
    if not job.checkpoint:
        for left in (PROBE_LOG, MASK_FILE):  # of a start that failed
            (folder / left).unlink(missing_ok=True)
    sittings = earlier_sittings(folder) if settings.resume_from_checkpoint else []
    record["sittings"] = [*sittings, {"started": record["started"], "from_step": step}]
    write_json(folder / RUN_FILE, record)
    (folder / TRAIN_LOG).touch()  # from a last checkpoint no step is left that would
    write_plan(folder / "plan.json", settings.method.name, settings.recipe, job.plan, job.data.record)
    if mask:
        mask.write(folder)


def finish(settings: Settings, record: dict[str, Any], outcome: dict[str, Any]) -> None:
    """Draw the curves and write down how it went; a run that says it is finished has left everything."""
    folder = settings.save_dir
    plot_training(folder / TRAIN_LOG, folder / PROBE_LOG, folder / "training.png", settings.method.name)
    record["sittings"][-1] |= outcome
    through = outcome["to_step"] == record["optimizer_steps"] or outcome["stopped"]
    write_json(folder / RUN_FILE, record | ({"finished": now()} if through else {}))
    if stopped := outcome["stopped"]:
        log.warning(
            "stopped at step %d: %s; kept is the adapter after step %d, the last whose losses were good",
            outcome["to_step"],
            stopped["reason"],
            stopped["adapter_of_step"],
        )
    if through:
        log.info("done: %s", folder)
    elif "interrupted" not in outcome:
        log.warning("ended before its plan did: %s; resume_from_checkpoint=auto goes on", folder)


def how_to_resume(settings: Settings, outcome: dict[str, Any]) -> str:
    """What is left of a run that a signal has ended, and how the rest is done."""
    more = "" if settings.resume_from_checkpoint == "auto" else "with resume_from_checkpoint=auto "
    step = outcome["to_step"]
    return f"interrupted after step {step}: {more}the same command resumes from {settings.save_dir}/checkpoint-{step}"


def load_dataset(settings: Settings, job: Job) -> PlanDataset:
    """The plan as a dataset. Raises `BadInput` for an item whose prompt leaves no room for an answer."""
    preprocessor = models.load_preprocessor(settings.model_path)
    dataset = PlanDataset(
        job.plan, job.data.items, job.data.refusals, preprocessor, settings.recipe, settings.max_length
    )
    note_spelling(preprocessor.tokenizer.tokenize, chain.from_iterable(job.data.items.values()))
    for data in filter(None, (job.data, job.data.compared)):
        longest = max(data.refusals, key=len, default="")
        for view, items in data.items.items():
            for item in items:
                # Found now rather than in the night.
                dataset.encode(replace(item, answer=longest) if view == "refusal" else item)
    return dataset


def load_base(settings: Settings, engine: Engine, arguments: TrainingArguments) -> PreTrainedModel:
    """The untouched model, where the engine wants it."""
    dtype = models.choose_dtype(settings.dtype)
    return models.load_model(
        settings.model_path,
        dtype,
        models.choose_attention(settings.attention, dtype, settings.family),
        quantization=settings.quantization,
        device=None if engine.shards_weights else arguments.device,
    )


def load_model(
    settings: Settings, engine: Engine, arguments: TrainingArguments, dataset: PlanDataset
) -> PeftModel | PreTrainedModel:
    """The model with what is trained, in the dtype that the engine works in."""
    base, example = load_base(settings, engine, arguments), None
    checked = settings.adapter and settings.method.needs_reference
    if checked and engine.shards_weights:
        # No process could run the untouched model, or on its CPU for minutes, and not with a GPU's kernels.
        log.info("reference: under %s checked by the names of what is trained, not by an answer", engine.name)
    elif checked and arguments.process_index == 0:
        example = dataset.preprocessor.join([dataset[0][0].row])
        untouched = row_logits(base, example)
    set_seed(settings.seed)  # only now: under ZeRO-3, loading has drawn from it
    model = equip(base, settings)
    if settings.init_adapter:
        models.load_adapter(model, settings.init_adapter)
    reparametrize(model, settings)
    if engine.name == "fsdp":
        share_out_layers(model, settings.family)
    # In bfloat16 most updates of this size would round to nothing; DeepSpeed keeps masters in float32 and, of a model
    # that it split while loading, casts nothing itself.
    dtype = base.dtype if engine.deepspeed else torch.float32
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    if checked:
        check_names(model)
    if example:
        check_reference(model, example, untouched, settings.quantization)
    return model


def load_reference(
    settings: Settings, engine: Engine, arguments: TrainingArguments, model: nn.Module
) -> PreTrainedModel | None:
    """The untouched model beside `model`, where it is needed and `model` has no adapter that can be switched off."""
    if settings.adapter or not settings.method.needs_reference:
        return None
    check_room(model, arguments.device, models.choose_dtype(settings.dtype))
    return load_base(settings, engine, arguments)


def load_mask(wanted: Compared, settings: Settings, job: Job, model: PeftModel, dataset: PlanDataset) -> Mask:
    """Which of LoRA's weights are trained: as the run that is gone on with has it, or by their gradients now."""
    if job.checkpoint:
        return kept_mask(job.checkpoint)
    data, steps = cast("Data", job.data.compared), job.compared  # as there is a mask
    views = {
        view: PlanDataset(
            steps, {view: items}, data.refusals, dataset.preprocessor, settings.recipe, settings.max_length
        )
        for view, items in data.items.items()
    }
    mask = make_mask(wanted, settings, model, views, steps)
    log.info("%s", told(mask, wanted))
    return mask


def collator(settings: Settings, dataset: PlanDataset) -> Collator:
    """What joins the rows of a micro-step."""
    dtype = models.choose_dtype(settings.dtype)
    return Collator(settings.method, dataset.preprocessor, dtype, settings.moved_terms)


def build_trainer(
    settings: Settings,
    arguments: TrainingArguments,
    model: PeftModel | PreTrainedModel,
    reference: PreTrainedModel | None,
    dataset: PlanDataset,
    mask: Mask | None = None,
) -> UnlearnTrainer:
    """The loop that trains `model` on the dataset's plan."""
    return UnlearnTrainer(
        method=settings.method,
        step=settings.step,
        family=settings.family,
        stop=settings.stop,
        reference=reference,
        mask=mask,
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=collator(settings, dataset),
    )


def train(
    settings: Settings,
    arguments: TrainingArguments,
    model: PeftModel | PreTrainedModel,
    reference: PreTrainedModel | None,
    mask: Mask | None,
    dataset: PlanDataset,
    job: Job,
) -> dict[str, Any]:
    """Run the loop, write what was trained, and tell how it went."""
    trainer = build_trainer(settings, arguments, model, reference, dataset, mask)
    if job.probed:
        probes = Probes(trainer, job.probed, dataset.preprocessor, settings.probe_every, settings.probe.max_new_tokens)
        trainer.add_callback(probes)
    if isinstance(settings.save_steps, list):
        trainer.add_callback(SaveAfter(settings.save_steps))
    if job.checkpoint:
        for keeper in (trainer.guard, trainer.mean):
            keeper.resume(job.checkpoint, arguments.process_index)
        trainer.weights.resume(job.checkpoint)
    begun = time.perf_counter()
    with trainer.interruption.heeded():
        trainer.train(resume_from_checkpoint=job.checkpoint)
        seconds = time.perf_counter() - begun
        if settings.save_model and not trainer.interrupted:
            save(trainer, settings, dataset.preprocessor)
    number = trainer.interrupted
    return {
        "to_step": trainer.state.global_step,
        "stopped": trainer.guard.stopped,
        **measure_sitting(trainer.accelerator, seconds, trainer.items_seen),
        **({"interrupted": signal.Signals(number).name} if number else {}),
    }
