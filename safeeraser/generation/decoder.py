"""The decoder: answers any number of questions, `batch_size` at a time, and does nothing twice.

A picture is encoded, and the beginning that its questions share (system text and picture, nearly all of a prompt) is
read, once for all of them; a question is read once for all of its samples. A response that ends makes room for the next
question while its neighbours go on, so that one which runs to the limit holds up no other.
"""

import functools
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from os.path import commonprefix
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from safeeraser.benchmark.pictures import open_picture
from safeeraser.generation.context import Context
from safeeraser.generation.sampling import Generation, request_seed
from safeeraser.model import VLM, Turn


@dataclass(frozen=True)
class Asked:
    """A question about a picture, or about none. What is drawn depends on `key`; equal keys draw alike."""

    picture: Hashable | None  # a path, or whatever the decoder's `show` opens; equal ones are read once
    question: str
    key: str = ""


@dataclass
class _Row:
    """A question in the decoder's hands: its place in what was asked, its token ids in two parts, its response."""

    number: int
    picture: Hashable | None
    shared: list[int]  # the beginning of its prompt, which is that of all questions on its picture
    own: list[int]  # the rest of it
    seed: int
    response: list[int] = field(default_factory=list)
    ended: bool = False


class Decoder:
    """A model that answers questions. Which questions share a batch does not change what is drawn for each.

    Args:
        vlm: a model in evaluation mode, with or without an adapter on it.
        batch_size: responses at a time.
        agree: what makes of the tokens just drawn, (rows,), those that all processes go on with, where several share
            the model's weights and must therefore take every step together.
        show: opens a picture, in RGB.
    """

    def __init__(
        self,
        vlm: VLM,
        generation: Generation,
        batch_size: int,
        agree: Callable[[Tensor], Tensor] = lambda tokens: tokens,
        show: Callable[[Any], Image.Image] = open_picture,
    ) -> None:
        self.vlm, self.model, self.tokenizer = vlm, vlm.model, vlm.preprocessor.tokenizer
        self.generation, self.batch_size, self.agree, self.show = generation, batch_size, agree, show
        self.context = vlm.preprocessor.context  # tokens that it can tell the places of
        self._ends = vlm.ends
        # The pictures whose beginnings have been read and may be asked about further, and the rows that hold them.
        self._pictures: list[Hashable | None] = []
        self._beginnings: Context | None = None

    @torch.no_grad()
    def answer(self, asked: Sequence[Asked]) -> Iterator[list[tuple[int, str | None]]]:
        """Answer every question; yields (index in `asked`, response) of those that have just ended.

        A response is None where the model's output was not finite, as it may become in float16, or where the prompt
        fills its context.
        """
        self._pictures, self._beginnings = [], None
        prompts = self.prompts(asked)
        if unread := [(number, None) for number, ids in enumerate(prompts) if len(ids) >= self.context]:
            yield unread
        waiting = deque(self._rows(asked, prompts))
        rows = _take(waiting, self.batch_size)
        context = self._begin(rows) if rows else None
        seeds, positions = self._places(rows)
        while rows:
            tokens = self.agree(self.generation.draw(context.logits, seeds, positions))
            positions += 1
            if ended := self._note(rows, tokens, context.logits):
                yield ended
            free = [place for place, row in enumerate(rows) if row.ended]
            if len(free) < len(rows):
                context.read(tokens[:, None])
            if len(free) < len(rows) / 4:
                continue  # prompts are read for several rows together
            if new := _take(waiting, len(free)):
                context.put(free[: len(new)], self._begin(new))
                for place, row in zip(free, new, strict=False):
                    rows[place] = row
            else:
                stay = [place for place, row in enumerate(rows) if not row.ended]
                rows = [rows[place] for place in stay]
                context = context.select(stay) if rows else None
            seeds, positions = self._places(rows)

    def prompts(self, asked: Sequence[Asked]) -> list[list[int]]:
        """The token ids of each question's prompt, the picture's included."""
        place = functools.cache(lambda picture: self.vlm.preprocessor.place(lambda: self.show(picture).size))
        encode = functools.cache(
            lambda question, stands: self.vlm.preprocessor.encode_text(Turn(None, question), stands).input_ids
        )
        return [encode(one.question, place(one.picture) if one.picture is not None else None) for one in asked]

    def _rows(self, asked: Sequence[Asked], prompts: Sequence[list[int]]) -> list[_Row]:
        """The questions that fit, in the order of their turns: picture by picture, the longest prompts first."""
        numbers = defaultdict(list)
        for number, one in enumerate(asked):
            if len(prompts[number]) < self.context:
                numbers[one.picture].append(number)
        groups = []
        for picture, of_picture in numbers.items():
            several = [prompts[number] for number in of_picture]
            # A token is left for each question, since what follows it is told when it is read.
            cut = min(len(commonprefix(several)), min(map(len, several)) - 1)  # noqa: RUF071 (no paths, token ids)
            shared = several[0][:cut]
            seeds = [request_seed(self.generation.seed, asked[number].key) for number in of_picture]
            rows = [
                _Row(number, picture, shared, ids[cut:], seed)
                for number, ids, seed in zip(of_picture, several, seeds, strict=True)
            ]
            groups.append(sorted(rows, key=lambda row: (-len(row.own), row.own)))
        groups.sort(key=lambda rows: -len(rows[0].shared + rows[0].own))
        return [row for rows in groups for row in rows]

    def _begin(self, rows: list[_Row]) -> Context:
        """Read the prompts of `rows`."""
        shared = {row.picture: row.shared for row in rows}
        if new := [picture for picture in shared if picture not in self._pictures]:
            beginnings = Context(self.model)
            beginnings.read([shared[picture] for picture in new], self._inputs(new))
            self._beginnings = self._beginnings.join(beginnings) if self._beginnings else beginnings
            self._pictures += new
        asks = [(row.picture, tuple(row.own)) for row in rows]
        prompts = {ask: number for number, ask in enumerate(dict.fromkeys(asks))}
        context = self._beginnings.select([self._pictures.index(picture) for picture, _ in prompts])
        context.read([own for _, own in prompts])
        # Pictures come one after the other, so only the last one can be asked about again.
        last = self._pictures.index(rows[-1].picture)
        self._pictures, self._beginnings = [self._pictures[last]], self._beginnings.select([last])
        return context.select([prompts[ask] for ask in asks])

    def _inputs(self, pictures: list[Hashable | None]) -> dict[str, Tensor]:
        """What the model is given for the pictures, beside their tokens."""
        shown = [self.vlm.preprocessor.show(self.show(picture)) for picture in pictures if picture]
        return self.vlm.place(self.vlm.preprocessor.lay_out([each.inputs for each in shown]))

    def _places(self, rows: list[_Row]) -> Tensor:
        """What the next tokens are drawn by: the rows' seeds and how many tokens each has, int64, (2, rows)."""
        each = [[row.seed, len(row.response)] for row in rows]
        return torch.tensor(each, dtype=torch.long, device=self.model.device).reshape(-1, 2).T

    def _note(self, rows: list[_Row], drawn: Tensor, logits: Tensor) -> list[tuple[int, str | None]]:
        """Add the tokens to the responses; returns those that end with them."""
        # All that is told of a step in one piece, since on a GPU each piece is waited for.
        tokens, finite = torch.stack([drawn, logits.isfinite().all(dim=1)]).tolist()
        ended = []
        for place, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            if row.ended:
                continue
            row.ended = token in self._ends or len(row.response) + 1 == self.generation.max_new_tokens
            if token not in self._ends:  # which need not be a special one, that decoding leaves out
                row.response.append(token)
            if row.ended:
                text = self.tokenizer.decode(row.response, skip_special_tokens=True).strip()
                # What is not finite once stays so, in the row's own keys and values.
                ended.append((row.number, text if finite[place] else None))
        return ended


def _take(waiting: deque[_Row], count: int) -> list[_Row]:
    return [waiting.popleft() for _ in range(min(count, len(waiting)))]
