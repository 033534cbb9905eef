"""The built-in engine: it answers requests with a model in this process, as many at a time as fit into memory.

Each layer caches the keys and values of every token. A row has at most the tokens of its prompt and its response, and
spare places behind them (generation/context.py). Several rows begin at a time while the others continue. Meanwhile the
caches of their pictures, of their questions and of the rows themselves exist together. Temporary tensors come on top:
hidden states while prompts are read, and logits with their sampling noise.
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

MOST = 256  # the largest batch size that is tried if none is given; a larger one is hardly faster
PICTURES = 50  # at least so many per process that prepares them, because a process takes time to start
# The share of the free memory that the first batch may fill. If a GPU's memory is full, the engine can continue with
# fewer rows. On a CPU the system kills the process, and other processes, some of this project, need memory too.
SHARE = {"cuda": 0.9, "cpu": 0.25}
# The share of rows that is assumed to begin while the rest continues. Counted on a model of real proportions, the peak
# is 0.96 times this estimate if responses end at any length. It is 1.27 times if all reach the limit and end together.
BEGINNING = 1 / 2
# Bytes for an entry of a row's logits: the model's own, their float32 copy, and the tensors made for sampling (counted:
# 36, mostly for the int64 hash from which the noise is made).
LOGIT = 48
REMEDY = "a smaller dtype, or a larger device, may do"
# Error texts of CUDA, its driver, cuBLAS and cuDNN for full memory; accelerate recognises torch's own allocators.
ALSO_FULL = ("error: out of memory", "_STATUS_ALLOC_FAILED", "_ALLOCATION_FAILED")


@dataclass
class Engine:
    """A model that answers requests. Which requests share a batch changes their responses by rounding alone.

    Args:
        given: responses at a time. None: start with as many as should fit, and a quarter fewer whenever memory is full.
        earlier_size: the batch size that an earlier part of the same run ended with; read if `given` is None.
        workers: the largest number of processes that prepare pictures.
        fixed: see `Answering`.

    If memory is full, finished responses are kept, and unfinished ones are drawn again from their start. They come out
    as in any other batch. To resume them, their tokens would have to be read all at once, as a prompt is, which rounds
    differently from reading one by one. Drawing again costs no more than the one batch that was under way.
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
        """Yield lists of just-answered requests with their responses. Raises `BadInput` if memory does not suffice."""
        left = {request.key: request for request in requests}
        if left and not self.given:
            clear_device_cache(garbage_collection=True)  # free the memory that merging an adapter took
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
                    log.warning("%s; continuing without processes that prepare pictures", reason)
                    self.workers = 0
                elif out_of_memory(error):
                    self._reduce()
                else:
                    raise
            # Only after the `except` block: until then the error keeps the last step's tensors alive.
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
        log.warning("out of memory: continuing with --batch_size %d", self.batch_size)


def _why_silent(decoder: Answering, asked: Asked) -> Unanswered:
    (prompt,) = decoder.prompts([asked])
    if decoder.fits(prompt):
        return Unanswered("the model's output is not finite; in another --dtype it may be")
    return Unanswered(f"its prompt takes {len(prompt)} tokens, and the model's context holds {decoder.context}")


def load_engine(
    options: Options, data: DataFile, requests: list[Request], processes: Processes, batch_size: int | None
) -> tuple[Engine, list[Request]]:
    """The engine with the options' model, and the requests, which an attack on the model may have changed.

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
    """How many of `requests` to answer at a time, at least 1, if no response has more than `new_tokens` tokens."""
    device, width, config = vlm.model.device, vlm.model.dtype.itemsize, vlm.model.config
    files = {request.file for request in requests if request.file}
    shown = [vlm.preprocessor.outline(partial(picture_size, file)) for file in files]
    picture = max((picture_bytes(config, each.inputs, width) for each in shown), default=0)
    longest = max(requests, key=lambda request: len(request.question) + len(request.system or ""))
    turn = Turn(None, longest.question, system=longest.system)
    place = max((each.text for each in shown), key=len, default=None)
    prompt = len(vlm.preprocessor.encode_text(turn, place).input_ids)  # tokens, the picture's included
    # The numbers of different prompts and of different pictures, per request.
    asks = len({(request.picture, request.question, request.system) for request in requests}) / len(requests)
    if not DECODERS[vlm.decoder].shares_beginnings:  # each row reads its own prompt
        asks = 1
    pictures = len({request.picture for request in requests}) / len(requests)
    text = config.get_text_config()
    layers = getattr(text, "per_layer_config", None) or [text] * text.num_hidden_layers
    heads = [getattr(each, "head_dim", None) or each.hidden_size // each.num_attention_heads for each in layers]
    token = 2 * width * sum(head * each.num_key_value_heads for head, each in zip(heads, layers, strict=True))
    states = (3 * text.intermediate_size + 6 * text.hidden_size) * width  # of a token, while one layer computes
    begun = prompt * (token * (1 + asks + pictures) + states * max(asks, pictures)) + picture * pictures
    new_tokens += WIDTH * (device.type == "cuda")  # fixed steps round lengths up to a multiple of `WIDTH`
    going_on = token * (prompt + new_tokens + SPARE) + BEGINNING * begun
    # At the start of a run all rows begin together, and no others exist.
    row = max(begun, going_on) + LOGIT * text.vocab_size  # bytes at the peak
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return max(1, int(SHARE.get(device.type, SHARE["cpu"]) * free / row))


def out_of_memory(error: RuntimeError) -> bool:
    """Whether the error says that memory is full."""
    return (
        isinstance(error, torch.OutOfMemoryError)
        or should_reduce_batch_size(error)
        or any(words in str(error) for words in ALSO_FULL)
    )
