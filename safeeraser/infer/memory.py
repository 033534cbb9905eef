"""How many responses at a time the memory holds: what one of them takes, and what a library says when it was too much.

Kept of each token are its keys and values, in every layer. A row holds at most its prompt, its response, and the spare
places behind (generation/context.py). Rows begin together, several at a time, while the others are still there; their
pictures, their questions and the rows themselves then lie side by side. What a step makes for a moment comes on top:
the layers' states while prompts are read, and logits with their sampling noise.
"""

from collections.abc import Sequence
from functools import partial

import psutil  # accelerate brings it
import torch
from accelerate.utils.memory import should_reduce_batch_size
from transformers import PreTrainedConfig

from safeeraser.benchmark.pictures import picture_size
from safeeraser.generation.context import SPARE
from safeeraser.infer.requests import Request
from safeeraser.model import VLM, Turn

# The share of what is free that is begun with. A GPU says when its memory is full, and fewer rows go on from there; on
# a CPU the system ends the process instead, and others, of this project too, want their part.
SHARE = {"cuda": 0.9, "cpu": 0.25}
# The share of rows that begin while the rest goes on. Counted on a model of real proportions, the peak is then 0.96
# times what is said here where responses end at any length, and 1.27 times where all run to the limit and end together.
BEGINNING = 1 / 2
# Bytes an entry of a row's logits: float32, the model's own, and what drawing from them makes (counted: 36, most of it
# the int64 hash that the noise is made of).
LOGIT = 48
# What CUDA, its driver, cuBLAS and cuDNN say; accelerate knows what torch's own allocators do.
ALSO_FULL = ("error: out of memory", "_STATUS_ALLOC_FAILED", "_ALLOCATION_FAILED")


def rows_that_fit(vlm: VLM, requests: Sequence[Request], new_tokens: int) -> int:
    """How many of `requests` to answer at a time, one at least, each with `new_tokens` at most."""
    questions = {request.question for request in requests}
    files = {request.file for request in requests if request.file}
    places = [vlm.preprocessor.place(partial(picture_size, file)) for file in files]
    longest = Turn(None, max(questions, key=len))
    prompt = len(vlm.preprocessor.encode_text(longest, max(places, key=len, default=None)).input_ids)
    asks = len({(request.picture, request.question) for request in requests}) / len(requests)
    pictures = len({request.picture for request in requests}) / len(requests)
    each = row_bytes(
        vlm.model.config, vlm.model.dtype.itemsize, prompt=prompt, new_tokens=new_tokens, asks=asks, pictures=pictures
    )
    return max(1, int(SHARE.get(vlm.model.device.type, SHARE["cpu"]) * free_memory(vlm.model.device) / each))


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a GPU, or in the machine's memory."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def row_bytes(
    config: PreTrainedConfig, width: int, *, prompt: int, new_tokens: int, asks: float, pictures: float
) -> float:
    """Bytes that one row takes at the peak.

    Args:
        width: bytes of a number in the model's dtype.
        prompt, new_tokens: tokens of the longest prompt, the picture's included, and of the longest response.
        asks, pictures: how many different prompts and pictures there are, for each request.
    """
    text, vision = config.text_config, config.vision_config
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    token = 2 * text.num_hidden_layers * text.num_key_value_heads * head * width  # keys and values
    states = (3 * text.intermediate_size + 6 * text.hidden_size) * width  # of a token while one layer is at work
    patches = (vision.image_size // vision.patch_size) ** 2 + 1
    seen = patches * vision.hidden_size * (vision.num_hidden_layers + 8) * width  # LLaVA asks for all layers' states
    begun = prompt * (token * (1 + asks + pictures) + states * max(asks, pictures)) + seen * pictures
    going_on = token * (prompt + new_tokens + SPARE) + BEGINNING * begun
    # At the very beginning all rows are new, and there are no others.
    return max(begun, going_on) + LOGIT * text.vocab_size


def out_of_memory(error: RuntimeError) -> bool:
    """Whether the memory was full."""
    return (
        isinstance(error, torch.OutOfMemoryError)
        or should_reduce_batch_size(error)
        or any(words in str(error) for words in ALSO_FULL)
    )
