"""Small random models of eleven families, with their recorded figures: see tests/data/families/README.md."""

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import pytest
import torch
from helpers import RECORDED, ROOT, TRAIN, ran
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from safeeraser.benchmark.pictures import open_picture
from safeeraser.benchmark.records import UNHARM_KEYS
from safeeraser.model.load import load_model, load_preprocessor
from safeeraser.model.stored import load_adapted
from safeeraser.model.turns import Turn

DATA = ROOT / "tests" / "data" / "families"
FAMILIES = tuple(sorted(path.name for path in DATA.iterdir() if path.is_dir()))
# Variants run on families with a special trait: attention in both directions and a tied head; shared keys and values; a
# merger of patches; a state; positions in three dimensions, features in depth, a projector within the tower; tiles.
VARIED = ("gemma3", "gemma4", "internvl", "llava_onevision", "qwen3_5", "qwen3_vl", "smolvlm")
IGNORE = -100
CLOSE = 1e-4  # losses of batched and single rows, and of kinds of attention, differ by less than 2e-6


def on(*names: str):
    """A decorator that runs a test on the named families alone."""
    return pytest.mark.parametrize("family", names, indirect=True)


@lru_cache(64)
def picture(path: str):
    """A picture of the recorded dataset, decoded once."""
    return open_picture(RECORDED / path)


@dataclass(frozen=True)
class Recorded:
    """One family's folder. All tests share the objects that it loads, so no test may change them."""

    name: str

    def __post_init__(self) -> None:
        folder = DATA / self.name
        # `path` is the model's folder in the form of a `model_path`.
        self.__dict__.update(folder=folder, path=str(folder / "model"), adapter=folder / "adapter")

    def read(self, name: str):
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    @cached_property
    def figures(self) -> dict:
        return self.read("figures.json")

    @property
    def rows(self) -> list[dict]:
        """Items 0 to 23 of each view of training, three rows per item."""
        return self.figures["rows"]

    @cached_property
    def preprocessor(self):
        return load_preprocessor(self.path)

    @cached_property
    def model(self) -> nn.Module:
        return self.load()

    def load(self) -> nn.Module:
        """Load the model again, for a test that changes it."""
        return load_model(self.path, torch.float32, "eager").eval()

    def adapted(self, adapter: Path) -> nn.Module:
        return load_adapted(self.load(), adapter).eval()

    def encode(self, row: dict, **more):
        """A recorded row as this project encodes it."""
        return self.preprocessor.encode(Turn(picture(row["picture"]), row["question"], row["answer"]), **more)

    def encode_by_size(self, row: dict, *, answer: bool = True):
        """A recorded row, or without `answer` its prompt, encoded from the picture's size alone."""
        shown, turn = picture(row["picture"]), Turn(None, row["question"], row["answer"] if answer else None)
        return self.preprocessor.encode_text(turn, self.preprocessor.place(lambda: shown.size))

    @cached_property
    def ended(self) -> list:
        """All rows with the token that ends the answer among their labels."""
        return [self.encode(row, end_of_answer=True) for row in self.rows]

    def responses(self, rows: list[dict] | None = None) -> dict[tuple[str, int], set[str]]:
        """The recorded answers in the form of `answers`: of all rows, or those in `rows` to the first rows."""
        given = zip(self.rows, rows or self.rows, strict=rows is None)
        return {(row["view"], row["index"]): {other["response"]} for row, other in given}


@torch.no_grad()
def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """(rows, length, vocabulary)."""
    return model(**batch).logits


def label_losses(family, model: nn.Module, rows: list, size: int = 6, side: str = "right") -> list[Tensor]:
    """The cross-entropy of each row's labels, in batches that this project joins from `size` rows."""
    found = []
    for first in range(0, len(rows), size):
        some = rows[first : first + size]
        for row, said in zip(some, logits(model, family.preprocessor.join(some, side=side)), strict=True):
            said = said[: len(row.input_ids)] if side == "right" else said[-len(row.input_ids) :]
            labels = torch.tensor(row.labels[1:])
            found.append(cross_entropy(said[:-1], labels, ignore_index=IGNORE, reduction="none")[labels != IGNORE])
    return found


def nlls(*given, **more) -> list[float]:
    """The mean cross-entropy of each row's labels; arguments as in `label_losses`."""
    return [losses.mean().item() for losses in label_losses(*given, **more)]


def bounds(labels: list[int]) -> tuple[int, int]:
    """Where an answer begins and ends: the first position with a label, and the position after the last one."""
    places = [place for place, label in enumerate(labels) if label != IGNORE]
    return places[0], places[-1] + 1


def answers(family: Recorded, out: Path, *more: object) -> dict[tuple[str, int], set[str]]:
    """The greedy answers of `ckpt_infer.py`, by view and item. Greedy samples of a question agree.

    The first record of each category is asked: the six records whose rows are recorded.
    """
    asked = ("--eval_file", TRAIN, "--limit", 1, "--greedy", "--max_new_tokens", 24, "--dtype", "float32")
    ran("ckpt_infer", "--model_path", family.path, *asked, "--output_file", out, *more)
    found = {}
    for number, record in enumerate(json.loads(out.read_text(encoding="utf-8"))):
        for n, pair in enumerate(record["unsafe_pairs"]):
            found["forget", 4 * number + n] = {pair.get(f"model_response{k}") for k in (1, 2, 3)}
            found["decoupled", 4 * number + n] = {pair.get("sd_response")}
        for n, key in enumerate(UNHARM_KEYS):
            found["retain", 4 * number + n] = {record[key]["Prediction"]}
    return {item: said for item, said in found.items() if said != {None}}
