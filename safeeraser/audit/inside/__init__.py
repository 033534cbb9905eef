"""What a model knows beyond what it says: measured in its probabilities and states, without a judge and without chance.

A measure is a function in a file of this folder under the decorator `measure`; it names the work that it is taken from.
"""

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Literal

from accelerate.utils.memory import clear_device_cache

from safeeraser.audit.inside.pairs import Pair
from safeeraser.benchmark.sources import files_code
from safeeraser.model import VLM

# The version of these measures: it changes with any code here.
CODE = hashlib.sha256(files_code(*sorted(Path(__file__).parent.glob("*.py"))).encode()).hexdigest()[:12]
BATCH = 16  # answers that are read at a time: with 700 tokens each, some 6 GB beside a model of 7 billion parameters

Values = dict[str, dict[str, float | None]]  # by the quantity's name, then by the pair's key; None: not to be measured


@dataclass(frozen=True)
class Quantity:
    """What is measured of each pair.

    Attributes:
        title: as texts write it; where there are several by number, with its place, `{}`.
        unit: `nats`, `share`, or `log10 rank`.
        knows: whether a model that knows more has `more` of it or `less`.
    """

    title: str
    unit: str
    knows: Literal["more", "less"]


@dataclass(frozen=True)
class Measure:
    """A measure of pairs.

    Attributes:
        read: given a model, the pairs and how many answers to read at a time, gives their values; or what `against`
            makes them of.
        quantities: by the names of its values, without their numbers.
        passes: how many answers are read, by the number of pairs and of the language model's layers.
        against: given the vanilla model, the pairs, what was read and the batch size, gives the values; None where the
            vanilla model is not asked.
    """

    read: Callable[[VLM, Sequence[Pair], int], Any]
    quantities: Mapping[str, Quantity]
    passes: Callable[[int, int], int]
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
    if name in known:
        return known[name]
    stem, number = numbered.groups() if (numbered := re.fullmatch(r"(.+)_(\d+)", name)) else (name, "")
    found = known[f"{stem}_{{}}"]
    return Quantity(found.title.format(number), found.unit, found.knows)


def count_passes(pairs: int, layers: int) -> int:
    """How many answers are read to measure so many pairs."""
    return sum(measure.passes(pairs, layers) for measure in find_measures())


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
    found: dict[str, Values] = {name: {} for name in sets}
    for (name, _), values in zip(every, _ask(load_vanilla, compare), strict=True):
        for key, of in values.items():
            finite = {pair: value is not None and math.isfinite(value) for pair, value in of.items()}
            found[name][key] = {pair: value if finite[pair] else None for pair, value in of.items()}
    return found


def _ask(load: Callable[[], VLM], ask: Callable[[VLM], list]) -> list:
    """What is asked of a model, which is then let go."""
    vlm = load()
    vlm.model.eval()
    found = ask(vlm)
    del vlm
    clear_device_cache(garbage_collection=True)
    return found
