"""How many responses at a time the memory holds: what one of them takes, and what a library says when it was too much.

Kept of each token are its keys and values, in every layer. A row holds at most its prompt, its response, and the spare
places behind (generation/context.py). Rows begin together, several at a time, while the others are still there; their
pictures, their questions and the rows themselves then lie side by side. What a step makes for a moment comes on top:
the layers' states while prompts are read, and logits with their sampling noise.
"""

from collections.abc import Sequence
from functools import partial

import psutil
import torch
from accelerate.utils.memory import should_reduce_batch_size
from transformers import PreTrainedConfig

from safeeraser.benchmark.pictures import picture_size
from safeeraser.generation import DECODERS
from safeeraser.generation.context import SPARE
from safeeraser.generation.fixed import WIDTH
from safeeraser.infer.requests import Request
from safeeraser.model import VLM, Turn, picture_bytes

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
    files = {request.file for request in requests if request.file}
    shown = [vlm.preprocessor.outline(partial(picture_size, file)) for file in files]
    turns = {Turn(None, request.question, system=request.system) for request in requests}
    longest = max(turns, key=lambda turn: len(turn.question) + len(turn.system or ""))
    place = max((each.text for each in shown), key=len, default=None)
    asks = len({(request.picture, request.question, request.system) for request in requests}) / len(requests)
    config, width = vlm.model.config, vlm.model.dtype.itemsize
    each = row_bytes(
        config.get_text_config(),
        width,
        prompt=len(vlm.preprocessor.encode_text(longest, place).input_ids),
        new_tokens=new_tokens + WIDTH * (vlm.model.device.type == "cuda"),  # which fixed steps round up to
        # Without beginnings that are shared, each row has its prompt read for itself.
        asks=asks if DECODERS[vlm.decoder].shares_beginnings else 1,
        pictures=len({request.picture for request in requests}) / len(requests),
        picture=max((picture_bytes(config, each.inputs, width) for each in shown), default=0),
    )
    return max(1, int(SHARE.get(vlm.model.device.type, SHARE["cpu"]) * free_memory(vlm.model.device) / each))


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a GPU, or in the machine's memory."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def row_bytes(
    text: PreTrainedConfig, width: int, *, prompt: int, new_tokens: int, asks: float, pictures: float, picture: float
) -> float:
    """Bytes that one row takes at the peak.

    Args:
        text: the language model's configuration.
        width: bytes of a number in the model's dtype.
        prompt, new_tokens: tokens of the longest prompt, the picture's included, and of the longest response.
        asks, pictures: how many different prompts and pictures there are, for each request.
        picture: bytes that the vision takes for one.
    """
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    token = 2 * text.num_hidden_layers * text.num_key_value_heads * head * width  # keys and values
    states = (3 * text.intermediate_size + 6 * text.hidden_size) * width  # of a token while one layer is at work
    begun = prompt * (token * (1 + asks + pictures) + states * max(asks, pictures)) + picture * pictures
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
