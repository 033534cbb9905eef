"""Instructions that have nothing to do with what is forgotten: text alone, to be said after, for `data=own`.

They follow from the seed and decide nothing else that is in the benchmark: so they are no part of what a base model is
trained anew for.
"""

import random
from pathlib import Path

from safeeraser.benchmark.files import read_json, write_json
from safeeraser.mini.concepts import EVERY, EVERY_HARMFUL
from safeeraser.mini.questions import REPEAT, words
from safeeraser.mini.settings import Settings
from safeeraser.mini.texts import Texts

INSTRUCTIONS = "instructions.json"
COUNT, LENGTH = 200, 5  # texts, and the words of each: as many as a model of size tiny was taught to repeat


def harmless_words(texts: Texts) -> list[str]:
    """What texts are made of: no word of a refusal, of what a concept is used for, or of a harmful concept's name."""
    left_out = (*texts.refusals, *map(texts.content, EVERY), *(concept.name for concept in EVERY_HARMFUL))
    taboo = {word.strip(".,").lower() for text in left_out for word in text.split()}
    return [word for word in words(texts) if word.lower() not in taboo]


def write_instructions(folder: Path, settings: Settings) -> None:
    """Write `instructions.json`, whole, unless it stands there already: flat records of the view `retain`."""
    rng, harmless = random.Random(f"{settings.seed}-instructions"), harmless_words(settings.wording)
    texts = [" ".join(rng.sample(harmless, LENGTH)) for _ in range(COUNT)]
    records = [{"view": "retain", "question": REPEAT + text, "answer": text} for text in texts]
    path = folder / INSTRUCTIONS
    if not path.is_file() or read_json(path) != records:
        write_json(path, records)
