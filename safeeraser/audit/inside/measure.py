"""What a measure is. One is a function in this folder, made known by a decorator; its name is the function's."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from accelerate.utils.memory import clear_device_cache

from safeeraser.audit.inside.pairs import Pair
from safeeraser.model import VLM

Values = dict[str, dict[str, float | None]]  # by the quantity's name, then by the pair's key; None: not to be measured

MEASURES: dict[str, "Measure"] = {}
BATCH = 16  # answers that are read at a time: with 700 tokens each, some 6 GB beside a model of 7 billion parameters


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

    name: str
    read: Callable[[VLM, Sequence[Pair], int], Any]
    quantities: Mapping[str, Quantity]
    passes: Callable[[int, int], int]
    against: Callable[[VLM, Sequence[Pair], Any, int], Values] | None = None


def measure(
    quantities: Mapping[str, Quantity],
    passes: Callable[[int, int], int],
    against: Callable[[VLM, Sequence[Pair], Any, int], Values] | None = None,
) -> Callable:
    """Make known a measure: `read(vlm, pairs, batch_size)`; see `Measure`."""

    def register(read: Callable) -> Callable:
        MEASURES[read.__name__] = Measure(read.__name__, read, quantities, passes, against)
        return read

    return register


def quantity(name: str) -> Quantity:
    """What is measured under a name, as `nll_true` or, by number, `depth_7`. Raises `KeyError` if nothing is."""
    known = {key: each for measure in MEASURES.values() for key, each in measure.quantities.items()}
    if name in known:
        return known[name]
    stem, number = numbered.groups() if (numbered := re.fullmatch(r"(.+)_(\d+)", name)) else (name, "")
    found = known[f"{stem}_{{}}"]
    return Quantity(found.title.format(number), found.unit, found.knows)


def passes(pairs: int, layers: int, names: Iterable[str] | None = None) -> int:
    """How many answers are read to measure so many pairs by the measures named, or by all."""
    return sum(MEASURES[name].passes(pairs, layers) for name in names or MEASURES)


def measured(
    load: Callable[[], VLM],
    vanilla: Callable[[], VLM],
    sets: Mapping[str, Sequence[Pair]],
    names: Iterable[str] | None = None,
    batch_size: int = BATCH,
) -> dict[str, Values]:
    """Each set of pairs by the measures named, or by all. Never are two models in memory at once.

    Args:
        load: gives the model that is measured, in any mode; it is left in evaluation mode.
        vanilla: gives the untouched one, and is called only where a measure asks it.
        sets: such as the pairs and their `floor`.

    Returns:
        By the set's name the values; None also where a model's output is not finite.

    Raises:
        BadInput: a picture cannot be read, or an answer not be encoded.
    """
    chosen = [MEASURES[name] for name in names or MEASURES]
    read = _each(load, chosen, lambda vlm, each, name: each.read(vlm, sets[name], batch_size), sets)
    later = [each for each in chosen if each.against]
    if later:
        held = lambda vlm, each, name: each.against(vlm, sets[name], read[name, each.name], batch_size)  # noqa: E731
        read |= _each(vanilla, later, held, sets)
    return {name: _finite(read[name, each.name] for each in chosen) for name in sets}


def _each(load: Callable[[], VLM], measures: list[Measure], ask: Callable, sets: Iterable[str]) -> dict:
    """What is asked of a model by each measure of each set; the model is let go."""
    vlm = load()
    vlm.model.eval()
    found = {(name, each.name): ask(vlm, each, name) for name in sets for each in measures}
    del vlm
    clear_device_cache(garbage_collection=True)
    return found


def _finite(parts: Iterable[Values]) -> Values:
    together = {name: values for part in parts for name, values in part.items()}
    return {
        name: {key: value if value is not None and math.isfinite(value) else None for key, value in values.items()}
        for name, values in together.items()
    }
