"""The plan: which items each micro-step takes, for the whole run.

Everything random about the data is decided here, before training, from the seed, the epoch and the item's place in it
alone; so neither the number of loading workers nor of processes can change it, and a plan saved repeats a run exactly.
Several processes take a round together, a micro-step each: what does not fill one at the plan's end is left out, where
accelerate would fill up with the plan's first items.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from safeeraser.benchmark.files import read_json, write_json
from safeeraser.errors import BadInput
from safeeraser.unlearn.objective.method import Recipe


class Step(BaseModel):
    """One item's worth of a micro-step: an index into each view (null where the method reads no such view).

    `refusal` is an index into the refusals of prompt.json; the refusal's picture and question are those of `forget`.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    forget: int = Field(ge=0)
    retain: int | None = Field(default=None, ge=0)
    decoupled: int | None = Field(default=None, ge=0)
    refusal: int | None = Field(default=None, ge=0)

    def index(self, view: str) -> int:
        """The index into a view that the method reads."""
        return getattr(self, view)


@dataclass(frozen=True)
class Schedule:
    """How long a run is, in optimizer steps, warm-up included; and how many items at the plan's end it leaves out."""

    steps: int
    warmup: int
    left_out: int = 0

    @classmethod
    def of(
        cls, items: int, *, batch_size: int, accumulation: int, processes: int, warmup_ratio: float = 0.0
    ) -> "Schedule":
        """The schedule of a plan of `items`; whole rounds that are left over make a smaller last step."""
        left_out = items % (batch_size * processes) if processes > 1 else 0
        rounds = math.ceil((items - left_out) / (batch_size * processes))
        steps = math.ceil(rounds / accumulation)
        return cls(steps, round(warmup_ratio * steps), left_out)


def make_plan(sizes: Mapping[str, int], *, epochs: int, seed: int, recipe: Recipe) -> list[Step]:
    """Draw a plan: every forget item once an epoch, each with a retain item, a decoupled item and a refusal.

    Args:
        sizes: how many there are to choose from: `forget` items, and for each view that the method reads `retain` and
            `decoupled` items and `refusal` texts.
    """
    steps = []
    for epoch in range(epochs):
        order = range(sizes["forget"])
        if recipe.shuffle:
            order = np.random.default_rng([seed, epoch]).permutation(sizes["forget"]).tolist()
        steps += [_draw(item, sizes, np.random.default_rng([seed, epoch, item]), recipe) for item in order]
    return steps


def _draw(forget: int, sizes: Mapping[str, int], rng: np.random.Generator, recipe: Recipe) -> Step:
    # All draws are made whether used or not: methods that share a seed then also share their retain items.
    share, refusal = rng.random(2)
    retain = int(share * sizes.get("retain", sizes["forget"]))
    decoupled = retain if recipe.decoupled == "retain_index" else forget
    return Step(
        forget=forget,
        retain=retain if "retain" in sizes else None,
        decoupled=decoupled % sizes["decoupled"] if "decoupled" in sizes else None,
        refusal=int(refusal * sizes["refusal"]) if "refusal" in sizes else None,
    )


def read_plan(path: str | Path, sizes: Mapping[str, int], data: Mapping[str, Any] | None = None) -> list[Step]:
    """Read a plan and check it against the data, by what `run.json` says of them where the plan says it too. Raises
    `BadInput` where it is none, or of other data. The step and the key that do not fit are named."""
    value = read_json(path)
    if not isinstance(value, dict) or not isinstance(value.get("steps"), list) or not value["steps"]:
        raise BadInput(f"{path}: a plan is an object with a list 'steps' that is not empty")
    if differ := differing(value.get("data") or {}, data or {}):
        raise BadInput(f"{path}: a plan of other data ({', '.join(differ)} differ)")
    steps = []
    for number, entry in enumerate(value["steps"]):
        try:
            step = Step.model_validate(entry)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise BadInput(f"{path}: step {number}, {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        for view, size in sizes.items():
            index = getattr(step, view)
            if index is None or index >= size:
                raise BadInput(f"{path}: step {number}, {view}: {index} is none of the {size} that the data has")
        steps.append(step)
    return steps


def differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is said of the data both times, and is not the same."""
    return [key for key in now if key in then and then[key] != now[key]]


def write_plan(
    path: str | Path, method: str, recipe: Recipe, steps: list[Step], data: Mapping[str, Any] | None = None
) -> None:
    """Write a plan that `plan=FILE` reads back. `data`: what `run.json` says of the items that it numbers."""
    value: dict[str, Any] = {"method": method, "recipe": recipe.model_dump(), "data": data}
    value |= {"steps": [step.model_dump() for step in steps]}
    write_json(path, value, indent=None)
