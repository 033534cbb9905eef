"""Attacks that use the model's gradients: a picture, and a soft prompt, that lead the model to the answer.

Gradients are computed for one row at a time. So there is no padding, and no row depends on another. Also, the hidden
states of a single row of a large model already fill much memory.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from safeeraser.benchmark.pictures import open_picture
from safeeraser.benchmark.records import DataFile
from safeeraser.errors import BadInput
from safeeraser.infer.attacks import BACKWARD, Known, attack, chance, shown_picture
from safeeraser.infer.requests import Redrawn, Request

if TYPE_CHECKING:
    from safeeraser.model.preprocess import Preprocessor
    from safeeraser.model.vlm import VLM

log = logging.getLogger(__name__)

EPSILON = 8  # of 255: the largest change of a pixel's colour value
PICTURE_STEPS = 20  # each of 1 of 255
PICTURE_TARGETS = 10  # the first tokens of an answer
LEVELS = 255
VECTORS = 8
PROMPT_STEPS, EACH = 100, 4  # optimizer steps, and answers in each step
PROMPT_TARGETS = 64  # the first tokens of an answer
RATE = 0.1  # Adam's learning rate, in standard deviations of the initial vectors


def _no_square(prepared: Preprocessor) -> str:
    """Why no picture gives the model exactly the pixels that were optimised; empty if one does."""
    pixels = prepared.outline(lambda: (64, 64)).inputs.get("pixel_values")
    if prepared.same_for_all and pixels is not None and pixels.dim() == 4 and len(pixels) == 1:
        return ""
    return (
        f"model family {prepared.family.name} cuts pictures into tiles or patches; pgd knows those alone that make one "
        "square of a fixed size of each"
    )


@attack(
    on="model",
    informed=True,
    needs_picture=True,
    lacks=_no_square,
    passes=lambda records, questions: records * questions * (PICTURE_STEPS + 1) * BACKWARD,
)
def pgd(vlm: VLM, known: Known, requests: Sequence[Request]) -> tuple[VLM, list[Request]]:
    """Projected gradient descent on the pixels (Madry et al., 2018, arXiv 1706.06083; on chat models arXiv 2306.15447).

    Each step changes colours by 1 of 255 along the gradient's sign, up to 8 of 255 in all. The steps make the first ten
    tokens of the vanilla answers to the record's harmful questions on that picture likelier. The result has 8 bits per
    colour, as a picture file does, and the model's own size, which its processor leaves unchanged. The attack keeps the
    step after which the answers are likeliest. The result depends on record and original picture, not on the question.
    """
    pictures: dict[tuple[int, Path | None], Redrawn] = {}
    for request in requests:
        if (about := (request.record, request.file)) not in pictures:
            pictures[about] = _lead(vlm, request, known.data)
    return vlm, [replace(request, picture=pictures[request.record, request.file]) for request in requests]


def _lead(vlm: VLM, request: Request, data: DataFile) -> Redrawn:
    """The attacked picture of the request, at the model's size."""
    import torch

    from safeeraser.infer.checkpoint import first_targets, nll
    from safeeraser.model.turns import Turn

    assert request.file  # `Attack.put` refuses views without a picture
    picture, harmful = open_picture(request.file), request.view.picture == "harmful"
    pairs = data.records[request.record].unsafe_pairs
    wanted = [(pair.question, pair.model_response if harmful else pair.sd_response) for pair in pairs]
    turns = [Turn(picture, question, answer) for question, answer in wanted if answer.strip()]
    if not turns:
        raise BadInput(f"{data.where(request.record, 'unsafe_pairs')}: no vanilla answer, which pgd leads the model to")
    rows = [first_targets(vlm.encode(turn), PICTURE_TARGETS) for turn in turns]
    shape = vlm.preprocessor.processor.image_processor
    mean, deviation = (
        torch.tensor(each, device=vlm.model.device)[:, None, None] for each in (shape.image_mean, shape.image_std)
    )
    pixels = rows[0].inputs["pixel_values"].to(vlm.model.device)
    start = ((pixels * deviation + mean) * LEVELS).round().clamp(0, LEVELS)  # (1, 3, side, side), integer values
    levels, best, least = start, start, float("inf")
    for _ in range(PICTURE_STEPS + 1):
        shown, total = levels.clone().requires_grad_(), 0.0
        for row in rows:
            given = vlm.place({"pixel_values": (shown / LEVELS - mean) / deviation})
            loss = nll(vlm, row, given) / len(rows)
            loss.backward()
            total += loss.item()
        if total < least:
            best, least = levels, total
        levels = (levels - shown.grad.sign()).clamp(start - EPSILON, start + EPSILON).clamp(0, LEVELS)
    drawn = Image.fromarray(best[0].permute(1, 2, 0).byte().cpu().numpy())
    return Redrawn(request.file, hashlib.sha256(drawn.tobytes()).hexdigest(), lambda *_: drawn)


@attack(on="model", learns=True, passes=lambda records, questions: PROMPT_STEPS * EACH * BACKWARD)
def soft_prompt(vlm: VLM, known: Known, requests: Sequence[Request]) -> tuple[VLM, list[Request]]:
    """Eight trained vectors before each question, the same for all (Schwinn et al., 2024, arXiv 2402.09063).

    They are trained to make the vanilla answers to the harmful questions of held-out records likelier, starting from
    the embeddings of randomly drawn tokens. The weights do not change: the tokenizer gets new tokens, the embedding
    layer looks them up in the vectors, and the output head does not know them.
    """
    import torch
    from torch.optim import Adam

    from safeeraser.infer.checkpoint import first_targets, nll
    from safeeraser.model.preprocess import Preprocessor
    from safeeraser.model.turns import Turn
    from safeeraser.model.vlm import look_up

    held_out, random = known.held_out, chance(f"{known.seed}/soft_prompt")
    records = enumerate(held_out.records)
    answered = [(n, pair) for n, each in records for pair in each.unsafe_pairs if pair.model_response.strip()]
    if not answered:
        where = held_out.where(0, "unsafe_pairs")
        raise BadInput(f"{where}: no vanilla answer, as in all held-out records, and soft_prompt learns from them")
    old, words = vlm.preprocessor, [f"<|learned_{number}|>" for number in range(VECTORS)]
    processor = copy.deepcopy(old.processor)
    processor.tokenizer.add_tokens(words, special_tokens=True)  # special: decoding leaves them out of responses
    prepared = Preprocessor(processor, old.family, old.context, old.picture_token, old.origin)
    changed, first = replace(vlm, preprocessor=prepared), prepared.tokenizer.convert_tokens_to_ids(words[0])
    begun = torch.tensor(random.choice(first, VECTORS, replace=False), device=vlm.model.device)
    with torch.no_grad():
        vectors = vlm.model.get_input_embeddings()(begun).float()  # (VECTORS, hidden)
    look_up(vlm.model, first, vectors)
    before = "".join(words) + " "
    optimizer = Adam([vectors.requires_grad_()], lr=RATE * vectors.std().item())
    for step in range(PROMPT_STEPS):
        total = 0.0
        for number, pair in (answered[at] for at in random.integers(len(answered), size=EACH)):
            turn = Turn(shown_picture(held_out, number), before + pair.question, pair.model_response)
            loss = nll(changed, first_targets(changed.encode(turn), PROMPT_TARGETS)) / EACH
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        if step in (0, PROMPT_STEPS - 1):
            log.info("soft_prompt: step %d of %d, %.3f nats a token", step + 1, PROMPT_STEPS, total)
    vectors.requires_grad_(False)
    return changed, [replace(request, question=before + request.question) for request in requests]
