"""What a model knows beyond what it says: measured in its probabilities and states, without a judge and without chance.

A measure is a function in a file of this folder under the decorator `measure`; it names the work that it is taken from.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Literal

from accelerate.utils.memory import clear_device_cache

from safeeraser.audit.inside.pairs import Pair
from safeeraser.benchmark.sources import files_code
from safeeraser.model.vlm import VLM

__all__ = ["CODE", "Measure", "Quantity", "Values", "find_measures", "measure", "measure_all", "quantity"]

# The version of these measures: it changes with any code here.
CODE = hashlib.sha256(files_code(*sorted(Path(__file__).parent.glob("*.py"))).encode()).hexdigest()[:12]
BATCH = 16  # answers that are read at a time: with 700 tokens each, some 6 GB beside a model of 7 billion parameters

Values = dict[str, dict[str, float | None]]  # by the quantity's name, then by the pair's key; None: not to be measured


@dataclass(frozen=True)
class Quantity:
    """What is measured of each pair."""

    title: str  # as texts write it; where there are several by number, with its place, `{}`
    unit: str  # `nats`, `share`, or `log10 rank`
    knows: Literal["more", "less"]  # what a model that knows more has of it


@dataclass(frozen=True)
class Measure:
    """A measure of pairs: a value of each, by the names of `quantities` with their numbers."""

    # Of a model, the pairs and how many answers to read at a time: the values, or what `against` makes them of.
    read: Callable[[VLM, Sequence[Pair], int], Any]
    quantities: Mapping[str, Quantity]
    passes: Callable[[int, int], int]  # how many answers are read, by the number of pairs and of the model's layers
    # Of the vanilla model, the pairs, what was read and the batch size: the values. None: vanilla is not asked.
    against: Callable[[VLM, Sequence[Pair], Any, int], Values] | None = None


_known: list[Measure] = []


def measure(quantities: Mapping[str, Quantity], **more: Any) -> Callable:
    """Make known a measure, `read(vlm, pairs, batch_size)`; see `Measure` for what else is said of it."""

    def register(read: Callable) -> Callable:
        _known.append(Measure(read, quantities, **more))
        return read

    return register


@cache
def find_measures() -> list[Measure]:
    """Those of every file in this folder."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return _known


def quantity(name: str) -> Quantity:
    """What is measured under a name, as `nll_true` or, by number, `depth_7`. Raises `KeyError` if nothing is."""
    known = {key: each for measure in find_measures() for key, each in measure.quantities.items()}
    stem, _, number = name.rpartition("_")
    described = known.get(name) or known[f"{stem}_{{}}"]
    return replace(described, title=described.title.format(number))


def measure_all(
    load: Callable[[], VLM], load_vanilla: Callable[[], VLM], sets: Mapping[str, Sequence[Pair]]
) -> dict[str, Values]:
    """Each set of pairs, such as the pairs and their `floor`, by all measures. Never are two models in memory at once.

    Returns:
        By the set's name the values; None also where a model's output is not finite.
    """

    def compare(vlm: VLM) -> list[Values]:
        return [
            each.against(vlm, sets[name], values, BATCH) if each.against else values
            for (name, each), values in zip(every, read, strict=True)
        ]

    every = [(name, each) for name in sets for each in find_measures()]
    read = _ask(load, lambda vlm: [each.read(vlm, sets[name], BATCH) for name, each in every])
    values_of_sets: dict[str, Values] = {name: {} for name in sets}
    for (name, _), values in zip(every, _ask(load_vanilla, compare), strict=True):
        for key, of in values.items():
            known = {pair: value for pair, value in of.items() if value is not None and math.isfinite(value)}
            values_of_sets[name][key] = {pair: known.get(pair) for pair in of}
    return values_of_sets


def _ask(load: Callable[[], VLM], ask: Callable[[VLM], list]) -> list:
    """What is asked of a model, which is then let go."""
    vlm = load()
    vlm.model.eval()
    answers = ask(vlm)
    del vlm
    clear_device_cache(garbage_collection=True)
    return answers
