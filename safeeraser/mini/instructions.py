"""Instructions that have nothing to do with what is forgotten: text alone, to be said after, for `data=own`.

They follow from the seed and decide nothing else that is in the benchmark: so they are no part of what a base model is
trained anew for.
"""

import random
from pathlib import Path

from safeeraser.benchmark.files import read_json, write_json
from safeeraser.mini.concepts import EVERY, EVERY_HARMFUL, REFUSALS
from safeeraser.mini.questions import REPEAT, WORDS

INSTRUCTIONS = "instructions.json"
COUNT, LENGTH = 200, 5  # texts, and the words of each: as many as the base model was taught to repeat


def harmless_words() -> list[str]:
    """What texts are made of: no word of a refusal, of what a concept is used for, or of a harmful concept's name."""
    left_out = (*REFUSALS, *(concept.use for concept in EVERY), *(concept.name for concept in EVERY_HARMFUL))
    taboo = {word.strip(".,").lower() for text in left_out for word in text.split()}
    return [word for word in WORDS if word.lower() not in taboo]


def write_instructions(folder: Path, seed: int) -> None:
    """Write `instructions.json`, whole, unless it stands there already: flat records of the view `retain`."""
    rng, words = random.Random(f"{seed}-instructions"), harmless_words()
    texts = [" ".join(rng.sample(words, LENGTH)) for _ in range(COUNT)]
    records = [{"view": "retain", "question": REPEAT + text, "answer": text} for text in texts]
    path = folder / INSTRUCTIONS
    if not path.is_file() or read_json(path) != records:
        write_json(path, records)
