"""The base model: a small LLaVA with LLaVA-1.5's parts and files. Its language model is a new or a pretrained one."""

from pathlib import Path

import torch
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerBase,
)

from safeeraser.benchmark.conversation import IMAGE
from safeeraser.benchmark.family import families
from safeeraser.mini.language_model import CHAT_TEMPLATE, Spoken, read_language_model
from safeeraser.mini.settings import Settings
from safeeraser.mini.tokenizer import build_tokenizer
from safeeraser.model.load import FAMILY_KEY
from safeeraser.model.preprocess import Preprocessor


def build(settings: Settings, words: Path) -> tuple[LlavaForConditionalGeneration, Preprocessor]:
    """Return a model that is yet to be trained, and its preprocessor. Their config files are written to `words`.

    The seed decides the model's new weights. The caller's random state is unchanged.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        spoken = read_language_model(settings.language_model) if settings.language_model else _unspoken(settings)
        model = _model(settings, spoken)
    if settings.dtype == "bfloat16" and not torch.cuda.is_available():  # `choose_attention` in model/load.py says why
        model.set_attn_implementation("eager")
    model.config.save_pretrained(words)
    model.generation_config.save_pretrained(words)
    return model, _preprocessor(settings, spoken.tokenizer, words)


def _unspoken(settings: Settings) -> Spoken:
    """A tokenizer and a small Llama configuration for a language model that is trained from scratch."""
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.width,
        intermediate_size=3 * settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=4,
        # The usual 0.02 suits wide layers. In narrow layers it makes the first outputs so small that the language model
        # learns a picture's concept in the given steps, but not its colours.
        initializer_range=0.06,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Spoken(tokenizer, config, {})


def _model(settings: Settings, spoken: Spoken) -> LlavaForConditionalGeneration:
    vision = CLIPVisionConfig(
        hidden_size=settings.width,
        intermediate_size=3 * settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=4,
        image_size=settings.side,
        patch_size=settings.patch,
        projection_dim=settings.width,
    )
    tokenizer = spoken.tokenizer
    config = LlavaConfig(
        vision_config=vision,
        text_config=spoken.config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(settings.side // settings.patch) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=spoken.config.tie_word_embeddings,
    )
    if not families()[settings.family].chat:
        setattr(config, FAMILY_KEY, settings.family)  # else a copy in another folder counts as LLaVA-1.5
    config.architectures = [LlavaForConditionalGeneration.__name__]  # as transformers saves it; servers read it
    model = LlavaForConditionalGeneration(config)
    # transformers' standard deviation of 0.02 is meant for wider layers; here it would make picture features too small.
    for layer in (model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2):
        torch.nn.init.xavier_normal_(layer.weight)
    if spoken.weights:
        model.model.language_model.load_state_dict(spoken.weights)
        model.tie_weights()
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def _preprocessor(settings: Settings, tokenizer: PreTrainedTokenizerBase, words: Path) -> Preprocessor:
    """The preprocessor that turns pictures of any size, and texts, into the model's input."""
    side, family = settings.side, families()[settings.family]
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
        tokenizer,
        settings.patch,
        "default",
        num_additional_image_tokens=1,
        chat_template=None if family.chat else CHAT_TEMPLATE,
    )
    processor.save_pretrained(words)
    image_token = tokenizer.convert_tokens_to_ids(IMAGE)
    return Preprocessor(processor, family, tokenizer.model_max_length, image_token, str(words))
