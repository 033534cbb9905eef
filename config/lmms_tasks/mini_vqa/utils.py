"""The mini VQA set, as lmms-eval asks for it."""

import os
from pathlib import Path

from datasets import Dataset
from PIL import Image

from safeeraser.benchmark.files import read_json

MINI = Path(os.environ.get("MINI", "dataset/mini"))


def items(_stand_in: Dataset) -> Dataset:
    """The questions, answers and names of the pictures."""
    return Dataset.from_list(read_json(MINI / "vqa.json"))


def picture(item: dict) -> list[Image.Image]:
    """The picture that an item asks about."""
    return [Image.open(MINI / item["image_path"]).convert("RGB")]
