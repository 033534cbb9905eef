"""What of a model is trained, an adapter or parts of itself, and how that is saved."""

from peft import PeftModel
from transformers import PreTrainedModel, Trainer

from safeeraser import model as models
from safeeraser.unlearn.masters import whole
from safeeraser.unlearn.settings import Settings


def equip(base: PreTrainedModel, settings: Settings) -> PeftModel | PreTrainedModel:
    """The frozen model with what is trained: an adapter on it, or parts of itself, as far as some term reads them.

    Raises:
        BadInput: the model has not what the family's page or a term names.
    """
    models.check_parts(base, settings.family)
    settings.method.losses(base, settings.seed, "cpu")
    if settings.adapter is None:
        model = models.unfreeze(base, settings.family, settings.whole)
    else:
        adapter = settings.adapter
        if settings.projector == "lora":
            models.reach_projector(adapter, base, settings.family)
        model = models.attach(base, adapter, settings.family)
        # The projector may lie within the vision tower; and without pictures no loss has a gradient for either.
        frozen = {"projector"} if settings.projector == "frozen" else set()
        frozen |= set() if settings.pictured else {"projector", "vision_tower"}
        for name, parameter in model.named_parameters():
            if settings.family.part_of(name.replace(".lora_", ".")) in frozen:
                parameter.requires_grad_(False)
    models.freeze_unseen(model, settings.family)
    if settings.method.top is not None:
        models.freeze_above(model, settings.family, settings.method.top)
    return model


def reparametrize(model: PeftModel | PreTrainedModel, settings: Settings) -> None:
    """Train what is not trained as it is in its own terms, from the values that it has now: those of `init_adapter`."""
    if settings.projector == "sine" and settings.pictured:
        models.modulate(model, settings.family)


def save(trainer: Trainer, settings: Settings, preprocessor: models.Preprocessor) -> None:
    """Write the adapter as a PEFT folder, or the trained model as a folder that is used like any other.

    The model is written in the dtype that it was loaded in. All processes come here, as they may share the weights.
    """
    if settings.adapter:
        trainer.save_model(str(settings.save_dir))
        return
    dtype, model = models.choose_dtype(settings.dtype), trainer.accelerator.unwrap_model(trainer.model)
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    values, weights = whole(trained), trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.is_world_process_zero():
        weights |= values
        state = {name: weight.to(dtype) for name, weight in weights.items()}
        models.write_model(settings.save_dir, model, preprocessor, state)
