"""Answers questions in batches with transformers' own `generate`, for models that `Decoder` cannot serve.

A sliding window counts gaps as places, so rows that began at different times cannot share a batch. Here the rows of a
batch begin together, with prompts padded on the left, and the batch lasts until its last response ends. Each prompt is
read in full. A picture is opened and prepared once for successive questions about it. It is also encoded only once, if
the model takes picture features as input (see `model.vision.see`).
"""

from collections.abc import Hashable, Iterator, Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from safeeraser.generation.answering import Answering, Asked
from safeeraser.model.turns import Row
from safeeraser.model.vision import Seen, features_of, see


class Batched(Answering):
    """A model that answers questions. The draws for a question do not depend on the others in its batch."""

    shares_beginnings = False

    @torch.no_grad()
    def answer(self, asked: Sequence[Asked]) -> Iterator[list[tuple[int, str | None]]]:
        """See `Answering.answer`."""
        prompts, seen = self.prompts(asked), dict[Hashable, Seen]()
        if unread := self.unread(prompts):
            yield unread
        turns = [number for group in self.turns(asked, prompts) for number in group]
        for first in range(0, len(turns), self.batch_size):
            numbers = turns[first : first + self.batch_size]
            pictures = [asked[number].picture for number in numbers]
            seen = self._look(pictures, seen)
            shown = [seen[picture] for picture in pictures if picture is not None]
            rows = [
                Row(prompts[number], [], seen[picture].inputs if picture is not None else {})
                for number, picture in zip(numbers, pictures, strict=True)
            ]
            batch = self.vlm.join(rows, "left")
            seeds = torch.tensor([self.seed(asked[number]) for number in numbers], device=self.model.device)
            most = [self.most(prompts[number]) for number in numbers]
            yield list(zip(numbers, self._generate(batch | features_of(shown), seeds, most), strict=True))

    def _look(self, pictures: Sequence[Hashable | None], before: dict[Hashable, Seen]) -> dict[Hashable, Seen]:
        """Each picture as the model sees it, reused from the last batch (`before`) if it was there."""
        wanted = dict.fromkeys(picture for picture in pictures if picture is not None)
        return {picture: before.get(picture) or see(self.vlm, self.prepare(picture).inputs) for picture in wanted}

    def _generate(self, batch: dict, seeds: Tensor, most: list[int]) -> list[str | None]:
        """The rows' responses, each with at most `most` tokens."""
        start = batch["input_ids"].shape[1]
        drawing = _Drawing(self, seeds, start)
        how = GenerationConfig(
            do_sample=False,  # `drawing` leaves only one token
            max_new_tokens=max(most),
            eos_token_id=sorted(self.ends),
            pad_token_id=self.vlm.preprocessor.pad_token,
        )
        model = self.vlm.bare
        # Otherwise `generate` would add the model's own settings, such as a penalty, to `how`.
        usual, model.generation_config = model.generation_config, GenerationConfig()
        try:
            output = self.model.generate(
                **batch, generation_config=how, logits_processor=LogitsProcessorList([drawing])
            )
        finally:
            model.generation_config = usual
        finite = torch.stack(drawing.finite).T.tolist()
        rows = zip(output[:, start:].tolist(), finite, most, strict=True)
        return [self._response(row[:length], flags[:length]) for row, flags, length in rows]

    def _response(self, tokens: list[int], finite: list[bool]) -> str | None:
        """The text of a row up to its first end token; None if some logits for it were not finite."""
        length = next((place for place, token in enumerate(tokens) if token in self.ends), len(tokens))
        return self.text(tokens[:length]) if all(finite[: length + 1]) else None


class _Drawing(LogitsProcessor):
    """Masks every token of a row but the one that `Generation.draw` draws.

    Attributes:
        finite: for each step, whether each row's logits are finite, (rows,).
    """

    def __init__(self, asked: Batched, seeds: Tensor, start: int) -> None:
        self.generation, self.agree, self.seeds, self.start = asked.generation, asked.agree, seeds, start
        self.finite: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.finite.append(scores.isfinite().all(dim=1))
        positions = torch.full_like(self.seeds, input_ids.shape[1] - self.start)
        drawn = self.agree(self.generation.draw(scores, self.seeds, positions))
        return torch.full_like(scores, float("-inf")).scatter(1, drawn[:, None], 0.0)
