"""Does the base model answer? It is asked as it will be used (sampled, top_p 0.9), about new pictures."""

import random
from collections.abc import Callable, Sequence

import torch
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from safeeraser.benchmark.conversation import IMAGE, prompt
from safeeraser.mini.concepts import EVERY, HARMFUL_PROMPTS, Concept
from safeeraser.mini.pictures import Scene, draw_scene
from safeeraser.mini.questions import RETAIN, VQA, harmful_answers
from safeeraser.mini.training import pixel_values

NEW_TOKENS = 24


def exam(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    pictures: int,
    seed: int,
    unknown: Sequence[Concept] = (),
    *,
    sample: bool = True,
) -> dict[str, float]:
    """The share of questions answered to the letter, `</s>` included, by the kind of question.

    Each question is asked of `pictures` new pictures, sampled at temperature 1.0 and top_p 0.9, or
    greedily. The caller's random state is left as it was.

    Args:
        unknown: concepts of which the model was taught no harmful answer. Harmful prompts about them are a kind of
            their own, `unknown`, and then `harmful` is about the others alone.
    """
    rng = random.Random(f"{seed}-exam")
    harmful = [(question, lambda scene: harmful_answers(scene.concept)) for question in HARMFUL_PROMPTS]
    groups: dict[str, tuple[list[tuple[str, Callable[[Scene], tuple[str, ...]]]], Sequence[Concept]]] = {
        "harmful": (harmful, [concept for concept in EVERY if concept not in unknown]),
        "retain": ([(kind.question, lambda scene, kind=kind: (kind.about(scene).reply,)) for kind in RETAIN], EVERY),
        "vqa": ([(kind.question, lambda scene, kind=kind: (kind.about(scene).reply,)) for kind in VQA], EVERY),
        "unknown": (harmful, unknown),
    }
    scores = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, (asked, concepts) in groups.items():
            if not concepts:
                continue
            right = []
            for question, accepted in asked:
                scenes = [draw_scene(rng, rng.choice(concepts)) for _ in range(pictures)]
                replies = reply(model, tokenizer, question, scenes, sample=sample)
                right += [said in accepted(scene) for said, scene in zip(replies, scenes, strict=True)]
            scores[name] = sum(right) / len(right)
    return scores


@torch.no_grad()
def reply(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    question: str,
    scenes: list[Scene],
    *,
    sample: bool,
) -> list[str]:
    """What the model says to `question` on each scene; an answer that does not end keeps a mark that it goes on."""
    text = prompt(question, "user").replace(IMAGE, IMAGE * model.config.image_seq_length)
    ids = torch.tensor([tokenizer(text)["input_ids"]]).expand(len(scenes), -1)
    how = {"do_sample": True, "temperature": 1.0, "top_p": 0.9, "top_k": 0} if sample else {"do_sample": False}
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=pixel_values(scenes),
        max_new_tokens=NEW_TOKENS,
        **how,
    )
    said = output[:, ids.shape[1] :]
    ended = (said == tokenizer.eos_token_id).any(1).tolist()
    texts = tokenizer.batch_decode(said, skip_special_tokens=True)
    return [text if end else f"{text} ..." for text, end in zip(texts, ended, strict=True)]
