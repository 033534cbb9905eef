"""A model reads answers: rows of prompt and answer in batches, and which of their tokens are measured."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from safeeraser.audit.inside.pairs import Pair
from safeeraser.benchmark.conversation import IGNORE
from safeeraser.benchmark.pictures import open_picture
from safeeraser.errors import BadInput
from safeeraser.model import VLM, Row, Seen, Turn, features_of, see


@dataclass(frozen=True)
class Batch:
    """Some answers behind their prompts.

    Attributes:
        inputs: what the model takes.
        spans: of each row the places of the tokens that are measured.
    """

    inputs: dict[str, Any]
    spans: list[range]

    def places(self, back: int = 0) -> Tensor:
        """The places of all tokens that are measured, of the rows laid end to end, (N,); or so many before them."""
        length = self.inputs["input_ids"].shape[1]
        places = [row * length + place - back for row, span in enumerate(self.spans) for place in span]
        return torch.tensor(places, dtype=torch.long, device=self.inputs["input_ids"].device)

    @property
    def targets(self) -> Tensor:
        """The tokens that are measured, (N,)."""
        return self.inputs["input_ids"].flatten()[self.places()]

    def by_row(self, values: Tensor) -> tuple[Tensor, ...]:
        """What was found of the tokens, (N, ...), row by row."""
        return values.split([len(span) for span in self.spans])


def batches(vlm: VLM, said: Sequence[tuple[Pair, str]], batch_size: int, most: int | None = None) -> Iterator[Batch]:
    """Answers to the questions of pairs, in their order, `batch_size` at a time.

    A picture is encoded once for all of its answers that follow each other, where the model takes what its vision made
    of it.

    Args:
        most: tokens that are measured of an answer, the first ones.

    Raises:
        BadInput: a picture cannot be read, the model's template or tokenizer not be used, or question and answer are
            longer than its context.
    """
    encode = cache(lambda question, answer, place: vlm.preprocessor.encode_text(Turn(None, question, answer), place))
    seen: dict[Path, tuple[str, Seen]] = {}
    for first in range(0, len(said), batch_size):
        part = said[first : first + batch_size]
        pictures = dict.fromkeys(pair.picture for pair, _ in part)
        seen = {picture: seen.get(picture) or _look(vlm, picture) for picture in pictures}
        rows, spans = [], []
        for pair, answer in part:
            place, shown = seen[pair.picture]
            row, span = _row(encode, pair, answer, place)
            if (tokens := len(row.input_ids)) > vlm.preprocessor.context:
                raise BadInput(
                    f"{pair.key}: question and answer take {tokens} tokens, and the model's context holds "
                    f"{vlm.preprocessor.context}"
                )
            rows.append(Row(row.input_ids, row.labels, shown.inputs))
            spans.append(span[:most])
        yield Batch(vlm.join(rows) | features_of([seen[pair.picture][1] for pair, _ in part]), spans)


@torch.no_grad()
def _look(vlm: VLM, picture: Path) -> tuple[str, Seen]:
    """What stands for a picture in the text, and the picture as the model sees it."""
    shown = vlm.preprocessor.show(open_picture(picture))
    return shown.text, see(vlm, shown.inputs)


def _row(encode: Callable[[str, str, str], Row], pair: Pair, answer: str, place: str) -> tuple[Row, range]:
    """The row of an answer, less its picture, and the places of its tokens that are measured."""
    row = encode(pair.question, answer, place)
    ids, start = row.input_ids, row.labels.count(IGNORE)
    first, last = pair.span(answer)

    def reach(text: str) -> int:
        """How many of the row's tokens those of the answer's beginning are."""
        if not text.strip():
            return start
        beginning = encode(pair.question, text, place).input_ids
        return sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(ids, beginning, strict=False)))

    return row, range(reach(answer[:first]), len(ids) if last == len(answer) else reach(answer[:last]))
