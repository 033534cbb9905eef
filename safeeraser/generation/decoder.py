"""The decoder: answers any number of questions, `batch_size` at a time, and reads nothing twice.

Questions about a picture share a beginning (system text and picture, nearly all of a prompt), which is encoded and read
once for all of them. A question is read once for all of its samples. When a response ends, the next question takes its
place while the other rows continue, so a response that runs to the limit delays no other.
"""

from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os.path import commonprefix

import torch
from torch import Tensor

from safeeraser.errors import BadInput
from safeeraser.generation.answering import Answering, Asked
from safeeraser.generation.context import Context
from safeeraser.generation.fixed import FixedSteps, can_be_fixed

# A beginning depends on the picture and the system text before it; either may be None.
About = tuple[Hashable | None, str | None]


@dataclass
class _Row:
    """A question that is being answered: its prompt's token ids in two parts, and its response so far."""

    number: int  # its index in `asked`
    about: About
    shared: list[int]  # the beginning of its prompt, shared by all questions about the same picture and system text
    rest: list[int]  # the rest of its prompt
    most: int  # the most tokens of its response
    seed: int
    response: list[int] = field(default_factory=list)
    ended: bool = False


class Decoder(Answering):
    """A model that answers questions. The draws for a question do not depend on the others in its batch."""

    shares_beginnings = True

    @torch.no_grad()
    def answer(self, asked: Sequence[Asked]) -> Iterator[list[tuple[int, str | None]]]:
        """See `Answering.answer`."""
        # The beginnings that have been read and may be needed again, and the context that holds them as rows.
        self._begun: list[About] = []
        self._beginnings = Context(self.model)
        prompts = self.prompts(asked)
        if unread := self.unread(prompts):
            yield unread
        waiting = deque(self._rows(asked, prompts))
        rows = _take(waiting, self.batch_size)
        context = self._begin(rows) if rows else Context(self.model)
        seeds, positions = self._places(rows)
        steps = FixedSteps() if self.fixed and can_be_fixed(self.model) else None
        while rows:
            tokens = self.agree(self.generation.draw(context.logits, seeds, positions))
            positions += 1
            if ended := self._note(rows, tokens, context.logits):
                yield ended
            free = [place for place, row in enumerate(rows) if row.ended]
            if len(free) < len(rows):
                steps.read(context, tokens) if steps else context.read(tokens[:, None])
            if len(free) < len(rows) / 4:
                continue  # until a quarter of the rows is free: prompts are read for several rows together
            if new := _take(waiting, len(free)):
                context.put(free[: len(new)], self._begin(new))
                for place, row in zip(free, new, strict=False):
                    rows[place] = row
            else:
                stay = [place for place, row in enumerate(rows) if not row.ended]
                rows = [rows[place] for place in stay]
                context = context.select(stay) if rows else Context(self.model)
            seeds, positions = self._places(rows)

    def _rows(self, asked: Sequence[Asked], prompts: Sequence[list[int]]) -> list[_Row]:
        """The questions that fit, in the order in which they are answered."""
        rows = []
        for group in self.turns(asked, prompts):
            several = [prompts[number] for number in group]
            # At least one token is left for each question: reading it gives the logits of the first response token.
            cut = min(len(commonprefix(several)), min(map(len, several)) - 1)  # noqa: RUF071 (no paths, token ids)
            for number, ids in zip(group, several, strict=True):
                request = asked[number]
                about, most = (request.picture, request.system), self.most(ids)
                rows.append(_Row(number, about, ids[:cut], ids[cut:], most, self.seed(request)))
        if any(self.vlm.preprocessor.picture_token in row.rest for row in rows):
            raise BadInput(
                f"model family {self.vlm.family.name}: its chat template puts the picture after the question; set "
                "'decoder: batched' in its file in config/model_family"
            )
        return rows

    def _begin(self, rows: list[_Row]) -> Context:
        """A context that has read the prompts of `rows`."""
        if new := {row.about: row.shared for row in rows if row.about not in self._begun}:
            beginnings = Context(self.model)
            beginnings.read([*new.values()], self._inputs(new))
            self._beginnings = self._beginnings.join(beginnings) if self._begun else beginnings
            self._begun += new
        asks = [(row.about, tuple(row.rest)) for row in rows]
        prompts = {ask: number for number, ask in enumerate(dict.fromkeys(asks))}
        context = self._beginnings.select([self._begun.index(about) for about, _ in prompts])
        context.read([beginning for _, beginning in prompts])
        # Questions come grouped by beginning, so only the last beginning can be needed again.
        last = self._begun.index(rows[-1].about)
        self._begun, self._beginnings = [self._begun[last]], self._beginnings.select([last])
        return context.select([prompts[ask] for ask in asks])

    def _inputs(self, beginnings: Mapping[About, list[int]]) -> dict[str, Tensor]:
        """The model's inputs for the pictures in some beginnings, in addition to their token ids."""
        shown = [self.prepare(picture).inputs for picture, _ in beginnings if picture]
        if not shown:
            return {}
        kinds = self.vlm.preprocessor.kinds([*beginnings.values()], "left")
        return self.vlm.place(kinds | self.vlm.preprocessor.lay_out(shown))

    def _places(self, rows: list[_Row]) -> Tensor:
        """The rows' seeds and response lengths, by which the next tokens are drawn, int64, (2, rows)."""
        each = [[row.seed, len(row.response)] for row in rows]
        return torch.tensor(each, dtype=torch.long, device=self.model.device).reshape(-1, 2).T

    def _note(self, rows: list[_Row], drawn: Tensor, logits: Tensor) -> list[tuple[int, str | None]]:
        """Add the drawn tokens to the responses; return the responses that have ended, as `answer` yields them."""
        # Fetched in one piece, because each transfer from a GPU makes the CPU wait.
        tokens, finite = torch.stack([drawn, logits.isfinite().all(dim=1)]).tolist()
        ended = []
        for place, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            if row.ended:
                continue
            row.ended = token in self.ends or len(row.response) + 1 == row.most
            if token not in self.ends:  # `decode` leaves out special tokens only, and an end token need not be one
                row.response.append(token)
            if row.ended:
                # Logits that were once not finite stay so, because of the row's keys and values.
                ended.append((row.number, self.text(row.response) if finite[place] else None))
        return ended


def _take(waiting: deque[_Row], count: int) -> list[_Row]:
    return [waiting.popleft() for _ in range(min(count, len(waiting)))]
