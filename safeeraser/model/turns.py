"""Turns of a conversation: as texts and a picture, and as rows of tokens."""

from dataclasses import dataclass, field

from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Turn:
    """A question about a picture, or about none, and perhaps its answer. `who` is whose chat the system text names,
    `human` or `user`, in a family whose wording has one; `system` is put in that one's place, or, where a template has
    none of its own, before the question as the template writes it."""

    picture: Image.Image | None
    question: str
    answer: str | None = None
    who: str = "user"
    system: str | None = None


@dataclass(frozen=True)
class Shown:
    """A picture to a model: what stands for it in the text, and the tensors that the model is given beside."""

    text: str
    inputs: dict[str, Tensor]


@dataclass(frozen=True)
class Row:
    """A turn ready for the model: token ids and labels of equal length, `IGNORE` where a token is no target, and what
    the model is given for the picture, each tensor as the processor makes it for one picture alone."""

    input_ids: list[int]
    labels: list[int]
    inputs: dict[str, Tensor] = field(default_factory=dict)
