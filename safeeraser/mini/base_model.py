"""The base model: a LLaVA in the parts and files of LLaVA-1.5, whose language model is its own or a ready one."""

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
    """An untrained model, and what prepares its input, whose files are kept in the folder `words`.

    The seed decides its weights. The caller's random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        spoken = read_language_model(settings.language_model) if settings.language_model else _unspoken(settings)
        model = _model(settings, spoken)
    if settings.dtype == "bfloat16" and not torch.cuda.is_available():  # as `model.choose_attention` has it, and why
        model.set_attn_implementation("eager")
    model.config.save_pretrained(words)
    model.generation_config.save_pretrained(words)
    return model, _preprocessor(settings, spoken.tokenizer, words)


def _unspoken(settings: Settings) -> Spoken:
    """A language model that knows no word yet."""
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.width,
        intermediate_size=3 * settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=4,
        # The usual 0.02 suits wide layers. Here a layer would hand on so little at first that the language model learns
        # a picture's concept but, in the time there is, not its colours.
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
        setattr(config, FAMILY_KEY, settings.family)  # else it would be taken for a LLaVA-1.5 wherever else it lies
    config.architectures = [LlavaForConditionalGeneration.__name__]  # by which servers choose, as transformers saves it
    model = LlavaForConditionalGeneration(config)
    # transformers' standard deviation of 0.02 is meant for wider layers: here it leaves the picture too faint.
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
    """What makes of pictures, of any size, and of texts the model's input."""
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
