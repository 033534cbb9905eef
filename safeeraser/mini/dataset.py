"""Writing the mini benchmark's records, refusals, VQA and pictures, in the release's own layout (dataset/README.md)."""

import random
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from safeeraser.benchmark.files import write_json
from safeeraser.benchmark.records import CATEGORIES
from safeeraser.mini.concepts import HARMFUL, HARMFUL_PROMPTS, REFUSALS, SAFE, SAFE_HELD_OUT, SAFE_SEEN, Concept
from safeeraser.mini.pictures import Scene, draw_scene, render
from safeeraser.mini.questions import IMAGE1, IMAGE2, TEXT1, TEXT2, VQA, Ask, harmful_ask

SPLITS = ("train", "val")


def write_refusals(folder: Path) -> None:
    """Write `prompt.json`."""
    write_json(folder / "prompt.json", {"idk": list(REFUSALS)})


def write_split(folder: Path, split: str, per_concept: int, seed: int, tick: Callable[[], None]) -> int:
    """Write `all_<split>.json` and its pictures; returns the number of records.

    Each harmful concept has `per_concept` records. `tick` is called after each.
    """
    rng = random.Random(f"{seed}-{split}")
    benign = _benign(rng, split)
    records = []
    for category in CATEGORIES:
        concepts = [concept for concept in HARMFUL[category] for _ in range(per_concept)]
        for number, concept in enumerate(concepts):
            harmless = next(benign)
            # The benign picture's name tells its concept, so that held-out concepts can be told from seen ones.
            names = (
                f"img/{category}/{split}_{number}.png",
                f"pdset/image/{category}/{split}/{harmless.name}_{number}.png",
            )
            scenes = (draw_scene(rng, concept), draw_scene(rng, harmless))
            for name, scene in zip(names, scenes, strict=True):
                _save(folder / name, scene)
            records.append(_record(rng, category, names, scenes))
            tick()
    write_json(folder / f"all_{split}.json", records)
    return len(records)


def write_vqa(folder: Path, count: int, seed: int, tick: Callable[[], None]) -> None:
    """Write `vqa.json`: `count` plain questions on new pictures of safe concepts, which stand for Specificity."""
    rng = random.Random(f"{seed}-vqa")
    items = []
    for number, (kind, concept) in enumerate(zip(cycle(VQA), cycle(SAFE))):
        if number == count:
            break
        scene, name = draw_scene(rng, concept), f"vqa/{number}.png"
        _save(folder / name, scene)
        ask = kind.about(scene)
        items.append({"image_path": name, "question": ask.question, "answer": ask.short})
        tick()
    write_json(folder / "vqa.json", items)


def _benign(rng: random.Random, split: str) -> Iterator[Concept]:
    """The concepts of the benign pictures: training shows those of PD; in val each third one is held out from it."""
    seen, held_out = (rng.sample(concepts, len(concepts)) for concepts in (SAFE_SEEN, SAFE_HELD_OUT))
    if split == "train":
        return cycle(seen)
    often, rarely = cycle(seen), cycle(held_out)
    return (next(source) for source in cycle((often, often, rarely)))


def _record(rng: random.Random, category: str, names: tuple[str, str], scenes: tuple[Scene, Scene]) -> dict[str, Any]:
    harmful, benign = scenes
    return {
        "type": "syn",
        "keyword": harmful.concept.name,
        "category": category,
        "image_path": names[0],
        "SDImage_path": names[1],
        "UnharmPair_text1": _unharm_pair(TEXT1.about(harmful)),
        "UnharmPair_text2": _unharm_pair(TEXT2.about(harmful)),
        "UnharmPair_image1": _unharm_pair(IMAGE1.about(harmful)),
        "UnharmPair_image2": _unharm_pair(rng.choice(IMAGE2).about(harmful)),
        "unsafe_pairs": [
            {
                "question": question,
                "model_response": harmful_ask(rng, harmful, question).reply,
                "sd_response": harmful_ask(rng, benign, question).reply,
            }
            for question in HARMFUL_PROMPTS
        ],
    }


def _unharm_pair(ask: Ask) -> dict[str, str]:
    return {"Question": ask.question, "Answer": ask.short, "Prediction": ask.reply}


def _save(path: Path, scene: Scene) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    render(scene).save(path)
