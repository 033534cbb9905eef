"""What of a model is trained, an adapter or parts of itself, and how that is saved."""

from peft import PeftModel
from transformers import LlavaForConditionalGeneration, Trainer

from safeeraser import model as llava
from safeeraser.unlearn.settings import Settings


def equip(base: LlavaForConditionalGeneration, settings: Settings) -> PeftModel | LlavaForConditionalGeneration:
    """The frozen model with what is trained: an adapter on it, or parts of itself."""
    if settings.adapter is None:
        return llava.unfreeze(base, settings.whole)
    return llava.attach(base, settings.adapter, settings.parts)


def save(trainer: Trainer, settings: Settings, preprocessor: llava.Preprocessor) -> None:
    """Write the adapter as a PEFT folder, or the trained model as a folder that is used like any other.

    The model is written in the dtype that it was loaded in. All processes come here, as they may share the weights.
    """
    if settings.adapter:
        trainer.save_model(str(settings.save_dir))
        return
    dtype, weights = llava.choose_dtype(settings.dtype), trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.is_world_process_zero():
        llava.write_model(
            settings.save_dir,
            trainer.accelerator.unwrap_model(trainer.model),
            preprocessor.tokenizer,
            preprocessor.image_processor,
            {name: weight.to(dtype) for name, weight in weights.items()},
        )
