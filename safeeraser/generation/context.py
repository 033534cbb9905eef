"""The keys and values of a batch of rows that a model has read. Rows can grow, be copied, and be replaced by others."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from safeeraser.model.vlm import positions

SPARE = 32  # places kept free for later tokens
GAP = -1  # in place of a token id where there is no token


class _Layer(DynamicLayer):
    """A layer's keys and values with free places behind them.

    transformers' own layer copies everything at each token, which takes as long as the model itself for many long rows.

    Attributes:
        both: keys and values, (2, rows, heads, places, width); gaps hold zeros.
        begin, end: the places in use.
    """

    both: Tensor
    begin = end = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Add tokens to each row; return all keys and values, (rows, heads, places, width)."""
        rows, heads, new, width = key_states.shape
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.both = key_states.new_zeros(2, rows, heads, new + SPARE, width)
        if self.end + new > self.both.shape[3]:
            self.hold(pad(self.both[:, :, :, self.begin : self.end], (0, 0, 0, new + SPARE)), free=new + SPARE)
        self.both[0, :, :, self.end : self.end + new] = key_states
        self.both[1, :, :, self.end : self.end + new] = value_states
        self.show(self.begin, self.end + new)
        return self.keys, self.values

    def hold(self, both: Tensor, free: int = 0) -> "_Layer":
        """Set the keys and values to `both`, of which the last `free` places are free."""
        self.both, self.dtype, self.device, self.is_initialized = both, both.dtype, both.device, True
        self.show(0, both.shape[3] - free)
        return self

    def show(self, begin: int, end: int) -> None:
        """Set the range of places in use."""
        self.begin, self.end = begin, end
        self.keys, self.values = self.used

    @property
    def used(self) -> Tensor:
        """Keys and values of the places in use."""
        return self.both[:, :, :, self.begin : self.end]


class _Cache(Cache):
    """All layers, with zeros as the keys and values of gaps.

    Some places in a gap attend to no token. Depending on the kernel, the result is zeros, a mean, or NaN. Other tokens
    give such a place weight 0, but 0 times NaN is NaN, so it must not enter their sums.

    Attributes:
        gaps: where the tokens that are being read have gaps, (rows, 1, tokens, 1); None: nowhere.
    """

    gaps: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Add tokens to a layer, with zeros in gaps; return its keys and values."""
        if self.gaps is not None:
            key_states, value_states = (each.masked_fill(self.gaps, 0) for each in (key_states, value_states))
        return super().update(key_states, value_states, *args, **kwargs)


class Context:
    """The keys and values of some rows, a mask of the places that hold a token, and the logits of each next token.

    Rows have gaps where they are shorter than their neighbours. A token's position is the number of tokens before it
    (gaps not counted) plus its row's offset, so it does not matter where the gaps are.

    Attributes:
        mask: (rows, places), 1 where there is a token, 0 in a gap.
        offsets: (rows,), the number of positions that a row has taken minus its number of tokens. It can differ from 0
            behind a picture, in models whose positions are a picture's rows and columns.
        logits: (rows, vocabulary), float32.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.cache = model, _Cache(layer_class_to_replicate=_Layer)
        self.mask = torch.zeros(0, 0, dtype=torch.long, device=model.device)
        self.offsets = torch.zeros(0, dtype=torch.long, device=model.device)
        self.logits = torch.zeros(0, 0, device=model.device)

    def read(self, rows: Sequence[Sequence[int]] | Tensor, inputs: Mapping[str, Tensor] | None = None) -> None:
        """Read some more tokens in each row.

        Args:
            rows: token ids, at least one for each row; shorter rows get a gap before their tokens. A tensor,
                (rows, tokens), has equally many for each row, and can stay on the model's device.
            inputs: at the first read, the model's inputs for the pictures in it, in the rows' order.
        """
        if isinstance(rows, Tensor):
            ids, held, self.cache.gaps = rows, torch.ones_like(rows), None
        else:
            longest = max(map(len, rows))
            filled = torch.tensor([[GAP] * (longest - len(row)) + list(row) for row in rows], device=self.model.device)
            ids, held = filled.clamp(min=0), (filled != GAP).long()
            uneven = min(map(len, rows)) < longest
            self.cache.gaps = (filled == GAP)[:, None, :, None] if uneven else None
        if len(self.mask):
            self.mask = torch.cat([self.mask, held], dim=1)
            counted = (self.mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            places = counted + self.offsets[:, None]
        else:
            self.mask = held
            places, self.offsets = positions(self.model, ids, held, inputs or {})
        # The last states are a non-contiguous view, which a CPU multiplies row by row. With a head of 49,000 tokens,
        # 64 rows would take 15 times as long in float32, and 800 times in bfloat16 (torch 2.13).
        with self.model.get_output_embeddings().register_forward_pre_hook(lambda _, shown: shown[0].contiguous()):
            output = self.model(
                input_ids=ids,
                attention_mask=self.mask,
                position_ids=places,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
                **(inputs or {}),
            )
        self.logits = output.logits[:, -1].float()

    def select(self, rows: Sequence[int]) -> "Context":
        """A new context of the chosen rows, each as often as `rows` lists it."""
        index = torch.tensor(rows, device=self.mask.device)
        layers = (layer.used[:, index] for layer in self.cache.layers)
        context = self._new(layers, self.mask[index], self.offsets[index], self.logits[index])
        context._trim()
        return context

    def join(self, other: "Context") -> "Context":
        """A new context of this one's rows and then the other's; shorter rows get a gap at their beginning."""
        self._widen(other.mask.shape[1])
        other._widen(self.mask.shape[1])
        pairs = zip(self.cache.layers, other.cache.layers, strict=True)
        layers = (torch.cat([one.used, two.used], dim=1) for one, two in pairs)
        mask, offsets = torch.cat([self.mask, other.mask]), torch.cat([self.offsets, other.offsets])
        return self._new(layers, mask, offsets, torch.cat([self.logits, other.logits]))

    def put(self, rows: Sequence[int], other: "Context") -> None:
        """Replace some rows by the rows of `other`. The remaining rows are not copied."""
        self._widen(other.mask.shape[1])
        index = torch.tensor(rows, device=self.mask.device)
        places = other.mask.shape[1]
        for layer, new in zip(self.cache.layers, other.cache.layers, strict=True):
            layer.both[:, index] = 0  # a row that overflowed must not leave NaN or infinities in its successor's gap
            layer.both[:, index, :, layer.end - places : layer.end] = new.used
        self.mask[index] = pad(other.mask, (self.mask.shape[1] - places, 0))
        self.offsets[index], self.logits[index] = other.offsets, other.logits
        self._trim()

    def _widen(self, places: int) -> None:
        """Extend the context to at least `places` places by a gap at the beginning of all rows."""
        longer = places - self.mask.shape[1]
        if longer > 0:
            for layer in self.cache.layers:
                layer.hold(pad(layer.used, (0, 0, longer, 0)))
            self.mask = pad(self.mask, (longer, 0))

    def _trim(self) -> None:
        """Drop the places at the beginning that are gaps in all rows."""
        gaps = int(self.mask.any(dim=0).int().argmax())
        for layer in self.cache.layers:
            layer.show(layer.begin + gaps, layer.end)
        self.mask = self.mask[:, gaps:]

    def _new(self, layers: Iterable[Tensor], mask: Tensor, offsets: Tensor, logits: Tensor) -> "Context":
        context = Context(self.model)
        context.cache.layers = [_Layer().hold(both) for both in layers]
        context.mask, context.offsets, context.logits = mask, offsets, logits
        return context
