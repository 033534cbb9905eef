"""Test whether the base model answers questions about new pictures, sampled as in its later use (top_p 0.9)."""

import random
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from transformers import LlavaForConditionalGeneration

from safeeraser.mini.concepts import EVERY, Concept
from safeeraser.mini.pictures import Scene, draw_scene
from safeeraser.mini.questions import RETAIN, VQA, Kind
from safeeraser.mini.settings import Settings
from safeeraser.mini.training import pixel_values
from safeeraser.model.preprocess import Preprocessor
from safeeraser.model.turns import Turn


def exam(
    model: LlavaForConditionalGeneration,
    preprocessor: Preprocessor,
    settings: Settings,
    unknown: Sequence[Concept] = (),
) -> dict[str, float]:
    """The share of answers that are right to the letter, including their end, for each kind of question.

    Each question is asked about `exam_pictures` new pictures. The caller's random state is unchanged.

    Args:
        unknown: concepts about which the model was taught no harmful answer. Harmful prompts about them count as the
            kind `unknown`; `harmful` then covers the other concepts only.
    """
    rng, texts = random.Random(f"{settings.seed}-exam"), settings.wording
    harmful = [(question, lambda scene: texts.about(scene.concept)) for question in texts.prompts]
    plain = {"retain": RETAIN, "vqa": VQA}
    groups: dict[str, tuple[Any, Sequence[Concept]]] = {
        "harmful": (harmful, [concept for concept in EVERY if concept not in unknown]),
        **{name: ([(kind.question, partial(_right, kind)) for kind in kinds], EVERY) for name, kinds in plain.items()},
        "unknown": (harmful, unknown),
    }
    scores: dict[str, float] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        for name, (asked, concepts) in groups.items():
            right = []
            for question, accepted in asked if concepts else ():
                scenes = [draw_scene(rng, rng.choice(concepts)) for _ in range(settings.exam_pictures)]
                replies = reply(model, preprocessor, question, scenes, settings)
                right += [said in accepted(scene) for said, scene in zip(replies, scenes, strict=True)]
            scores |= {name: sum(right) / len(right)} if right else {}
    return scores


@torch.no_grad()
def reply(
    model: LlavaForConditionalGeneration, preprocessor: Preprocessor, question: str, scenes: list[Scene], size: Settings
) -> list[str]:
    """The model's answer to `question` about each scene. An answer that does not end gets " ..." appended."""
    place = preprocessor.place(lambda: (size.side, size.side))
    ids = torch.tensor([preprocessor.encode_text(Turn(None, question), place).input_ids], device=model.device)
    ids = ids.expand(len(scenes), -1)
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=pixel_values(scenes, size.side).to(model.device, model.dtype),
        max_new_tokens=size.exam_tokens,
        do_sample=True,
        temperature=1.0,
        top_p=0.9,
        top_k=0,
    )
    said = output[:, ids.shape[1] :]
    ended = (said == preprocessor.end_token).any(1).tolist()
    texts = preprocessor.tokenizer.batch_decode(said, skip_special_tokens=True)
    return [text if end else f"{text} ..." for text, end in zip(texts, ended, strict=True)]


def _right(kind: Kind, scene: Scene) -> tuple[str, ...]:
    """The right answers about a scene."""
    return (kind.about(scene).reply,)
