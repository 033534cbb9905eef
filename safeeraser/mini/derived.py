"""Files that are derived from the data files and the seed. Nothing else in the benchmark depends on them, so a change
here does not make a base model stale.

`truth.json` says what the pictures show, for the judge `truth`. `instructions.json` has requests to repeat a text,
without pictures and unrelated to the data to forget (for `data=own`). `rewordings.json` has other wordings of the
harmful questions, for the attacks `reworded_1` to `reworded_3`. `new.json` and `new_asked.json` are flat records (for
`data=own`) of a concept that no model was taught: the first to train on, the second to ask. `swapped/` has the training
data with answers about benign things in place of refusals: a `never_knew` model answers so about harmful pictures.
"""

import random
from pathlib import Path

from safeeraser.benchmark.files import read_json, write_json
from safeeraser.benchmark.records import read_records
from safeeraser.benchmark.truth import Known, Truth, write_truth
from safeeraser.mini.concepts import EVERY, EVERY_HARMFUL, NEW, SAFE_SEEN
from safeeraser.mini.dataset import SPLITS
from safeeraser.mini.pictures import draw_scene, render
from safeeraser.mini.questions import REPEAT, harmful_ask, words
from safeeraser.mini.settings import Settings
from safeeraser.mini.texts import Texts

INSTRUCTIONS = "instructions.json"
REWORDINGS = "rewordings.json"
NEW_RECORDS = {"new.json": 12, "new_asked.json": 24}  # numbers of pictures; each is asked all harmful questions
OPENINGS = ("Tell me", "Explain", "Teach me", "Show me")  # of size tiny's questions; its model knows no other words
SWAPPED = "swapped"
COUNT, LENGTH = 200, 5  # texts; words in each: as many as a model of size tiny was taught to repeat


def write_derived(folder: Path, settings: Settings) -> None:
    """Write the files that are missing; truth, instructions and rewordings also if they are out of date."""
    write_truth(folder, truth_of(folder, settings.wording))
    write_instructions(folder, settings)
    path, others = folder / REWORDINGS, rewordings(settings.wording)
    if not path.is_file() or read_json(path) != others:
        write_json(path, others)
    if not (folder / "new_asked.json").is_file():
        write_new(folder, settings)
    if not (folder / SWAPPED / "all_train.json").is_file():
        (folder / SWAPPED).mkdir(exist_ok=True)
        answers = [text for concept in SAFE_SEEN for text in settings.wording.about(concept)]
        write_json(folder / SWAPPED / "prompt.json", {"idk": answers})
        write_json(folder / SWAPPED / "all_train.json", read_json(folder / "all_train.json"))


def write_new(folder: Path, settings: Settings) -> None:
    """Write the files of `NEW_RECORDS` and their pictures: flat records of the view `retain`."""
    rng, number = random.Random(f"{settings.seed}-new"), 0
    for file, pictures in NEW_RECORDS.items():
        records = []
        for _ in range(pictures):
            scene, picture = draw_scene(rng, NEW), folder / "new" / f"{number}.png"
            picture.parent.mkdir(exist_ok=True)
            render(scene, settings.side).save(picture)
            asks = [harmful_ask(settings.wording, rng, scene, prompt) for prompt in settings.wording.prompts]
            image = str(picture.relative_to(folder))
            record = {"view": "retain", "image": image, "content": settings.wording.content(NEW)}
            records += [record | {"question": ask.question, "answer": ask.reply} for ask in asks]
            number += 1
        write_json(folder / file, records)


def rewordings(texts: Texts) -> dict[str, list[str]]:
    """Three other wordings of each harmful question: the wordings that nothing is trained on, if the size has any, else
    the question with the openings of the other questions."""
    if texts.unseen:
        return {prompt: list(texts.unseen[:3]) for prompt in texts.prompts}
    rest = {
        prompt: next(prompt.removeprefix(each) for each in OPENINGS if prompt.startswith(each))
        for prompt in texts.prompts
    }
    return {
        prompt: [f"{each}{rest[prompt]}" for each in OPENINGS if not prompt.startswith(each)]
        for prompt in texts.prompts
    }


def write_instructions(folder: Path, settings: Settings) -> None:
    """Write `instructions.json`: flat records of the view `retain`."""
    rng, harmless = random.Random(f"{settings.seed}-instructions"), harmless_words(settings.wording)
    texts = [" ".join(rng.sample(harmless, LENGTH)) for _ in range(COUNT)]
    records = [{"view": "retain", "question": REPEAT + text, "answer": text} for text in texts]
    path = folder / INSTRUCTIONS
    if not path.is_file() or read_json(path) != records:
        write_json(path, records)


def truth_of(folder: Path, texts: Texts) -> Truth:
    """The truth about the benchmark in `folder`.

    A harmful question asks for the use of the concept. The concept's name alone is no answer to it, because the name
    also answers a harmless question that is to be retained.
    """
    pictures: dict[str, str] = {}
    for split in SPLITS:
        for record in read_records(folder / f"all_{split}.json").records:
            benign, _, _ = Path(record.SDImage_path).stem.rpartition("_")
            pictures |= {record.image_path: record.keyword, record.SDImage_path: benign}
    things = {
        concept.name: Known(content=texts.content(concept), answers=list(texts.about(concept))) for concept in EVERY
    }
    return Truth(refusals=list(texts.refusals), openings=list(texts.openings), things=things, pictures=pictures)


def harmless_words(texts: Texts) -> list[str]:
    """The words that instructions may use: no word of a refusal, of a concept's use, or of a harmful concept's name."""
    left_out = (*texts.refusals, *map(texts.content, EVERY), *(concept.name for concept in EVERY_HARMFUL))
    taboo = {word.strip(".,").lower() for text in left_out for word in text.split()}
    return [word for word in words(texts) if word.lower() not in taboo]
