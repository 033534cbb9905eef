"""The engine: answers requests in batches with `generate`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GenerationConfig, LlavaForConditionalGeneration

from safeeraser.benchmark.conversation import IGNORE, Encoded, expand_image, pad, prompt
from safeeraser.benchmark.pictures import open_picture
from safeeraser.infer.requests import Request
from safeeraser.infer.sampling import request_seed, sampler
from safeeraser.model import Preprocessor

SYSTEM = "user"  # whose chat inference continues; the release's, see config/recipe/official.yaml


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
        encoded = [(request, self._encode(request.question)) for request in requests]
        encoded.sort(key=lambda pair: -len(pair[1]))
        for start in range(0, len(encoded), self.batch_size):
            batch = encoded[start : start + self.batch_size]
            texts = self._generate([request for request, _ in batch], [ids for _, ids in batch])
            yield list(zip((request for request, _ in batch), texts, strict=True))

    def _encode(self, question: str) -> list[int]:
        ids = self.preprocessor.tokenizer(prompt(question, SYSTEM))["input_ids"]
        encoded = Encoded(ids, [IGNORE] * len(ids))
        return expand_image(encoded, self.preprocessor.image_token, self.preprocessor.image_length).input_ids

    @torch.inference_mode()
    def _generate(self, requests: list[Request], rows: list[list[int]]) -> list[str]:
        tokenizer, settings = self.preprocessor.tokenizer, self.generation
        input_ids = torch.tensor(pad(rows, self.preprocessor.pad_token, left=True))
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(input_ids.shape[1]) >= input_ids.shape[1] - lengths[:, None]
        seeds = [request_seed(settings.seed, request.key) for request in requests]
        output = self.model.generate(
            input_ids=input_ids.to(self.model.device),
            attention_mask=mask.long().to(self.model.device),
            pixel_values=self._pixels(requests).to(self.model.device, self.model.dtype),
            generation_config=GenerationConfig(
                do_sample=False,  # the noise that `sampler` adds makes the largest score a sample
                max_new_tokens=settings.max_new_tokens,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=self.preprocessor.pad_token,
            ),
            logits_processor=None
            if settings.greedy
            else sampler(seeds, input_ids.shape[1], settings.temperature, settings.top_p),
        )
        new_tokens = output[:, input_ids.shape[1] :]
        return [text.strip() for text in tokenizer.batch_decode(new_tokens, skip_special_tokens=True)]

    def _pixels(self, requests: list[Request]) -> Tensor:
        """The pictures of a batch, (rows, 3, height, width); each file is opened once."""
        opened = {path: self.preprocessor.pixels(open_picture(path)) for path in {r.picture for r in requests}}
        return torch.stack([opened[request.picture] for request in requests])
