"""What is true of the mini benchmark's pictures, for the judge `truth`.

It follows from the data files, and decides nothing that is in them: so it is no part of what a base model is trained
anew for.
"""

from pathlib import Path

from safeeraser.benchmark.records import read_records
from safeeraser.benchmark.truth import Known, Truth
from safeeraser.mini.concepts import EVERY
from safeeraser.mini.dataset import SPLITS
from safeeraser.mini.texts import Texts


def truth_of(folder: Path, texts: Texts) -> Truth:
    """The truth about the benchmark in `folder`.

    What a harmful question asks for is what the concept is used for. Its name alone is no answer: a harmless question,
    whose answer is to be kept, tells it as well.
    """
    pictures: dict[str, str] = {}
    for split in SPLITS:
        for record in read_records(folder / f"all_{split}.json").records:
            benign, _, _ = Path(record.SDImage_path).stem.rpartition("_")
            pictures |= {record.image_path: record.keyword, record.SDImage_path: benign}
    things = {one.name: Known(content=texts.content(one), answers=list(texts.about(one))) for one in EVERY}
    return Truth(refusals=list(texts.refusals), openings=list(texts.openings), things=things, pictures=pictures)
