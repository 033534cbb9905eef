"""Everything about a run that can be checked before a model is loaded; bad settings and files are reported here."""

import logging
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safeeraser.benchmark.adapters import adapter_file, home, run_of
from safeeraser.errors import BadInput
from safeeraser.model.lineage import check_base, fingerprint, parents
from safeeraser.model.load import check_family
from safeeraser.model.projector import PROJECTORS, stored_as
from safeeraser.model.stored import adapter_config, check_kind, read_adapter
from safeeraser.progress import first_process
from safeeraser.unlearn.config.engine import Engine, check_engine, engine_of
from safeeraser.unlearn.config.settings import Settings
from safeeraser.unlearn.config.trainer_arguments import Schedule
from safeeraser.unlearn.data.items import Data, load_data
from safeeraser.unlearn.data.plan import Step, differing, make_plan, read_plan
from safeeraser.unlearn.data.views import Item
from safeeraser.unlearn.hooks.ending import unreachable_bounds
from safeeraser.unlearn.hooks.mask import items_compared, kept_mask
from safeeraser.unlearn.hooks.probe import probe_items
from safeeraser.unlearn.save_dir import check_save_dir, find_checkpoint

log = logging.getLogger(__name__)

# How error messages describe the form in which an adapter stores the projector.
STORED = {"full": "the projector whole", "lora": "LoRA on the projector", "frozen": "nothing of the projector"}


@dataclass(frozen=True)
class Job:
    """A checked run that can start: its data, its plan, the engine, and the checkpoint to resume from.

    Attributes:
        compared: the steps whose items the mask compares.
        origin: the entries `base` and `parents` of `run.json` (`find_origin`).
    """

    engine: Engine
    checkpoint: str | None
    data: Data
    probed: dict[str, list[Item]]  # by view; empty without probes
    plan: list[Step]
    schedule: Schedule
    compared: list[Step] = field(default_factory=list)
    origin: dict[str, Any] = field(default_factory=dict)

    def summary(self, settings: Settings) -> str:
        """One line about the run."""
        skipped = f"{len(self.data.skipped)} faults skipped, " if self.data.skipped else ""
        count = self.schedule.left_out
        left_out = f" ({count} left out: no full micro-step for every process)" if count else ""
        return (
            f"{settings.method.name} (recipe {settings.recipe.name}): {self.data.records} records, {skipped}"
            f"{len(self.plan)} items{left_out}, {self.schedule.steps} optimizer steps, {self.schedule.warmup} of "
            "them warm-up"
        )


def prepare(settings: Settings) -> Job:
    """Check everything that `settings` name. Raises `BadInput` for the first thing that cannot be used."""
    check_files(settings)
    engine = engine_of(settings)
    check_save_dir(settings, engine)
    checkpoint = find_checkpoint(settings, engine)
    origin = find_origin(settings, checkpoint)
    if settings.mask and checkpoint:
        kept_mask(checkpoint)
    data = load_data(settings)
    # With other data, the numbers in the plan would refer to other items.
    then = run_of(Path(checkpoint)).get("data", {}) if checkpoint else {}
    if differ := differing(then, data.record):
        raise BadInput(f"{settings.data_path}: not the data that the checkpoint's run had ({', '.join(differ)} differ)")
    probed = probe_items(settings) if settings.probe_every else {}
    plan = make_or_read_plan(settings, data.sizes, engine.processes, data.record)
    check_engine(engine, settings, items=len(plan))
    schedule = Schedule.of(
        len(plan),
        batch_size=settings.batch_size,
        accumulation=settings.gradient_accumulation_steps,
        processes=engine.processes,
        warmup_ratio=settings.warmup_ratio,
    )
    if isinstance(settings.save_steps, list) and max(settings.save_steps) > schedule.steps:
        raise BadInput(f"save_steps={settings.save_steps}: the run ends after {schedule.steps} optimizer steps")
    compared = steps_compared(settings, data, len(plan))
    plan = plan[: len(plan) - schedule.left_out]
    check_same_plan(plan, checkpoint)
    return Job(engine, checkpoint, data, probed, plan, schedule, compared, origin)


def check_files(settings: Settings) -> None:
    """Raise `BadInput` if the model, `init_adapter` or a tracker cannot be used; warn of stop bounds without effect."""
    if settings.model_path != settings.model_family.model_path:
        check_family(settings.model_family, settings.model_path)
    if settings.init_adapter:
        check_scaling(settings, settings.init_adapter)
        check_projector(settings, settings.init_adapter)
    for bound in unreachable_bounds(settings.stop, settings.method):
        log.warning("note: %s has no effect, since no term of %s could pass it", bound, settings.method.name)
    for tracker in settings.trackers:
        if find_spec(tracker) is None:
            raise BadInput(f"report_to={tracker}: not installed; 'pip install {tracker}' brings it")


