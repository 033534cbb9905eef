"""The mini VQA set, as lmms-eval asks for it. It needs nothing of this project: the harness has its own environment."""

import json
import os
from pathlib import Path

from datasets import Dataset
from PIL import Image

MINI = Path(os.environ.get("MINI") or Path(__file__).parents[3] / "dataset" / "mini")


def items(_stand_in: Dataset) -> Dataset:
    """The questions, answers and names of the pictures."""
    return Dataset.from_list(json.loads((MINI / "vqa.json").read_text(encoding="utf-8")))


def picture(item: dict) -> list[Image.Image]:
    """The picture that an item asks about."""
    with Image.open(MINI / item["image_path"]) as opened:
        return [opened.convert("RGB")]
