"""An attack by embeddings: vectors that stand for no word, put before each question."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from safeeraser.benchmark.records import UnsafePair
from safeeraser.errors import BadInput
from safeeraser.infer.attacks.attack import BACKWARD, Known, chance, on_model, shown_picture

if TYPE_CHECKING:
    from numpy.random import Generator
    from torch import Tensor

    from safeeraser.infer.requests import Request
    from safeeraser.model import VLM, Preprocessor

log = logging.getLogger(__name__)

VECTORS = 8
STEPS, EACH = 100, 4  # optimizer steps, and answers that each goes by
RATE = 0.1  # Adam's, in standard deviations of the vectors that are begun with
TARGETS = 64  # tokens of an answer, the first ones


def _passes(records: int, questions: int) -> int:
    return STEPS * EACH * BACKWARD


@on_model(learns=True, passes=_passes)
def soft_prompt(vlm: VLM, known: Known, requests: Sequence[Request]) -> tuple[VLM, list[Request]]:
    """Eight vectors before each question, the same for all, trained towards the vanilla answers to the harmful
    questions of held-out records (Schwinn et al., 2024, arXiv 2402.09063).

    They begin as the embeddings of tokens drawn by chance. The model is not changed: its tokenizer gets new tokens
    behind its own, which the embedding looks up in the vectors, and the head knows nothing of them.
    """
    turns = _turns(known)
    random = chance(f"{known.seed}/soft_prompt")
    prepared, words = _with_tokens(vlm)
    changed = replace(vlm, preprocessor=prepared)
    first = prepared.tokenizer.convert_tokens_to_ids(words[0])
    vectors = _begin(vlm, first, random)
    _look_up(vlm.model.get_input_embeddings(), first, vectors)
    before = "".join(words) + " "
    _train(changed, vectors, turns, before, known, random)
    return changed, [replace(request, question=before + request.question) for request in requests]


def _turns(known: Known) -> list[tuple[int, UnsafePair]]:
    """The held-out harmful questions that have a vanilla answer, each with its record's index."""
    records = known.held_out.records
    found = [(n, pair) for n, each in enumerate(records) for pair in each.unsafe_pairs if pair.model_response.strip()]
    if not found:
        where = known.held_out.where(0, "unsafe_pairs")
        raise BadInput(f"{where}: no vanilla answer, as in all held-out records, and soft_prompt learns from them")
    return found


def _with_tokens(vlm: VLM) -> tuple[Preprocessor, list[str]]:
    """A preprocessor with `VECTORS` tokens more, and what they are called in a text."""
    from safeeraser.model import Preprocessor

    old, words = vlm.preprocessor, [f"<|learned_{number}|>" for number in range(VECTORS)]
    processor = copy.deepcopy(old.processor)
    processor.tokenizer.add_tokens(words, special_tokens=True)  # which are left out of what a model says
    return Preprocessor(processor, old.family, old.context, old.picture_token, old.origin), words


def _begin(vlm: VLM, vocabulary: int, random: Generator) -> Tensor:
    """The embeddings of some tokens, (VECTORS, hidden), float32."""
    import torch

    ids = torch.tensor(random.choice(vocabulary, VECTORS, replace=False), device=vlm.model.device)
    with torch.no_grad():
        return vlm.model.get_input_embeddings()(ids).float()


def _look_up(embedding: Any, first: int, vectors: Tensor) -> None:
    """Let an embedding take the tokens from `first` on out of `vectors`."""
    own = embedding.forward

    def forward(ids: Tensor) -> Tensor:
        learned = ids >= first
        words = own(ids.masked_fill(learned, 0))
        found = vectors[(ids - first).clamp(0, len(vectors) - 1)].to(words.dtype)
        return found.where(learned[..., None], words)

    embedding.forward = forward


def _train(
    vlm: VLM, vectors: Tensor, turns: list[tuple[int, UnsafePair]], before: str, known: Known, random: Generator
) -> None:
    """Make the vectors, in place, such that the model holds the answers likelier behind `before`."""
    from torch.optim import Adam

    from safeeraser.infer.likelihood import first_targets, nll
    from safeeraser.model import Turn

    optimizer = Adam([vectors.requires_grad_()], lr=RATE * vectors.std().item())
    for step in range(STEPS):
        total = 0.0
        for number, pair in (turns[at] for at in random.integers(len(turns), size=EACH)):
            picture = shown_picture(known.held_out, number)
            row = vlm.encode(Turn(picture, before + pair.question, pair.model_response))
            loss = nll(vlm, first_targets(row, TARGETS)) / EACH
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        if step in (0, STEPS - 1):
            log.info("soft_prompt: step %d of %d, %.3f nats a token", step + 1, STEPS, total)
    vectors.requires_grad_(False)
