"""Measures of what a model knows, whatever it says: from probabilities and hidden states, without judge and sampling.

A measure is a function in a file of this folder with the decorator `measure`. Its docstring cites the work behind it.
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

# The version of the measures: a hash that changes with the code of any file in this folder.
CODE = hashlib.sha256(files_code(*sorted(Path(__file__).parent.glob("*.py"))).encode()).hexdigest()[:12]
BATCH = 16  # answers read at a time: with 700 tokens each, about 6 GB next to a model of 7 billion parameters

Values = dict[str, dict[str, float | None]]  # quantity name -> pair key -> value; None: it could not be measured


@dataclass(frozen=True)
class Quantity:
    """A quantity that is measured for each pair."""

    title: str  # as shown in texts; `{}` is the place of the number, if there are several
    unit: str  # `nats`, `share`, or `log10 rank`
    knows: Literal["more", "less"]  # whether knowledge raises or lowers the value


@dataclass(frozen=True)
class Measure:
    """A measure: it gives each pair a value for each of `quantities`, with numbers in place of `{}` in their names."""

    # (model, pairs, batch size) -> the values, or an intermediate result from which `against` makes the values.
    read: Callable[[VLM, Sequence[Pair], int], Any]
    quantities: Mapping[str, Quantity]
    passes: Callable[[int, int], int]  # (pairs, layers of the model) -> the number of answers that are read
    # (vanilla model, pairs, intermediate result, batch size) -> the values. None: vanilla is not needed.
    against: Callable[[VLM, Sequence[Pair], Any, int], Values] | None = None


_known: list[Measure] = []


def measure(quantities: Mapping[str, Quantity], **more: Any) -> Callable:
    """Register the decorated function `read(vlm, pairs, batch_size)` as a measure; `more`: fields of `Measure`."""

    def register(read: Callable) -> Callable:
        _known.append(Measure(read, quantities, **more))
        return read

    return register


@cache
def find_measures() -> list[Measure]:
    """The measures of all files in this folder."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return _known


def quantity(name: str) -> Quantity:
    """The quantity of a name, such as `nll_true` or, with a number, `depth_7`. Raises `KeyError` if there is none."""
    known = {key: each for measure in find_measures() for key, each in measure.quantities.items()}
    stem, _, number = name.rpartition("_")
    described = known.get(name) or known[f"{stem}_{{}}"]
    return replace(described, title=described.title.format(number))


def measure_all(
    load: Callable[[], VLM], load_vanilla: Callable[[], VLM], sets: Mapping[str, Sequence[Pair]]
) -> dict[str, Values]:
    """Measure each set of pairs, such as the pairs and their `floor`, with only one model in memory at a time.

    Returns:
        The values of all measures by the set's name; None also where a model's output is not finite.
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
    """Load a model, return the result of `ask`, and free the model's memory."""
    vlm = load()
    vlm.model.eval()
    answers = ask(vlm)
    del vlm
    clear_device_cache(garbage_collection=True)
    return answers
