"""Load the parts of a run: the plan as a dataset, and the model with an adapter or with trainable parts."""

from dataclasses import replace
from itertools import chain

import psutil
import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainingArguments, set_seed

from safeeraser.errors import BadInput
from safeeraser.model.load import choose_attention, choose_dtype, load_model, load_preprocessor
from safeeraser.model.lora import attach, check_parts, freeze_above, freeze_unseen, unfreeze
from safeeraser.model.merge import write_model
from safeeraser.model.preprocess import Preprocessor
from safeeraser.model.projector import modulate, reach_projector
from safeeraser.model.stored import load_adapter
from safeeraser.unlearn.config.engine import Engine, share_out_layers
from safeeraser.unlearn.config.settings import Settings
from safeeraser.unlearn.data.batch import Collator, PlanDataset
from safeeraser.unlearn.data.items import Data, note_spelling
from safeeraser.unlearn.data.plan import Step
from safeeraser.unlearn.hooks.mask import Mask, kept_mask, make_mask
from safeeraser.unlearn.job import Job
from safeeraser.unlearn.masters import gathered


def load_dataset(settings: Settings, job: Job, *, check: bool = True) -> PlanDataset:
    """The plan as a dataset. With `check`, encode every item once, and raise `BadInput` for one that cannot be encoded,
    for instance because its prompt leaves no room for an answer."""
    preprocessor = load_preprocessor(settings.model_path)
    dataset = dataset_of(settings, job.data, job.plan, preprocessor)
    note_spelling(preprocessor.tokenizer.tokenize, chain.from_iterable(job.data.items.values()))
    for data in filter(None, (job.data, job.data.compared) if check else ()):
        longest = max(data.refusals, key=len, default="")
        for view, items in data.items.items():
            for item in items:
                # A bad item is reported now rather than hours into training.
                dataset.encode(replace(item, answer=longest) if view == "refusal" else item)
    return dataset


def dataset_of(settings: Settings, data: Data, plan: list[Step], preprocessor: Preprocessor) -> PlanDataset:
    """A dataset of the steps of `plan` on `data`."""
    return PlanDataset(plan, data.items, data.refusals, preprocessor, settings.recipe, settings.max_length)


def collator(settings: Settings, preprocessor: Preprocessor, dtype: torch.dtype | None = None) -> Collator:
    """The collator that joins the rows of a micro-step. `dtype`: of the pictures; None: the dtype of the settings."""
    return Collator(settings.method, preprocessor, dtype or choose_dtype(settings.dtype), settings.beside)


def equip(base: PreTrainedModel, settings: Settings) -> PeftModel | PreTrainedModel:
    """The frozen model with trainable parameters: an adapter, or parts of the model. Parameters that no loss depends on
    stay frozen. Raises `BadInput` if the model lacks a part or layer that its family or a term names."""
    family, adapter = settings.family, settings.adapter
    check_parts(base, family)
    settings.method.losses(base, settings.seed, "cpu")
    if adapter is None:
        model = unfreeze(base, family, settings.trained_parts)
    else:
        if settings.projector_way.stored == "lora":
            reach_projector(adapter, base, family)
        model = attach(base, adapter, family)
        # A frozen projector may lie within a trained vision tower. Without pictures no loss reads either part.
        frozen = {"projector"} if settings.projector_way.stored == "frozen" else set()
        frozen |= set() if settings.pictured else {"projector", "vision_tower"}
        for name, parameter in model.named_parameters():
            if family.part_of(name.replace(".lora_", ".")) in frozen:
                parameter.requires_grad_(False)
    freeze_unseen(model, family)
    if settings.method.top is not None:
        freeze_above(model, family, settings.method.top)
    return model


def reparametrize(model: PeftModel | PreTrainedModel, settings: Settings) -> None:
    """Reparametrize the projector, for instance as W + sin(D). W keeps its values, so load `init_adapter` first."""
    if settings.projector_way.joined and settings.pictured:
        modulate(model, settings.family, settings.projector_way.joined)


def load_base(settings: Settings, engine: Engine, arguments: TrainingArguments) -> PreTrainedModel:
    """The untouched model, on this process's device. An engine that shards weights places them itself."""
    dtype = choose_dtype(settings.dtype)
    return load_model(
        settings.model_path,
        dtype,
        choose_attention(settings.attention, dtype, settings.family, padding=settings.method.reads_padding),
        quantization=settings.quantization,
        device=None if engine.shards_weights else arguments.device,
    )


def load_trained(settings: Settings, engine: Engine, arguments: TrainingArguments) -> PeftModel | PreTrainedModel:
    """The model with trainable parameters, which are in float32, or in the model's dtype under DeepSpeed."""
    base = load_base(settings, engine, arguments)
    set_seed(settings.seed)  # after loading, which draws random numbers under ZeRO-3
    model = equip(base, settings)
    if settings.init_adapter:
        load_adapter(model, settings.init_adapter)
    reparametrize(model, settings)
    if engine.name == "fsdp":
        share_out_layers(model, settings.family)
    # In bfloat16 most updates of this size would round to nothing. DeepSpeed keeps masters in float32, but does not
    # cast a model that it split while loading, so cast the trained parameters here.
    dtype = base.dtype if engine.deepspeed else torch.float32
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    return model


def load_reference(
    settings: Settings, engine: Engine, arguments: TrainingArguments, model: nn.Module
) -> PreTrainedModel | None:
    """A second, untouched model, if the method needs a reference and `model` has no adapter to switch off; else None.
    Raises `BadInput` if the free memory is too small for a second model."""
    if settings.adapter or not settings.method.needs_reference:
        return None
    device, dtype = arguments.device, choose_dtype(settings.dtype)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if free < (needed := sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize):
        raise BadInput(
            f"finetune=full: the method compares with the untouched model, of which it needs a second copy; that takes "
            f"{needed / 2**30:.1f} GiB, and {free / 2**30:.1f} are free. LoRA needs none, nor do other methods"
        )
    return load_base(settings, engine, arguments)


def load_mask(settings: Settings, job: Job, model: PeftModel, preprocessor: Preprocessor) -> Mask | None:
    """The mask of the LoRA weights that are trained: the checkpoint's, or one made from gradients; None: no mask."""
    if not (settings.mask and job.data.compared):
        return None
    if job.checkpoint:
        return kept_mask(job.checkpoint)
    dataset = dataset_of(settings, job.data.compared, job.compared, preprocessor)
    return make_mask(settings.mask, settings, model, dataset)


def save(trainer: Trainer, settings: Settings, preprocessor: Preprocessor) -> None:
    """Write the adapter as a PEFT folder, or a model trained with `finetune=full` as a model folder.

    The model is written in the dtype that it was loaded in. All processes must call this: each may hold only a part.
    """
    if settings.adapter:
        trainer.save_model(str(settings.save_dir))
        return
    dtype, model = choose_dtype(settings.dtype), trainer.accelerator.unwrap_model(trainer.model)
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    writes = trainer.is_world_process_zero()
    # A GPU may be too small for all values in float32, so it has one at a time, and only one process keeps them.
    values = {name: value.to("cpu", dtype) for name, value in gathered(trained) if writes}
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if writes:
        state = {name: each.to(dtype) for name, each in weights.items()} | values
        write_model(settings.save_dir, model, preprocessor, state)