def without_effect(settings: Settings) -> list[str]:
    """Notes on settings that have no effect with this family or method, or that leave no gradient at the start."""
    notes, recipe, family = [], settings.recipe, settings.family
    if recipe.training_system != "user" and not family.chat:  # inference uses `user` as well
        asked = f"recipe.training_system={recipe.training_system}"
        notes.append(f"note: {asked} has no effect, since the chat template of {family.name} has no such text")
    if settings.projector != "frozen" and not settings.pictured:
        asked = f"projector={settings.projector}"
        notes.append(f"note: {asked} has no effect, since nothing that {settings.method.name} trains on has a picture")
    fresh = settings.adapter and not settings.init_adapter and settings.LoRA.init_lora_weights
    if fresh and settings.method.starts_flat:
        notes.append(
            f"note: no term of {settings.method.name} has a gradient under a fresh adapter, so Adam's first steps are "
            "of rounding errors; pd=1.0 or init_adapter=ADAPTER gives it a start"
        )
    return notes


def check_same_plan(plan: list[Step], checkpoint: str | None) -> None:
    """Raise `BadInput` if the resumed run's plan is not `plan`, because an earlier version drew it differently."""
    file = Path(checkpoint).with_name("plan.json") if checkpoint else None
    if file and file.is_file() and plan != read_plan(file, {}):
        raise BadInput(
            f"{file}: this version draws other items; to train on the plan's items from the start, give plan={file} "
            "save_dir=NEW"
        )


def check_scaling(settings: Settings, adapter: Path) -> None:
    """Raise `BadInput` if the adapter is missing, or if its rank, alpha, `use_rslora` or `use_dora` differs."""
    if adapter_file(adapter).suffix != ".safetensors" or not (home(adapter) / "adapter_config.json").is_file():
        return  # no configuration says how it is scaled
    theirs, ours = adapter_config(adapter), settings.adapter
    for name, key in (("r", "r"), ("lora_alpha", "alpha"), ("use_rslora", "use_rslora"), ("use_dora", "use_dora")):
        if (then := getattr(theirs, name)) != (now := getattr(ours, name)):
            raise BadInput(
                f"init_adapter={adapter}: has LoRA.{key}={then:g}, this run {now:g}; give this run the adapter's value"
            )


def check_projector(settings: Settings, adapter: Path) -> None:
    """Raise `BadInput` if the adapter is for another kind of model, or stores the projector as this run does not."""
    family, ours, lora = settings.family, settings.projector_way.stored, settings.adapter
    check_kind(family.model_type, adapter)
    if lora and ours != "lora":
        # A vision tower that is saved includes a projector that lies within it.
        saved = [f"{part}." for part in lora.modules_to_save or []]
        ours = "full" if any(f"{part}.".startswith(each) for part in family.projector for each in saved) else "frozen"
    if (stored := stored_as(read_adapter(adapter), family)) != ours:
        ways = " or ".join(name for name, way in PROJECTORS.items() if way.stored == stored)
        raise BadInput(
            f"init_adapter={adapter}: has {STORED[stored]} (projector={ways}), and this run "
            f"projector={settings.projector}; give this run the adapter's value"
        )


def find_origin(settings: Settings, checkpoint: str | None) -> dict[str, Any]:
    """The run's `base`, the model's fingerprint (from files on this machine), and `parents`, the runs that the model
    and `init_adapter` come from. Raises `BadInput` if `init_adapter` or the checkpoint was trained on another base."""
    base = fingerprint(settings.model_path, here=True)
    for adapter in filter(None, (settings.init_adapter, Path(checkpoint) if checkpoint else None)):
        check_base(adapter, base, allowed=settings.allow_other_base, answer="allow_other_base=true")
    return {"base": base, "parents": parents(settings.model_path, settings.init_adapter)}


def make_or_read_plan(
    settings: Settings, sizes: dict[str, int], processes: int, data: dict[str, Any] | None = None
) -> list[Step]:
    """The run's plan, drawn or read from a file; `max_train_steps` sets its length, else `num_epochs` or the file."""
    per_step = settings.batch_size * settings.gradient_accumulation_steps * processes
    wanted = settings.max_train_steps and settings.max_train_steps * per_step
    if settings.plan:
        plan = read_plan(settings.plan, sizes, data)
        if wanted and wanted > len(plan):
            raise BadInput(f"{settings.plan}: has {len(plan)} items, max_train_steps takes {wanted}")
    else:
        epochs = -(-wanted // sizes["forget"]) if wanted else settings.num_epochs
        plan = make_plan(sizes, epochs=epochs, seed=settings.seed, recipe=settings.recipe)
        drawn, there = sizes.get("retain", sizes["forget"]), sizes.get("decoupled", 0)
        if settings.recipe.decoupled == "retain_index" and there > drawn and first_process():
            log.warning(
                f"note: of {there} decoupled items at most the first {drawn} are drawn, as recipe.decoupled="
                "retain_index numbers them like retain items; own_pair takes each forget item's own"
            )
    return plan[:wanted] if wanted else plan


def steps_compared(settings: Settings, data: Data, length: int) -> list[Step]:
    """The steps whose items the mask compares; empty without a mask. They come from a separate plan for the mask's
    views, with the run's seed or file and at most `length` steps. So a mask does not change the training plan."""
    if not (settings.mask and data.compared):
        return []
    sizes = data.compared.sizes
    if settings.plan:
        plan = read_plan(settings.plan, sizes, data.record)
    else:
        plan = make_plan(sizes, epochs=1, seed=settings.seed, recipe=settings.recipe)
    return items_compared(plan[:length], settings.mask.items)
