"""A loaded vision-language model: it encodes turns, joins rows, and computes logits at chosen places."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from safeeraser.benchmark.family import Family
from safeeraser.model.load import load_model, load_preprocessor
from safeeraser.model.preprocess import Preprocessor
from safeeraser.model.turns import Row, Turn


@dataclass(frozen=True)
class VLM:
    """A model, with or without an adapter on it, and its preprocessor."""

    model: Any
    preprocessor: Preprocessor

    @classmethod
    def load(cls, model_path: str, dtype: torch.dtype | Literal["auto"], attention: str = "sdpa", **more: Any) -> "VLM":
        """Load a model and its preprocessor; see `load_model` and `load_preprocessor`."""
        preprocessor = load_preprocessor(model_path)  # first, because it finds errors sooner
        return cls(load_model(model_path, dtype, attention, **more), preprocessor)

    @property
    def family(self) -> Family:
        """The model's family, which names its parts."""
        return self.preprocessor.family

    @property
    def bare(self) -> Any:
        """The model itself, without what PEFT wraps around one with an adapter."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def decoder(self) -> str:
        """The name of its decoder: the one in its family's config file, but `batched` if a sliding window is shorter
        than its context. Such a window counts gaps as places."""
        text = self.model.config.get_text_config()
        window = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
        return "batched" if window and window < self.preprocessor.context else self.family.decoder

    @cached_property
    def ends(self) -> set[int]:
        """The tokens with which a response ends."""
        named = self.model.generation_config.eos_token_id  # none, one or several
        tokenizer = self.preprocessor.tokenizer
        ends = {tokenizer.eos_token_id, self.preprocessor.end_token, *(named if isinstance(named, list) else [named])}
        return ends - {None}

    def encode(self, turn: Turn, **how: Any) -> Row:
        """See `Preprocessor.encode`."""
        return self.preprocessor.encode(turn, **how)

    def join(self, rows: Sequence[Row], side: Literal["left", "right"] = "right") -> dict[str, Tensor]:
        """See `Preprocessor.join`; on the model's device."""
        return self.place(self.preprocessor.join(rows, side))

    def place(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs on the model's device, with floating-point tensors in the model's dtype."""
        device, dtype = self.model.device, self.model.dtype
        return {
            key: each.to(device, dtype) if each.is_floating_point() else each.to(device) for key, each in inputs.items()
        }

    def logits(self, batch: Mapping[str, Tensor], read: Tensor) -> Tensor:
        """See `logits`."""
        return logits(self.model, batch, read)


def logits(model: nn.Module, batch: Mapping[str, Tensor], read: Tensor, head: nn.Module | None = None) -> Tensor:
    """Logits (N, vocabulary) at the places `read` (N,) of a batch's rows laid end to end. The head computes no others.

    `logits_to_keep` would need a mask, whose places the CPU would ask the GPU for, and again in the backward pass.

    Args:
        batch: the result of `join`.
        head: the model's output embeddings, if the model is wrapped and cannot return them.
    """
    head = head or model.get_output_embeddings()
    with head.register_forward_pre_hook(lambda _, shown: shown[0].flatten(0, 1).index_select(0, read)):
        return model(**batch, use_cache=False).logits


def positions(model: nn.Module, ids: Tensor, mask: Tensor, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The positions of the tokens of some beginnings: how many tokens of the row precede each, unless a model differs.

    Some models give a picture's tokens their row and column in it as positions (three kinds in all), so a picture takes
    fewer positions than tokens. The model's `get_rope_index` computes them. Behind a picture, each kind of a token's
    position is the number of tokens before it plus its row's offset.

    Args:
        ids, mask: (rows, tokens); 0 in the mask where there is no token.
        inputs: the model's inputs for the pictures, in the rows' order, token types included.

    Returns:
        Position ids, (rows, tokens) or (3, rows, tokens), and each row's offset, (rows,).
    """
    parts = model.modules() if inputs else ()
    if tell := next((part.get_rope_index for part in parts if hasattr(part, "get_rope_index")), None):
        places, offsets = tell(ids, attention_mask=mask, **inputs)
        return places, offsets[:, 0]
    return (mask.cumsum(dim=1) - 1).clamp(min=0), torch.zeros_like(mask[:, 0])


def look_up(model: nn.Module, first: int, vectors: Tensor) -> None:
    """Make a model embed the tokens from `first` on as `vectors`. In its other tables by token, such as the embeddings
    for each layer, they become padding, as a picture's tokens do."""
    words = model.get_input_embeddings()
    embed = words.forward

    def learned(ids: Tensor) -> Tensor:
        usual = embed(ids.masked_fill(ids >= first, 0))
        new = vectors[(ids - first).clamp(0, len(vectors) - 1)].to(usual.dtype)
        return new.where((ids >= first)[..., None], usual)

    words.forward = learned
    parent = next(module for module in model.modules() if words in module.children())
    for beside in parent.children():
        if isinstance(beside, nn.Embedding) and beside is not words:
            beside.register_forward_pre_hook(lambda it, ids: ids[0].masked_fill(ids[0] >= first, it.padding_idx))
