"""An unlearning run, from settings to an adapter in `save_dir`. `run.json` there records the settings, the versions,
the hardware and how the run went, so that every result carries its configuration."""

import logging
import platform
import resource
import shutil
import signal
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftModel
from transformers import PreTrainedModel, TrainingArguments
from transformers.trainer_utils import enable_full_determinism

from safeeraser.benchmark.adapters import RUN_FILE, run_of
from safeeraser.benchmark.files import held, read_json, read_json_lines, read_object, write_json
from safeeraser.benchmark.origin import git_commit, now, versions
from safeeraser.errors import Interrupted
from safeeraser.model.load import choose_dtype, load_config
from safeeraser.model.lora import trained_parameters
from safeeraser.processes import leave_together
from safeeraser.unlearn.config.engine import Engine, check_running
from safeeraser.unlearn.config.settings import Settings
from safeeraser.unlearn.config.trainer_arguments import check_optimizer, training_arguments
from safeeraser.unlearn.data.batch import PlanDataset
from safeeraser.unlearn.data.plan import write_plan
from safeeraser.unlearn.hook import Hook
from safeeraser.unlearn.hooks.ending import Guard, Interruption, WeightAverage
from safeeraser.unlearn.hooks.loop import KeepLogs, MovedProjector, OwnMasks, Progress, SaveAfter
from safeeraser.unlearn.hooks.mask import Mask, check_holds
from safeeraser.unlearn.hooks.moved import MovedGradient
from safeeraser.unlearn.hooks.probe import Probes
from safeeraser.unlearn.job import Job, prepare, without_effect
from safeeraser.unlearn.load import collator, load_dataset, load_mask, load_reference, load_trained, save
from safeeraser.unlearn.objective.objective import Objective, Weights
from safeeraser.unlearn.plot import plot_training
from safeeraser.unlearn.preflight.dry_run import dry_run, outline
from safeeraser.unlearn.preflight.machine import check_machine, check_shared_memory
from safeeraser.unlearn.save_dir import MASK_FILE, PROBE_LOG, TRAIN_LOG
from safeeraser.unlearn.state import State, write_state
from safeeraser.unlearn.trainer import UnlearnTrainer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unlearned:
    """A run that has ended: the folder of its adapter, and the contents of its `run.json`.

    `not_sent`: why `push_to_hub` did not send the run to the hub; empty otherwise.
    """

    save_dir: Path
    record: dict[str, Any]
    not_sent: str = ""

    @classmethod
    def read(cls, save_dir: Path) -> "Unlearned":
        """Read the run in `save_dir`."""
        return cls(save_dir, read_json(save_dir / RUN_FILE))

    @property
    def steps(self) -> int:
        """Optimizer steps taken."""
        return self.record["sittings"][-1]["to_step"]

    @property
    def stopped(self) -> dict[str, Any] | None:
        """If a bound stopped the run: its `reason`, and `adapter_of_step`, the step whose adapter was kept."""
        return self.record["sittings"][-1]["stopped"]

    @property
    def log(self) -> list[dict[str, Any]]:
        """A row for each step: `step, loss, grad_norm, learning_rate, terms, micro_losses`, and what hooks add."""
        return read_json_lines(self.save_dir / TRAIN_LOG)


