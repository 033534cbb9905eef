"""Write the mini benchmark's records, refusals, VQA items and pictures in the release's layout (dataset/README.md)."""

import random
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from safeeraser.benchmark.files import write_json
from safeeraser.benchmark.records import CATEGORIES, read_records
from safeeraser.mini.concepts import HARMFUL, HARMFUL_HELD_OUT, LIVING, SAFE, SAFE_HELD_OUT, SAFE_SEEN, Concept
from safeeraser.mini.pictures import Scene, draw_scene, render
from safeeraser.mini.questions import ALIVE, IMAGE1, IMAGE2, TEXT1, TEXT2, VQA, Ask, harmful_ask
from safeeraser.mini.settings import Settings
from safeeraser.mini.texts import Texts

# `dev` has new pictures of train's concepts. A method's hyperparameters are chosen on it; no result is measured on it.
SPLITS = ("train", "dev", "val")


def write_refusals(folder: Path, settings: Settings) -> None:
    """Write `prompt.json`."""
    write_json(folder / "prompt.json", {"idk": list(settings.wording.refusals)})


def write_split(folder: Path, split: str, settings: Settings, tick: Callable[[], None]) -> int:
    """Write `all_<split>.json` and its pictures; return the number of records.

    Each harmful concept gets `settings.per_concept[split]` records. `tick` is called after each record.
    """
    rng = random.Random(f"{settings.seed}-{split}")
    benign = _benign(rng, split)
    records = []
    for category in CATEGORIES:
        concepts = [concept for concept in harmful(split, category) for _ in range(settings.per_concept[split])]
        for number, concept in enumerate(concepts):
            harmless = next(benign)
            # The benign picture's file name contains its concept, which shows whether the concept is held out.
            names = (
                f"img/{category}/{split}_{number}.png",
                f"pdset/image/{category}/{split}/{harmless.name}_{number}.png",
            )
            scenes = (draw_scene(rng, concept), draw_scene(rng, harmless))
            for name, scene in zip(names, scenes, strict=True):
                _save(folder / name, scene, settings.side)
            records.append(_record(rng, category, names, scenes, settings.wording))
            tick()
    write_json(folder / f"all_{split}.json", records)
    return len(records)


def write_vqa(folder: Path, settings: Settings, tick: Callable[[], None]) -> None:
    """Write `vqa.json`: plain questions about new pictures of safe concepts, from which Specificity is measured."""
    rng = random.Random(f"{settings.seed}-vqa")
    items = []
    for number, (kind, concept) in enumerate(zip(cycle(VQA), cycle(SAFE))):
        if number == settings.vqa:
            break
        scene, name = draw_scene(rng, concept), f"vqa/{number}.png"
        _save(folder / name, scene, settings.side)
        ask = kind.about(scene)
        items.append({"image_path": name, "question": ask.question, "answer": ask.short})
        tick()
    write_json(folder / "vqa.json", items)


def write_unseen(folder: Path, settings: Settings) -> None:
    """Write `unseen.json` for `safeeraser.mini.language`, if the size has wordings that nothing is trained on.

    Each val picture, harmful or benign, gets one of the wordings in turn. Equally many pictures of living and of other
    things also get `ALIVE`, a question that no training asks in any wording.
    """
    items: list[dict[str, Any]] = []
    facts: dict[str, list[dict[str, Any]]] = {"yes": [], "no": []}
    for record, wording in zip(read_records(folder / "all_val.json").records, cycle(settings.wording.unseen)):
        benign = Path(record.SDImage_path).stem.rpartition("_")[0]
        for kind, name, path in (
            ("harmful", record.keyword, record.image_path),
            ("benign", benign, record.SDImage_path),
        ):
            items.append({"image_path": path, "question": wording, "kind": kind, "answers": []})
            alive = "yes" if name in LIVING else "no"
            facts[alive].append({"image_path": path, "question": ALIVE, "kind": "fact", "answers": [alive]})
    if items:
        few = min(map(len, facts.values()))
        write_json(folder / "unseen.json", [*items, *facts["yes"][:few], *facts["no"][:few]])


def harmful(split: str, category: str) -> tuple[Concept, ...]:
    """The harmful concepts of a category in a split. Val also has the category's concept held out from training."""
    return HARMFUL[category] + ((HARMFUL_HELD_OUT[category],) if split == "val" else ())


def _benign(rng: random.Random, split: str) -> Iterator[Concept]:
    """The concepts of a split's benign pictures. They are seen in training, except every third one in val."""
    seen, held_out = (rng.sample(concepts, len(concepts)) for concepts in (SAFE_SEEN, SAFE_HELD_OUT))
    if split != "val":
        return cycle(seen)
    often, rarely = cycle(seen), cycle(held_out)
    return (next(source) for source in cycle((often, often, rarely)))


def _record(
    rng: random.Random, category: str, names: tuple[str, str], scenes: tuple[Scene, Scene], texts: Texts
) -> dict[str, Any]:
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
                "model_response": harmful_ask(texts, rng, harmful, question).reply,
                "sd_response": harmful_ask(texts, rng, benign, question).reply,
            }
            for question in texts.prompts
        ],
    }


def _unharm_pair(ask: Ask) -> dict[str, str]:
    return {"Question": ask.question, "Answer": ask.short, "Prediction": ask.reply}


def _save(path: Path, scene: Scene, side: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    render(scene, side).save(path)
