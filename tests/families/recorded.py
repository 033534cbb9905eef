"""Small random models of eight families with recorded figures, and reading them; tests/data/families/README.md."""

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from helpers import RECORDED, ROOT, TRAIN, run
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from safeeraser import model as vlm
from safeeraser.benchmark.pictures import open_picture
from safeeraser.benchmark.records import UNHARM_KEYS

DATA = ROOT / "tests" / "data" / "families"
FAMILIES = (
    "gemma3",
    "idefics3",
    "internvl",
    "llava_next",
    "llava_next_vicuna",
    "qwen2_5_vl",
    "qwen3_vl",
    "smolvlm",
)
IGNORE = -100
PROJECTIONS = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)


@lru_cache(64)
def picture(path: str):
    """A picture of the recorded dataset, decoded once."""
    return open_picture(RECORDED / path)


@dataclass(frozen=True)
class Recorded:
    """One family's folder. What it loads is shared by all tests that see it: nobody changes it."""

    name: str

    @property
    def folder(self) -> Path:
        return DATA / self.name

    @property
    def path(self) -> str:
        """The model's folder, as `model_path` takes it."""
        return str(self.folder / "model")

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"

    def read(self, name: str):
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    @cached_property
    def config(self) -> dict:
        return self.read("model/config.json")

    @cached_property
    def figures(self) -> dict:
        return self.read("figures.json")

    @property
    def rows(self) -> list[dict]:
        """Items 0 to 23 of each view of training, three rows an item."""
        return self.figures["rows"]

    @cached_property
    def preprocessor(self):
        return vlm.load_preprocessor(self.path)

    @cached_property
    def model(self) -> nn.Module:
        return self.load()

    def load(self) -> nn.Module:
        """The model anew, for who changes it."""
        return vlm.load_model(self.path, torch.float32, "eager").eval()

    def adapted(self, adapter: Path) -> nn.Module:
        return vlm.load_adapted(self.load(), adapter).eval()

    def encode(self, row: dict, *, answer: bool = True, **more):
        """A recorded row by the project's own encoding, or its prompt alone."""
        turn = vlm.Turn(picture(row["picture"]), row["question"], row["answer"] if answer else None)
        return self.preprocessor.encode(turn, **more)

    def of_each_shape(self) -> list[dict]:
        """The first row of each number of image tokens, which follows the picture's shape where it varies."""
        return list({row["image_tokens"]: row for row in reversed(self.rows)}.values())


@torch.no_grad()
def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """(rows, length, vocabulary)."""
    return model(**batch).logits


def nlls(family: Recorded, model: nn.Module, rows: list, size: int = 6, side: str = "right") -> list[float]:
    """Each row's mean cross-entropy of its labels, by batches of `size` rows as the project joins them."""
    found = []
    for first in range(0, len(rows), size):
        some = rows[first : first + size]
        for row, said in zip(some, logits(model, family.preprocessor.join(some, side=side)), strict=True):
            length = len(row.input_ids)
            said = said[:length] if side == "right" else said[-length:]
            found.append(cross_entropy(said[:-1], torch.tensor(row.labels[1:]), ignore_index=IGNORE).item())
    return found


def end_of(labels: list[int]) -> int:
    """Where an answer ends: behind the last place that has a label."""
    return max(place for place, label in enumerate(labels) if label != IGNORE) + 1


def start_of(labels: list[int]) -> int:
    """Where an answer begins."""
    return next(place for place, label in enumerate(labels) if label != IGNORE)


def answers(family: Recorded, out: Path, *more: object) -> dict[tuple[str, int], set[str]]:
    """What `ckpt_infer.py` answers greedily, by view and item: several times the same where it is asked several times.

    Of each category the first record is asked, which are the six records whose rows are recorded.
    """
    asked = ("--eval_file", TRAIN, "--limit", 1, "--greedy", "--max_new_tokens", 24, "--dtype", "float32")
    done = run("ckpt_infer", "--model_path", family.path, *asked, "--output_file", out, *more)
    assert done.returncode == 0, done.stderr
    found = {}
    for number, record in enumerate(json.loads(out.read_text(encoding="utf-8"))):
        for n, pair in enumerate(record["unsafe_pairs"]):
            found["forget", 4 * number + n] = {pair.get(f"model_response{k}") for k in (1, 2, 3)}
            found["decoupled", 4 * number + n] = {pair.get("sd_response")}
        for n, key in enumerate(UNHARM_KEYS):
            found["retain", 4 * number + n] = {record[key]["Prediction"]}
    return {item: said for item, said in found.items() if said != {None}}
