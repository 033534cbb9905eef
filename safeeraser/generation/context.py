"""What a model has read so far: the keys and values of a batch of rows, which grow, branch, and give way to others."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from safeeraser.model.vlm import positions

SPARE = 32  # places kept free for tokens to come
GAP = -1  # takes the place of a token id where there is none


class _Layer(DynamicLayer):
    """A layer's keys and values with free places behind them.

    transformers' own copies all of them for every token, which for many long rows takes as long as the model itself.

    Attributes:
        both: keys and values, (2, rows, heads, places, width); gaps hold zeros.
        begin, end: the places in use.
    """

    both: Tensor
    begin = end = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Add tokens to each row; returns all keys and values, (rows, heads, places, width)."""
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
        """Take `both` for its keys and values, with `free` places at its end."""
        self.both, self.dtype, self.device, self.is_initialized = both, both.dtype, both.device, True
        self.show(0, both.shape[3] - free)
        return self

    def show(self, begin: int, end: int) -> None:
        """Let the places in use be these."""
        self.begin, self.end = begin, end
        self.keys, self.values = self.used

    @property
    def used(self) -> Tensor:
        """Keys and values of the places in use."""
        return self.both[:, :, :, self.begin : self.end]


class _Cache(Cache):
    """All layers.

    Some places in a gap see no token at all, and what comes of that is each attention kernel's own affair: zeros, a
    mean, or NaN. Other tokens' weights for it are 0; but 0 times NaN is NaN, so it must not get into their sums.

    Attributes:
        gaps: which of the tokens that are being read are none, (rows, 1, tokens, 1); None: each is one.
    """

    gaps: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Add tokens to a layer, with zeros in gaps; returns its keys and values."""
        if self.gaps is not None:
            key_states, value_states = (each.masked_fill(self.gaps, 0) for each in (key_states, value_states))
        return super().update(key_states, value_states, *args, **kwargs)


class Context:
    """The keys and values of some rows, which of their places hold a token, and the logits of what follows.

    Rows have gaps where they are shorter than their neighbours. A token's position is the number of tokens before it,
    gaps not counted, and its row's offset, so it does not matter where the gaps are.

    Attributes:
        mask: (rows, places), 1 where there is a token, 0 in a gap.
        offsets: (rows,), how many positions more, or fewer, a row has taken than it has tokens; not 0 behind a picture,
            in models that count its rows and columns.
        logits: (rows, vocabulary), float32.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.cache = model, _Cache(layer_class_to_replicate=_Layer)
        self.mask = torch.zeros(0, 0, dtype=torch.long, device=model.device)
        self.offsets = torch.zeros(0, dtype=torch.long, device=model.device)
        self.logits = torch.zeros(0, 0, device=model.device)

    def read(self, rows: Sequence[Sequence[int]] | Tensor, inputs: Mapping[str, Tensor] | None = None) -> None:
        """Let each row go on with some tokens.

        Args:
            rows: token ids, one at least for each row; shorter ones get their gap before them. Or equally many for each
                as a tensor, (rows, tokens): what is on the model's device need not be fetched and sent back.
            inputs: at a beginning that holds pictures, what the model is given for them, in the rows' order.
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
        # The last states are a view with gaps, which a CPU multiplies row by row: with a head of 49,000 tokens 64 rows
        # take 15 times as long in float32, and 800 times in bfloat16 (torch 2.13).
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
        """A new context of these rows, each as often as it is named."""
        index = torch.tensor(rows, device=self.mask.device)
        layers = (layer.used[:, index] for layer in self.cache.layers)
        context = self._new(layers, self.mask[index], self.offsets[index], self.logits[index])
        context._trim()
        return context

    def join(self, other: "Context") -> "Context":
        """A new context of the rows of both, in this order; the shorter ones get a gap at their beginning."""
        self._widen(other.mask.shape[1])
        other._widen(self.mask.shape[1])
        pairs = zip(self.cache.layers, other.cache.layers, strict=True)
        layers = (torch.cat([one.used, two.used], dim=1) for one, two in pairs)
        mask, offsets = torch.cat([self.mask, other.mask]), torch.cat([self.offsets, other.offsets])
        return self._new(layers, mask, offsets, torch.cat([self.logits, other.logits]))

    def put(self, rows: Sequence[int], other: "Context") -> None:
        """Let the rows of `other` take the places of these rows. The others are not touched, let alone copied."""
        self._widen(other.mask.shape[1])
        index = torch.tensor(rows, device=self.mask.device)
        places = other.mask.shape[1]
        for layer, new in zip(self.cache.layers, other.cache.layers, strict=True):
            layer.both[:, index] = 0  # a row that overflowed must not leave what is not finite in its successor's gap
            layer.both[:, index, :, layer.end - places : layer.end] = new.used
        self.mask[index] = pad(other.mask, (self.mask.shape[1] - places, 0))
        self.offsets[index], self.logits[index] = other.offsets, other.logits
        self._trim()

    def _widen(self, places: int) -> None:
        """Have so many places at least, by a gap at the beginning of all rows."""
        longer = places - self.mask.shape[1]
        if longer > 0:
            for layer in self.cache.layers:
                layer.hold(pad(layer.used, (0, 0, longer, 0)))
            self.mask = pad(self.mask, (longer, 0))

    def _trim(self) -> None:
        """Forget the places at the beginning that are gaps in all rows."""
        gaps = int(self.mask.any(dim=0).int().argmax())
        for layer in self.cache.layers:
            layer.show(layer.begin + gaps, layer.end)
        self.mask = self.mask[:, gaps:]

    def _new(self, layers: Iterable[Tensor], mask: Tensor, offsets: Tensor, logits: Tensor) -> "Context":
        context = Context(self.model)
        context.cache.layers = [_Layer().hold(both) for both in layers]
        context.mask, context.offsets, context.logits = mask, offsets, logits
        return context
