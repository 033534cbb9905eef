"""Questions, and the common part of all decoders: prompts, and the order in which questions are answered."""

import functools
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor

from safeeraser.benchmark.pictures import open_picture, picture_size
from safeeraser.generation.ahead import prepared
from safeeraser.generation.sampling import Generation, request_seed
from safeeraser.model.turns import Shown, Turn
from safeeraser.model.vlm import VLM


@dataclass(frozen=True)
class Asked:
    """A question about a picture, or about none. The random draws depend on `key`; equal keys draw alike. `begun` is
    the beginning of the answer: the model reads it as its own words, and the response continues it."""

    picture: Hashable | None  # a path, or anything that the decoder's `show` opens; equal ones are read once
    question: str
    key: str = ""
    begun: str = ""
    system: str | None = None  # replaces the family's own system text; None keeps it


@dataclass
class Answering(ABC):
    """A model that answers questions.

    Args:
        vlm: a model in evaluation mode, with or without an adapter on it.
        batch_size: responses at a time.
        agree: returns, for the tokens just drawn, (rows,), the tokens that all processes use. It is needed if several
            processes share the model's weights, and so must take every step together.
        show: opens a picture, in RGB.
        size: gives the picture's width and height, which may be faster than opening it.
        workers: processes that prepare pictures before their turn; 0: each is prepared when its turn comes.
        fixed: whether steps keep their shapes, as a CUDA graph requires. A decoder that cannot do so ignores it.
    """

    shares_beginnings: ClassVar[bool]  # whether the common beginning of a picture's prompts is read only once

    vlm: VLM
    generation: Generation
    batch_size: int
    agree: Callable[[Tensor], Tensor] = lambda tokens: tokens
    show: Callable[[Any], Image.Image] = open_picture
    size: Callable[[Any], tuple[int, int]] = picture_size
    workers: int = 0
    fixed: bool = False

    def __post_init__(self) -> None:
        self.model, self.tokenizer = self.vlm.model, self.vlm.preprocessor.tokenizer
        self.context, self.ends = self.vlm.preprocessor.context, self.vlm.ends
        self._ahead: Iterator[tuple[Hashable, Shown]] = iter(())

    @abstractmethod
    def answer(self, asked: Sequence[Asked]) -> Iterator[list[tuple[int, str | None]]]:
        """Answer every question; yield the responses that have just ended, as (index in `asked`, response).

        A response is None if the model's output was not finite, which can happen in float16, or if the prompt fills the
        model's context.
        """

    def prompts(self, asked: Sequence[Asked]) -> list[list[int]]:
        """The token ids of each question's prompt, including the picture's tokens."""
        place = functools.cache(lambda picture: self.vlm.preprocessor.place(lambda: self.size(picture)))
        encode = functools.cache(lambda turn, stands: self.vlm.preprocessor.encode_text(turn, stands).input_ids)
        turns = [Turn(None, request.question, request.begun or None, system=request.system) for request in asked]
        stands = [place(request.picture) if request.picture is not None else None for request in asked]
        return [encode(*each) for each in zip(turns, stands, strict=True)]

    def fits(self, prompt: Sequence[int]) -> bool:
        """Whether the model's context has room for a prompt and one more token."""
        return len(prompt) < self.context

    def most(self, prompt: Sequence[int]) -> int:
        """The most tokens that the response to a prompt may have: the context must hold both."""
        return min(self.generation.max_new_tokens, self.context - len(prompt))

    def unread(self, prompts: Sequence[list[int]]) -> list[tuple[int, str | None]]:
        """The indices of the prompts that do not fit the context, each with None as its response."""
        return [(number, None) for number, ids in enumerate(prompts) if not self.fits(ids)]

    def turns(self, asked: Sequence[Asked], prompts: Sequence[list[int]]) -> list[list[int]]:
        """The indices of the questions that fit, grouped by picture and system text, the longest prompts first. If
        there are workers, they prepare the pictures in this order."""
        fitting = [number for number, ids in enumerate(prompts) if self.fits(ids)]
        about = defaultdict(list)
        for number in sorted(fitting, key=lambda number: (-len(prompts[number]), prompts[number])):
            about[asked[number].picture, asked[number].system].append(number)
        groups = sorted(about.values(), key=lambda group: (-len(prompts[group[0]]), min(group)))
        if self.workers:
            shown = [picture for group in groups if (picture := asked[group[0]].picture) is not None]
            self._ahead = prepared(self.vlm.preprocessor, self.show, shown, self.workers)
        return groups

    def prepare(self, picture: Hashable) -> Shown:
        """A picture's form for the model, from the workers if there are any. Pictures that they prepared before it and
        that were not asked for are skipped."""
        if self.workers:
            return next(shown for waiting, shown in self._ahead if waiting == picture)
        return self.vlm.preprocessor.show(self.show(picture))

    def seed(self, asked: Asked) -> int:
        """The seed by which a question's response is drawn."""
        return request_seed(self.generation.seed, asked.key)

    def text(self, response: Sequence[int]) -> str:
        """The text of a response's tokens."""
        return self.tokenizer.decode(response, skip_special_tokens=True).strip()
