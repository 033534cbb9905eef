"""The engine: answers requests in batches with `generate`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from safeeraser.benchmark.pictures import open_picture
from safeeraser.generation import encode_question, generate
from safeeraser.infer.requests import Request
from safeeraser.infer.sampling import request_seed, sampler
from safeeraser.model import Preprocessor


@dataclass(frozen=True)
class Generation:
    """How responses are drawn; the defaults are the release's."""

    greedy: bool = False
    temperature: float = 1.0
    top_p: float = 0.9
    max_new_tokens: int = 512
    seed: int = 233


class Engine:
    """A model that answers requests. Which requests share a batch does not change what is drawn for each."""

    def __init__(
        self, model: LlavaForConditionalGeneration, preprocessor: Preprocessor, generation: Generation, batch_size: int
    ) -> None:
        self.model, self.preprocessor = model.eval(), preprocessor
        self.generation, self.batch_size = generation, batch_size

    def answer(self, requests: Sequence[Request]) -> Iterator[list[tuple[Request, str]]]:
        """Answer all requests, longest prompt first so that rows of a batch are alike; yields batch by batch."""
        encoded = [(request, encode_question(self.preprocessor, request.question)) for request in requests]
        encoded.sort(key=lambda pair: -len(pair[1]))
        for start in range(0, len(encoded), self.batch_size):
            batch = encoded[start : start + self.batch_size]
            texts = self._generate([request for request, _ in batch], [ids for _, ids in batch])
            yield list(zip((request for request, _ in batch), texts, strict=True))

    def _generate(self, requests: list[Request], prompts: list[list[int]]) -> list[str]:
        settings = self.generation
        seeds = [request_seed(settings.seed, request.key) for request in requests]
        # The noise that `sampler` adds makes the largest score a sample.
        draw = sampler(seeds, max(map(len, prompts)), settings.temperature, settings.top_p)
        return generate(
            self.model,
            self.preprocessor,
            prompts,
            self._pixels(requests),
            settings.max_new_tokens,
            logits_processor=None if settings.greedy else draw,
        )

    def _pixels(self, requests: list[Request]) -> Tensor:
        """The pictures of a batch, (rows, 3, height, width); each file is opened once."""
        opened = {path: self.preprocessor.pixels(open_picture(path)) for path in {r.picture for r in requests}}
        return torch.stack([opened[request.picture] for request in requests])