def forget(settings: Settings) -> Unlearned | None:
    """Unlearn as `settings` say. Bad settings are reported before `save_dir` is touched.

    Writes to `save_dir`: the PEFT adapter, `run.json` (settings, versions, data), `plan.json`, `train_log.jsonl`,
    `training.png`, and the checkpoints of `save_steps`. Returns the run, but None in processes that wrote nothing.
    """
    job = prepare(settings)
    if settings.resume_from_checkpoint and (when := run_of(settings.save_dir).get("finished")):
        log.info("done before, on %s: %s", when, settings.save_dir)
        return Unlearned.read(settings.save_dir)
    if not settings.dry_run:
        # Reports bad LoRA targets before weights are loaded. Precedes DeepSpeed, which would split the outline too.
        outline(settings, load_config(settings.model_path), torch.float32)
        check_machine(job.engine)
    # A dry run only names an engine; it does not start one.
    arguments = training_arguments(settings, Engine() if settings.dry_run else job.engine, job.schedule)
    check_optimizer(arguments, job.schedule)
    if settings.mask:
        check_holds(arguments)
    if settings.dry_run:
        dry_run(settings, job, arguments)
        return None
    dataset = check_before_loading(settings, job, arguments)
    model = load_trained(settings, job.engine, arguments)
    reference = load_reference(settings, job.engine, arguments, model)
    mask = load_mask(settings, job, model, dataset.preprocessor)
    trained = trained_parameters(model, settings.family)
    log.info("trained: %s", ", ".join(f"{name} {count:,}" for name, count in trained.items() if count))
    writes = arguments.process_index == 0
    settings.save_dir.resolve().mkdir(parents=True, exist_ok=True)  # the target of a symlink may not exist yet
    with held(settings.save_dir, f"save_dir={settings.save_dir}") if writes else nullcontext():
        record = describe(settings, job, trained) | ({"mask": mask.record} if mask else {})
        if writes:
            begin(settings, job, record, mask)
        outcome = train(settings, job, build_trainer(settings, arguments, model, reference, dataset, mask, job))
        if writes:
            finish(settings, record, outcome)
        leave_together()
        if name := outcome.get("interrupted"):
            more = "" if settings.resume_from_checkpoint == "auto" else "with resume_from_checkpoint=auto "
            step = outcome["to_step"]
            raise Interrupted(
                f"interrupted after step {step}: {more}the same command resumes from "
                f"{settings.save_dir}/checkpoint-{step}",
                signal.Signals[name],
            )
        return Unlearned.read(settings.save_dir) if writes else None


def check_before_loading(settings: Settings, job: Job, arguments: TrainingArguments) -> PlanDataset:
    """Return the plan as a dataset, after the last checks: engine, items and shared memory. Raises `BadInput`."""
    check_running(job.engine, arguments)
    if settings.deterministic:
        # Trainer does this too, but torch reads the setting of cuBLAS only once, at the first product on a GPU.
        enable_full_determinism(settings.seed)
    dataset = load_dataset(settings, job)
    check_shared_memory(dataset, collator(settings, dataset.preprocessor), arguments, job.engine.here)
    log.info("%s", job.summary(settings))
    for note in without_effect(settings):
        log.warning("%s", note)
    return dataset


def describe(settings: Settings, job: Job, trained: dict[str, int]) -> dict[str, Any]:
    """The part of `run.json` that is known before training. `trained`: the count of trained parameters by group."""
    return {
        "title": settings.title,
        "settings": settings.model_dump(mode="json"),
        **job.origin,
        "data": job.data.record,
        "optimizer_steps": job.schedule.steps,
        "warmup_steps": job.schedule.warmup,
        "items_left_out": job.schedule.left_out,
        "engine": job.engine.record,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "trained_parameters": trained,
        "versions": {"python": platform.python_version()} | versions("torch", "transformers", "peft", "accelerate"),
        "git_commit": git_commit(),
        "started": now(),
        "sittings": [],
    }


def begin(settings: Settings, job: Job, record: dict[str, Any], mask: Mask | None) -> None:
    """Remove an overwritten run, then write `run.json`, the plan and the mask. A resumed run keeps earlier sittings."""
    folder = settings.save_dir
    if settings.overwrite_dir and not job.checkpoint and (folder / RUN_FILE).is_file():
        for path in folder.iterdir():
            # Remove a symlink itself, never the folder that it points to.
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    step = read_object(Path(job.checkpoint) / "trainer_state.json")["global_step"] if job.checkpoint else 0
    if not job.checkpoint:
        for left in (PROBE_LOG, MASK_FILE):  # left by a start that failed
            (folder / left).unlink(missing_ok=True)
    # A sitting that was killed has recorded only its start.
    sittings = run_of(folder).get("sittings", []) if settings.resume_from_checkpoint else []
    record["sittings"] = [*sittings, {"started": record["started"], "from_step": step}]
    write_json(folder / RUN_FILE, record)
    (folder / TRAIN_LOG).touch()  # after the last checkpoint no step is left that creates it
    write_plan(folder / "plan.json", settings.method.name, settings.recipe, job.plan, job.data.record)
    if mask:
        write_state(folder / MASK_FILE, mask.trained)


