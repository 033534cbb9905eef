"""The base model: a LLaVA of two million parameters, in the parts and file formats of LLaVA-1.5."""

import torch
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from safeeraser.benchmark.conversation import IMAGE
from safeeraser.benchmark.family import families
from safeeraser.mini.pictures import SIDE
from safeeraser.model import Preprocessor

PATCH = 16
WIDTH = 128


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlavaForConditionalGeneration:
    """An untrained model; `seed` decides its weights. The caller's random state is left as it was."""
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=WIDTH,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        # The usual 0.02 suits wide layers. Here a layer would hand on so little at first that the language model learns
        # a picture's concept but, in the time there is, not its colours.
        initializer_range=0.06,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(SIDE // PATCH) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
        # transformers' standard deviation of 0.02 is meant for wider layers: here it leaves the picture too faint.
        for layer in (model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2):
            torch.nn.init.xavier_normal_(layer.weight)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def build_preprocessor(tokenizer: PreTrainedTokenizerFast) -> Preprocessor:
    """What makes of pictures, of any size, and of texts the model's input."""
    pictures = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    processor = LlavaProcessor(pictures, tokenizer, PATCH, "default", num_additional_image_tokens=1)
    image_token = tokenizer.convert_tokens_to_ids(IMAGE)
    return Preprocessor(processor, families()["llava-mini"], tokenizer.model_max_length, image_token, "")
