"""What of a model is trained, an adapter or parts of itself, and how that is saved."""

from peft import PeftModel
from transformers import LlavaForConditionalGeneration, Trainer

from safeeraser import model as models
from safeeraser.unlearn.masters import whole
from safeeraser.unlearn.settings import Settings


def equip(base: LlavaForConditionalGeneration, settings: Settings) -> PeftModel | LlavaForConditionalGeneration:
    """The frozen model with what is trained: an adapter on it, or parts of itself."""
    if settings.adapter is None:
        model = models.unfreeze(base, settings.whole)
    else:
        model = models.attach(base, settings.adapter, settings.parts)
    models.freeze_unseen(model, settings.model_family.parts)
    return model


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
        models.write_model(
            settings.save_dir,
            model,
            preprocessor.tokenizer,
            preprocessor.image_processor,
            {name: weight.to(dtype) for name, weight in weights.items()},
        )
