"""The built-in engine: answers requests with a model in this process, as many at a time as the memory holds.

Kept of each token are its keys and values, in every layer. A row holds at most its prompt, its response, and the spare
places behind (generation/context.py). Rows begin together, several at a time, while the others are still there; their
pictures, their questions and the rows themselves then lie side by side. What a step makes for a moment comes on top:
the layers' states while prompts are read, and logits with their sampling noise.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import psutil
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from safeeraser.benchmark.pictures import picture_size
from safeeraser.benchmark.records import DataFile
from safeeraser.errors import BadInput
from safeeraser.generation import DECODERS, Answering, Asked
from safeeraser.generation.ahead import of_worker
from safeeraser.generation.context import SPARE
from safeeraser.generation.fixed import WIDTH
from safeeraser.generation.sampling import Generation
from safeeraser.infer.attacks import ATTACKS, Known
from safeeraser.infer.options import Options
from safeeraser.infer.requests import Request, Unanswered, show, size_of
from safeeraser.model.merge import load_merged
from safeeraser.model.turns import Turn
from safeeraser.model.vision import picture_bytes
from safeeraser.model.vlm import VLM
from safeeraser.processes import Processes

log = logging.getLogger(__name__)

MOST = 256  # responses at a time, where the batch size is to be found; more are hardly quicker
PICTURES = 50  # for a process that prepares them; fewer are soon prepared, and a process takes time to start
# The share of what is free that is begun with. A GPU says when its memory is full, and fewer rows go on from there; on
# a CPU the system ends the process instead, and others, of this project too, want their part.
SHARE = {"cuda": 0.9, "cpu": 0.25}
# The share of rows that begin while the rest goes on. Counted on a model of real proportions, the peak is then 0.96
# times what is said here where responses end at any length, and 1.27 times where all run to the limit and end together.
BEGINNING = 1 / 2
# Bytes an entry of a row's logits: float32, the model's own, and what drawing from them makes (counted: 36, most of it
# the int64 hash that the noise is made of).
LOGIT = 48
REMEDY = "a smaller dtype, or a larger device, may do"
# What CUDA, its driver, cuBLAS and cuDNN say; accelerate knows what torch's own allocators do.
ALSO_FULL = ("error: out of memory", "_STATUS_ALLOC_FAILED", "_ALLOCATION_FAILED")


@dataclass
class Engine:
    """A model that answers requests. Which requests share a batch changes what is drawn for each by rounding alone.

    Args:
        given: responses at a time; None to find it: as many as should fit, a quarter fewer whenever they do not.
        earlier_size: the one that an earlier sitting of the same run came to, where it is to be found.
        workers: processes that prepare pictures, at most.
        fixed: see `Answering`.

    Where the memory was full, responses that had ended are kept, and those under way are drawn anew, the same as in any
    other batch. To go on from their tokens they would have to be read as prompts are, all at once, which rounds
    otherwise than one by one did; and no step down costs more than the one batch that was under way.
    """

    vlm: VLM
    generation: Generation
    given: int | None = None
    earlier_size: int | None = None
    workers: int = 0
    fixed: bool = False

    def __post_init__(self) -> None:
        self.vlm.model.eval()
        self.batch_size = self.given or MOST

    def answer(self, requests: Sequence[Request]) -> Iterator[list[tuple[Request, str | Unanswered]]]:
        """Yields requests that have just been answered, with their responses. Raises `BadInput` for lack of memory."""
        left = {request.key: request for request in requests}
        if left and not self.given:
            clear_device_cache(garbage_collection=True)  # what merging an adapter took is free again
            fit = self.earlier_size or rows_that_fit(self.vlm, requests, self.generation.max_new_tokens)
            self.batch_size = min(self.batch_size, fit)
        log.info("%d responses at a time", self.batch_size)
        while left:
            try:
                for finished in self._attempt(list(left.values())):
                    yield finished
                    for request, _ in finished:
                        del left[request.key]
            except RuntimeError as error:
                if reason := of_worker(error):
                    log.warning("%s; going on without processes that prepare pictures", reason)
                    self.workers = 0
                elif out_of_memory(error):
                    self._reduce()
                else:
                    raise
            # Not before the error is let go, since it holds what was computed last.
            if left:
                clear_device_cache(garbage_collection=True)

    def _attempt(self, requests: list[Request]) -> Iterator[list[tuple[Request, str | Unanswered]]]:
        workers = min(self.workers, len({request.picture for request in requests}) // PICTURES)
        how: dict[str, Any] = {"show": show, "size": size_of, "workers": workers, "fixed": self.fixed}
        decoder = DECODERS[self.vlm.decoder](self.vlm, self.generation, self.batch_size, **how)
        asked = [Asked(each.picture, each.question, each.key, system=each.system) for each in requests]
        for ended in decoder.answer(asked):
            yield [(requests[n], _why_silent(decoder, asked[n]) if text is None else text) for n, text in ended]

    def _reduce(self) -> None:
        if self.batch_size == 1:
            raise BadInput(f"out of memory with one response at a time; {REMEDY}")
        if self.given:
            raise BadInput(f"out of memory at --batch_size {self.batch_size}; --batch_size auto finds one that fits")
        self.batch_size = self.batch_size * 3 // 4
        log.warning("out of memory: going on with --batch_size %d", self.batch_size)


def _why_silent(decoder: Answering, asked: Asked) -> Unanswered:
    (prompt,) = decoder.prompts([asked])
    if decoder.fits(prompt):
        return Unanswered("the model's output is not finite; in another --dtype it may be")
    return Unanswered(f"its prompt takes {len(prompt)} tokens, and the model's context holds {decoder.context}")


def load_engine(
    options: Options, data: DataFile, requests: list[Request], processes: Processes, batch_size: int | None
) -> tuple[Engine, list[Request]]:
    """The engine with the options' model, and the requests as their attack puts them to it.

    `batch_size`: see `Engine.earlier_size`.
    """
    attack = ATTACKS.get(options.attack or "")
    vlm = load_merged(
        options.model_path,
        options.checkpoint_path,
        dtype=options.dtype,
        lora_alpha=options.lora_alpha,
        adapter_scale=options.adapter_scale,
        quantization=options.quantization,
        change=attack.adapter if attack else None,
        device=processes.device,
    )
    if attack and attack.model:
        vlm.model.eval()
        known, began = Known(data, options.selection, options.generation.seed, attack.name), time.monotonic()
        try:
            vlm, requests = attack.model(vlm, known, requests)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise BadInput(f"--attack {attack.name}: out of memory; {REMEDY}") from None
        log.info("attack %s: prepared in %.0f s", attack.name, time.monotonic() - began)
    fixed = uses_graphs(options, processes)
    return Engine(vlm, options.generation, options.batch_size, batch_size, options.workers or 0, fixed), requests


def uses_graphs(options: Options, processes: Processes) -> bool:
    """Whether a GPU replays decoding steps as CUDA graphs."""
    return options.decode == "graph" and processes.device.type == "cuda"


def rows_that_fit(vlm: VLM, requests: Sequence[Request], new_tokens: int) -> int:
    """How many of `requests` to answer at a time, one at least, each with `new_tokens` at most."""
    device, width, config = vlm.model.device, vlm.model.dtype.itemsize, vlm.model.config
    files = {request.file for request in requests if request.file}
    shown = [vlm.preprocessor.outline(partial(picture_size, file)) for file in files]
    picture = max((picture_bytes(config, each.inputs, width) for each in shown), default=0)
    longest = max(requests, key=lambda request: len(request.question) + len(request.system or ""))
    turn = Turn(None, longest.question, system=longest.system)
    place = max((each.text for each in shown), key=len, default=None)
    prompt = len(vlm.preprocessor.encode_text(turn, place).input_ids)  # tokens, the picture's included
    # How many different prompts and pictures there are for each request.
    asks = len({(request.picture, request.question, request.system) for request in requests}) / len(requests)
    if not DECODERS[vlm.decoder].shares_beginnings:  # each row has its prompt read for itself
        asks = 1
    pictures = len({request.picture for request in requests}) / len(requests)
    text = config.get_text_config()
    layers = getattr(text, "per_layer_config", None) or [text] * text.num_hidden_layers
    heads = [getattr(each, "head_dim", None) or each.hidden_size // each.num_attention_heads for each in layers]
    token = 2 * width * sum(head * each.num_key_value_heads for head, each in zip(heads, layers, strict=True))
    states = (3 * text.intermediate_size + 6 * text.hidden_size) * width  # of a token while one layer is at work
    begun = prompt * (token * (1 + asks + pictures) + states * max(asks, pictures)) + picture * pictures
    new_tokens += WIDTH * (device.type == "cuda")  # which fixed steps round up to
    going_on = token * (prompt + new_tokens + SPARE) + BEGINNING * begun
    # At the very beginning all rows are new, and there are no others.
    row = max(begun, going_on) + LOGIT * text.vocab_size  # bytes at the peak
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return max(1, int(SHARE.get(device.type, SHARE["cpu"]) * free / row))


def out_of_memory(error: RuntimeError) -> bool:
    """Whether the memory was full."""
    return (
        isinstance(error, torch.OutOfMemoryError)
        or should_reduce_batch_size(error)
        or any(words in str(error) for words in ALSO_FULL)
    )
