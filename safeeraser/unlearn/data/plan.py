"""The plan: which items each micro-step takes, for the entire run.

All random choices of data are made here, before training, from the seed, the epoch and the item's number alone. So the
number of workers or processes cannot change them, and a saved plan repeats a run's data exactly. Several processes work
in rounds of one micro-step each. Items at the plan's end that do not fill a round are left out; accelerate would fill
the round with the plan's first items.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from safeeraser.benchmark.files import read_json, write_json
from safeeraser.errors import BadInput
from safeeraser.unlearn.objective.method import Recipe


class Step(BaseModel):
    """One item of a micro-step: an index into each view (null for a view that is not read).

    `refusal` is an index into the refusals of prompt.json; the refusal's picture and question come from item `forget`.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    forget: int = Field(ge=0)
    retain: int | None = Field(default=None, ge=0)
    decoupled: int | None = Field(default=None, ge=0)
    refusal: int | None = Field(default=None, ge=0)

    def index(self, view: str) -> int:
        """The index into a view that is read."""
        return getattr(self, view)


def make_plan(sizes: Mapping[str, int], *, epochs: int, seed: int, recipe: Recipe) -> list[Step]:
    """Draw a plan: every forget item once an epoch, each with a retain item, a decoupled item and a refusal.

    Args:
        sizes: the number of `forget` items; and of `retain` items, `decoupled` items and `refusal` texts, each only if
            the view is read.
    """
    steps = []
    for epoch in range(epochs):
        order = range(sizes["forget"])
        if recipe.shuffle:
            order = np.random.default_rng([seed, epoch]).permutation(sizes["forget"]).tolist()
        steps += [_draw(item, sizes, np.random.default_rng([seed, epoch, item]), recipe) for item in order]
    return steps


def _draw(forget: int, sizes: Mapping[str, int], rng: np.random.Generator, recipe: Recipe) -> Step:
    # All draws are made even if they are not used, so methods with the same seed also share their retain items.
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
    """Read a plan and check it against `sizes`, and against the keys of `data` (as in `run.json`) that the plan has.
    Raises `BadInput` if the file is no plan, or a plan of other data. The error names the step and the key."""
    value = read_json(path)
    if not isinstance(value, dict) or not isinstance(value.get("steps"), list) or not value["steps"]:
        raise BadInput(f"{path}: a plan is an object with a list 'steps' that is not empty")
    if differ := differing(value.get("data") or {}, data or {}):
        raise BadInput(f"{path}: this plan was made for other data ({', '.join(differ)} differ)")
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
    """The keys that both records of the data have, with different values."""
    return [key for key in now if key in then and then[key] != now[key]]


def write_plan(
    path: str | Path, method: str, recipe: Recipe, steps: list[Step], data: Mapping[str, Any] | None = None
) -> None:
    """Write a plan that `plan=FILE` reads back. `data`: the entry of `run.json` about the items that it numbers."""
    value: dict[str, Any] = {"method": method, "recipe": recipe.model_dump(), "data": data}
    value |= {"steps": [step.model_dump() for step in steps]}
    write_json(path, value, indent=None)