def build_trainer(
    settings: Settings,
    arguments: TrainingArguments,
    model: PeftModel | PreTrainedModel,
    reference: PreTrainedModel | None,
    dataset: PlanDataset,
    mask: Mask | None = None,
    job: Job | None = None,
) -> UnlearnTrainer:
    """The trainer that trains `model` on the dataset's plan.

    Args:
        job: has the items to probe, and the checkpoint to resume from; None: no probes, and a start without checkpoint.
    """
    method, seed = settings.method, arguments.seed
    weights, guard = Weights(method), Guard(settings.stop, method)
    moved, interruption = MovedGradient(settings.step, settings.moved_terms, seed), Interruption(guard)
    # Hooks are called in this order. The guard precedes the interruption because its decision to stop takes precedence.
    # A new hook is a line here.
    hooks: list[Hook] = [
        KeepLogs(),
        OwnMasks(),
        weights,
        moved,
        WeightAverage(settings.step.averaged),
        guard,
        interruption,
        Progress(),
        MovedProjector(),
    ]
    if mask:
        hooks.append(mask)
    if job and job.probed:
        hooks.append(Probes(settings, job.probed, dataset.preprocessor, interruption))
    if isinstance(settings.save_steps, list):
        hooks.append(SaveAfter(settings.save_steps))
    return UnlearnTrainer(
        objective=Objective(method, weights, model, settings.family, reference, seed=seed, device=arguments.device),
        kept=State(hooks, resumed=job.checkpoint if job else None, process=arguments.process_index),
        moved=moved,
        interruption=interruption,
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=collator(settings, dataset.preprocessor),
    )


def train(settings: Settings, job: Job, trainer: UnlearnTrainer) -> dict[str, Any]:
    """Train, save the trained weights unless a signal ended the run, and return the outcome for `run.json`."""
    begun = time.perf_counter()
    with trainer.interruption.heeded():
        trainer.train(resume_from_checkpoint=job.checkpoint)
        seconds = time.perf_counter() - begun
        if settings.save_model and not trainer.interruption.ended_by:
            save(trainer, settings, trainer.train_dataset.preprocessor)
    number = trainer.interruption.ended_by
    return {
        "to_step": trainer.state.global_step,
        "stopped": trainer.interruption.guard.stopped,
        "dtype": str(choose_dtype(settings.dtype)).removeprefix("torch."),
        "attention": trainer.model.config._attn_implementation,
        **measure_sitting(trainer.accelerator, seconds, trainer.items_seen),
        **({"interrupted": signal.Signals(number).name} if number else {}),
    }


def measure_sitting(accelerator: Accelerator, seconds: float, items: int) -> dict[str, Any]:
    """Time, items a second and peak memory (largest of all processes) of a sitting, which is one start of a run."""
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peaks = accelerator.gather(torch.tensor([[gpu, process]], device=accelerator.device)).amax(0).tolist()
    return {
        "seconds": round(seconds, 3),
        "items_per_second": round(items / seconds, 3),
        "peak_gpu_bytes": peaks[0] or None,
        "peak_process_bytes": peaks[1],
    }


def finish(settings: Settings, record: dict[str, Any], outcome: dict[str, Any]) -> None:
    """Draw the curves, then complete `run.json`. `finished` is written last, so a finished run has all its files."""
    folder = settings.save_dir
    plot_training(folder / TRAIN_LOG, folder / PROBE_LOG, folder / "training.png", settings.method.name)
    record["sittings"][-1] |= outcome
    through = outcome["to_step"] == record["optimizer_steps"] or outcome["stopped"]
    write_json(folder / RUN_FILE, record | ({"finished": now()} if through else {}))
    if stopped := outcome["stopped"]:
        log.warning(
            f"stopped at step {outcome['to_step']}: {stopped['reason']}; the adapter after step "
            f"{stopped['adapter_of_step']} is kept, the last one with good losses"
        )
    if through:
        log.info("done: %s", folder)
    elif "interrupted" not in outcome:
        log.warning("ended before its plan was complete: %s; resume it with resume_from_checkpoint=auto", folder)
