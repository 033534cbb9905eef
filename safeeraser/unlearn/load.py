"""What a run trains: the plan as a dataset, and a model with an adapter on it, or with parts of itself to train."""

from dataclasses import replace
from itertools import chain

import psutil
import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainingArguments, set_seed

from safeeraser.errors import BadInput
from safeeraser.model.load import choose_attention, choose_dtype, load_model, load_preprocessor
from safeeraser.model.lora import adapter_parameters, attach, check_parts, freeze_above, freeze_unseen, unfreeze
from safeeraser.model.merge import write_model
from safeeraser.model.preprocess import Preprocessor
from safeeraser.model.projector import modulate, reach_projector
from safeeraser.model.stored import load_adapter
from safeeraser.unlearn.config.settings import Settings
from safeeraser.unlearn.data.batch import Collator, PlanDataset
from safeeraser.unlearn.data.items import Data, note_spelling
from safeeraser.unlearn.data.plan import Step
from safeeraser.unlearn.engine import Engine, share_out_layers
from safeeraser.unlearn.hooks.mask import Mask, kept_mask, make_mask
from safeeraser.unlearn.job import Job
from safeeraser.unlearn.masters import gather


def load_dataset(settings: Settings, job: Job, *, check: bool = True) -> PlanDataset:
    """The plan as a dataset. Raises `BadInput` for an item whose prompt leaves no room for an answer, if that is to be
    checked."""
    preprocessor = load_preprocessor(settings.model_path)
    dataset = dataset_of(settings, job.data, job.plan, preprocessor)
    note_spelling(preprocessor.tokenizer.tokenize, chain.from_iterable(job.data.items.values()))
    for data in filter(None, (job.data, job.data.compared) if check else ()):
        longest = max(data.refusals, key=len, default="")
        for view, items in data.items.items():
            for item in items:
                # Found now rather than in the night.
                dataset.encode(replace(item, answer=longest) if view == "refusal" else item)
    return dataset


def dataset_of(settings: Settings, data: Data, plan: list[Step], preprocessor: Preprocessor) -> PlanDataset:
    """Steps through some data, as a dataset."""
    return PlanDataset(plan, data.items, data.refusals, preprocessor, settings.recipe, settings.max_length)


def collator(settings: Settings, preprocessor: Preprocessor, dtype: torch.dtype | None = None) -> Collator:
    """What joins the rows of a micro-step. `dtype`: None: the settings'."""
    return Collator(settings.method, preprocessor, dtype or choose_dtype(settings.dtype), settings.beside)


def equip(base: PreTrainedModel, settings: Settings) -> PeftModel | PreTrainedModel:
    """The frozen model with what is trained: an adapter on it, or parts of itself, as far as some term reads them.
    Raises `BadInput` where the model has not what the family's page or a term names."""
    family, adapter = settings.family, settings.adapter
    check_parts(base, family)
    settings.method.losses(base, settings.seed, "cpu")
    if adapter is None:
        model = unfreeze(base, family, settings.trained_parts)
    else:
        if settings.projector_way.stored == "lora":
            reach_projector(adapter, base, family)
        model = attach(base, adapter, family)
        # The projector may lie within the vision tower; and without pictures no loss has a gradient for either.
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
    """Train what is not trained as it is in its own terms, from the values that it has now: those of `init_adapter`."""
    if settings.projector_way.joined and settings.pictured:
        modulate(model, settings.family, settings.projector_way.joined)


def load_base(settings: Settings, engine: Engine, arguments: TrainingArguments) -> PreTrainedModel:
    """The untouched model, where the engine wants it."""
    dtype = choose_dtype(settings.dtype)
    return load_model(
        settings.model_path,
        dtype,
        choose_attention(settings.attention, dtype, settings.family),
        quantization=settings.quantization,
        device=None if engine.shards_weights else arguments.device,
    )


def load_trained(settings: Settings, engine: Engine, arguments: TrainingArguments) -> PeftModel | PreTrainedModel:
    """The model with what is trained, in the dtype that the engine works in."""
    base = load_base(settings, engine, arguments)
    set_seed(settings.seed)  # only now: under ZeRO-3, loading has drawn from it
    model = equip(base, settings)
    if settings.init_adapter:
        load_adapter(model, settings.init_adapter)
    reparametrize(model, settings)
    if engine.name == "fsdp":
        share_out_layers(model, settings.family)
    # In bfloat16 most updates of this size would round to nothing; DeepSpeed keeps masters in float32 and, of a model
    # that it split while loading, casts nothing itself.
    dtype = base.dtype if engine.deepspeed else torch.float32
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    if settings.adapter and settings.method.needs_reference:
        check_reference(model)
    return model


def check_reference(model: PeftModel) -> None:
    """Assert that all that is trained is what PEFT switches off: what is then left is the untouched model."""
    known = adapter_parameters(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name not in known:
            raise AssertionError(f"{name} would be trained, which is part of the untouched model: KL has no reference")


def load_reference(
    settings: Settings, engine: Engine, arguments: TrainingArguments, model: nn.Module
) -> PreTrainedModel | None:
    """The untouched model beside `model`, where it is needed and `model` has no adapter that can be switched off.
    Raises `BadInput` where there is no memory for it."""
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
    """Which of LoRA's weights are trained: as the run that is gone on with has it, or by their gradients now."""
    if not (settings.mask and job.data.compared):
        return None
    if job.checkpoint:
        return kept_mask(job.checkpoint)
    dataset = dataset_of(settings, job.data.compared, job.compared, preprocessor)
    return make_mask(settings.mask, settings, model, dataset)


def save(trainer: Trainer, settings: Settings, preprocessor: Preprocessor) -> None:
    """Write the adapter as a PEFT folder, or the trained model as a folder that is used like any other.

    The model is written in the dtype that it was loaded in. All processes come here, as they may share the weights.
    """
    if settings.adapter:
        trainer.save_model(str(settings.save_dir))
        return
    dtype, model = choose_dtype(settings.dtype), trainer.accelerator.unwrap_model(trainer.model)
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    values, weights = gather(trained), trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.is_world_process_zero():
        weights |= values
        state = {name: weight.to(dtype) for name, weight in weights.items()}
        write_model(settings.save_dir, model, preprocessor, state)
