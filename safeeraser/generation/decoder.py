"""How a model answers questions about pictures: as inference asks them, and as training's probes do."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig, LlavaForConditionalGeneration, LogitsProcessorList

from safeeraser.benchmark.conversation import IGNORE, Encoded, expand_image, pad, prompt
from safeeraser.model import Preprocessor

SYSTEM = "user"  # whose chat is continued; the release's at inference, see config/recipe/official.yaml


def encode_question(preprocessor: Preprocessor, question: str) -> list[int]:
    """The token ids of a prompt that asks `question` about one picture."""
    ids = preprocessor.tokenizer(prompt(question, SYSTEM))["input_ids"]
    encoded = Encoded(ids, [IGNORE] * len(ids))
    return expand_image(encoded, preprocessor.image_token, preprocessor.image_length).input_ids


@torch.no_grad()
def generate(
    model: LlavaForConditionalGeneration,
    preprocessor: Preprocessor,
    prompts: Sequence[list[int]],
    pixels: Tensor,
    max_new_tokens: int,
    logits_processor: LogitsProcessorList | None = None,
) -> list[str]:
    """The answers to one batch of prompts: the likeliest token at each position, after `logits_processor`.

    Args:
        prompts: token ids, the picture's tokens among them; padded on the left here.
        pixels: the pictures, (prompts, 3, height, width).
    """
    tokenizer = preprocessor.tokenizer
    input_ids = torch.tensor(pad(prompts, preprocessor.pad_token, left=True))
    lengths = torch.tensor([len(ids) for ids in prompts])
    mask = torch.arange(input_ids.shape[1]) >= input_ids.shape[1] - lengths[:, None]
    output = model.generate(
        input_ids=input_ids.to(model.device),
        attention_mask=mask.long().to(model.device),
        pixel_values=pixels.to(model.device, model.dtype),
        generation_config=GenerationConfig(
            do_sample=False,
            max_new_tokens=max_new_tokens,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=preprocessor.pad_token,
        ),
        logits_processor=logits_processor,
    )
    answers = output[:, input_ids.shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(answers, skip_special_tokens=True)]
