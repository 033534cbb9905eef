"""Questions, and what all that answer them have in common: prompts, and the order in which they have their turns."""

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
    """A question about a picture, or about none. What is drawn depends on `key`; equal keys draw alike. `begun` is how
    the answer begins already: it is read as the model's own words, and the response goes on from there."""

    picture: Hashable | None  # a path, or whatever the decoder's `show` opens; equal ones are read once
    question: str
    key: str = ""
    begun: str = ""
    system: str | None = None  # put in place of the family's own, where it is not that which is wanted


@dataclass
class Answering(ABC):
    """A model that answers questions.

    Args:
        vlm: a model in evaluation mode, with or without an adapter on it.
        batch_size: responses at a time.
        agree: what makes of the tokens just drawn, (rows,), those that all processes go on with, where several share
            the model's weights and must therefore take every step together.
        show: opens a picture, in RGB.
        size: gives its width and height, sooner perhaps.
        workers: processes that prepare pictures before their turn; 0: each is prepared when it is its turn.
        fixed: whether steps keep their shapes, as a CUDA graph requires, where the way of answering can.
    """

    shares_beginnings: ClassVar[bool]  # whether what questions on a picture have in common is read once

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
        """Answer every question; yields (index in `asked`, response) of those that have just ended.

        A response is None where the model's output was not finite, as it may become in float16, or where the prompt
        fills its context.
        """

    def prompts(self, asked: Sequence[Asked]) -> list[list[int]]:
        """The token ids of each question's prompt, the picture's included."""
        place = functools.cache(lambda picture: self.vlm.preprocessor.place(lambda: self.size(picture)))
        encode = functools.cache(lambda turn, stands: self.vlm.preprocessor.encode_text(turn, stands).input_ids)
        turns = [Turn(None, request.question, request.begun or None, system=request.system) for request in asked]
        stands = [place(request.picture) if request.picture is not None else None for request in asked]
        return [encode(*each) for each in zip(turns, stands, strict=True)]

    def fits(self, prompt: Sequence[int]) -> bool:
        """Whether the model can give the places of a prompt's tokens, and of one more."""
        return len(prompt) < self.context

    def most(self, prompt: Sequence[int]) -> int:
        """How many tokens the response to a prompt has at most: the context holds both."""
        return min(self.generation.max_new_tokens, self.context - len(prompt))

    def unread(self, prompts: Sequence[list[int]]) -> list[tuple[int, str | None]]:
        """The outcome of the prompts that do not fit."""
        return [(number, None) for number, ids in enumerate(prompts) if not self.fits(ids)]

    def turns(self, asked: Sequence[Asked], prompts: Sequence[list[int]]) -> list[list[int]]:
        """The indices of the questions that fit: picture by picture (and of one, by system text), the longest prompts
        first."""
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
        """A picture when it is its turn, by other processes where they do so; one that had no need of its turn is
        passed over."""
        if self.workers:
            return next(shown for waiting, shown in self._ahead if waiting == picture)
        return self.vlm.preprocessor.show(self.show(picture))

    def seed(self, asked: Asked) -> int:
        """What a question's response is drawn by."""
        return request_seed(self.generation.seed, asked.key)

    def text(self, response: Sequence[int]) -> str:
        """The words of a response."""
        return self.tokenizer.decode(response, skip_special_tokens=True).strip()
