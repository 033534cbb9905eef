"""Steps of one token whose shapes and places in memory stay the same, so that a GPU can replay them as a CUDA graph.

A step of a 7B model starts some 1,500 kernels one after another, which takes 20 to 30 ms however little they do. A
graph starts them all at once, but reads and writes where the recorded step did. Therefore keys and values have room for
a multiple of `WIDTH` places here. Unused places are masked, and the GPU itself counts where the next token is written.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import Cache
from transformers.cache_utils import StaticLayer

from safeeraser.errors import BadInput
from safeeraser.generation.context import SPARE, Context

WIDTH = 128  # a step attends to a multiple of so many places; another multiple requires another graph


def can_be_fixed(model: Any) -> bool:
    """Whether the CPU reads nothing from the GPU in a step: dynamic rotary positions read the longest row's length."""
    rotary = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    return rotary.get("rope_type") != "dynamic"


class FixedSteps:
    """Reads one token in each row of a context at a time. On a CPU the steps are the same, but nothing is recorded.

    Attributes:
        held: 1 at places that hold a token, else 0, int64, (rows, capacity); the context's mask is a slice of it.
        ids: the tokens that are read, (rows, 1).
        logits: of the next tokens, float32, (rows, vocabulary).
    """

    held: Tensor
    ids: Tensor
    logits: Tensor

    def __init__(self) -> None:
        self.context: Context | None = None
        self.both: list[Tensor] = []  # each layer's keys and values, in the memory that the recorded step uses
        self.cache = Cache(layers=[])
        self.graph: torch.cuda.CUDAGraph | None = None

    def read(self, context: Context, tokens: Tensor) -> None:
        """Read one token in each row, (rows,), as `Context.read` does."""
        # Whether the context is not in the memory of the last step, or has no place left there.
        if fresh := not (self._knows(context) and context.cache.layers[0].end < self.held.shape[1]):
            self._lay_out(context)
        self.ids.copy_(tokens[:, None])
        if not tokens.is_cuda or (fresh and not self.graph):
            self._step(context)  # on a GPU this is the warm-up that must precede a recording
        else:
            self.graph = self.graph or self._record(context)
            self.graph.replay()
        for layer in context.cache.layers:
            layer.show(layer.begin, layer.end + 1)
        first = context.cache.layers[0]
        context.mask, context.logits = self.held[:, first.begin : first.end], self.logits

    def _knows(self, context: Context) -> bool:
        """Whether the context's keys and values are in the memory of the last step."""
        layers = context.cache.layers
        return context is self.context and all(a.both is b for a, b in zip(layers, self.both, strict=True))

    def _lay_out(self, context: Context) -> None:
        """Move the context's keys and values to the beginning of its memory, or of new memory if another is needed."""
        layers, width = context.cache.layers, context.mask.shape[1]
        capacity = -(-(width + SPARE) // WIDTH) * WIDTH
        held = pad(context.mask, (0, capacity - width))
        if self._knows(context) and capacity == self.held.shape[1]:
            self.held.copy_(held)
            for layer in layers:
                layer.both[:, :, :, :width] = layer.used.clone()
                layer.show(0, width)
        else:
            self.context, self.graph, self.held, self.both = context, None, held, []
            self.cache = Cache(layers=[])  # frees the old memory before new memory is allocated
            self.ids = held.new_empty(len(held), 1)
            for layer in layers:
                layer.hold(pad(layer.used, (0, 0, 0, capacity - width)), free=capacity - width)
                self.both.append(layer.both)
            self.cache = Cache(layers=[_static(both) for both in self.both])
        for layer in self.cache.layers:
            layer.cumulative_length.fill_(width)

    def _step(self, context: Context) -> None:
        """Read `ids`. All inputs are where they were at the last step, and the CPU reads nothing from the GPU."""
        self.held.index_fill_(1, self.cache.layers[0].cumulative_length[None], 1)
        output = context.model(
            input_ids=self.ids,
            attention_mask=self.held,
            position_ids=self.held.sum(dim=1, keepdim=True) - 1 + context.offsets[:, None],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.logits = output.logits[:, -1].float()

    def _record(self, context: Context) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._step(context)
        except RuntimeError as error:
            for cause in (error, error.__context__):  # an error within the recording may also make its end fail
                if isinstance(cause, torch.OutOfMemoryError):  # the caller retries with fewer rows
                    raise cause from None
            reason = str(error).strip().splitlines()[0]
            message = f"a step could not be recorded as a CUDA graph ({reason}); --decode plain does without"
            raise BadInput(message) from None
        return graph


def _static(both: Tensor) -> StaticLayer:
    """A transformers layer that writes into `both`, its keys and values, (2, rows, heads, places, width)."""
    layer = StaticLayer(both.shape[3])
    layer.keys, layer.values = both
    layer.device, layer.dtype, layer.is_initialized = both.device, both.dtype, True
    layer.cumulative_length = layer.cumulative_length.to(both.device)
    return layer
