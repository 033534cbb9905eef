"""Turns of a conversation, as texts with a picture and as rows of tokens."""

from dataclasses import dataclass, field

from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Turn:
    """A question, with or without a picture, and perhaps its answer. `who` (`human` or `user`) selects one of the two
    system texts of the release's wording; families without that wording ignore it. `system` replaces that system text;
    in other families it becomes a system message, which the chat template writes in its own way."""

    picture: Image.Image | None
    question: str
    answer: str | None = None
    who: str = "user"
    system: str | None = None


@dataclass(frozen=True)
class Shown:
    """A picture as the model receives it: the text that represents it, and the model's other inputs for it."""

    text: str
    inputs: dict[str, Tensor]


@dataclass(frozen=True)
class Row:
    """A turn ready for the model. `labels` has one label for each token id, `IGNORE` where the token is no target.
    `inputs` has the model's inputs for the picture, as the processor makes them for a single picture."""

    input_ids: list[int]
    labels: list[int]
    inputs: dict[str, Tensor] = field(default_factory=dict)
