"""Specificity on the mini benchmark: the share of held-out plain questions answered right, by exact match.

`python -m safeeraser.mini.vqa --checkpoint_path ADAPTER --output_file OUT/specificity.json`. The figure replaces the
mean of seven VQA benchmarks that the paper reports.
"""

import string
from argparse import Namespace
from typing import Any

from safeeraser.benchmark.files import read_json
from safeeraser.errors import command
from safeeraser.mini import ask


def normalized(text: str) -> str:
    """The text in lower case without punctuation and extra spaces, as exact match compares it."""
    return " ".join(text.lower().translate(str.maketrans("", "", string.punctuation)).split())


def share_right(given: Namespace) -> dict[str, Any]:
    """Ask every question of `vqa.json`. Returns `value` (0..1), `n`, task, model and adapter. Raises `BadInput`."""
    items = read_json(file := given.data / "vqa.json")
    pictures = [ask.picture_of(file, number, item["image_path"]) for number, item in enumerate(items)]
    model = ask.load(given)
    said = model.ask([(item["question"], picture) for item, picture in zip(items, pictures, strict=True)])
    right = [normalized(text) == normalized(item["answer"]) for text, item in zip(said, items, strict=True)]
    result = {"value": sum(right) / len(right), "n": len(right), "task": "mini VQA, exact match, greedy"}
    return result | {"model_path": given.model_path, "checkpoint": model.checkpoint}


@command
def main() -> None:
    """Measure, write the result, print it."""
    result = ask.measure(__doc__, "dataset/mini", 128, share_right)
    print(f"mini VQA: {result['value']:.1%} of {result['n']} right")


if __name__ == "__main__":
    main()
