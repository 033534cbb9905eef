"""The weights of a method's terms while it is trained: numbers, and dual variables that follow their terms' losses."""

import math
from collections.abc import Mapping
from pathlib import Path

from safeeraser.benchmark.files import read_object, write_json
from safeeraser.errors import BadInput
from safeeraser.unlearn.methods import Dual, Method

DUALS = "duals.json"  # in a checkpoint: what the dual weights are after its step


class Weights:
    """What each term weighs now.

    The losses of a step are those of all processes, so each process comes to the same weights by itself.

    Attributes:
        of_step: the dual weights that the last step was taken with, by name.
    """

    def __init__(self, method: Method) -> None:
        self.duals = method.duals
        self.of_step: dict[str, float] = {}
        self._now = {
            name: term.weight.start if isinstance(term.weight, Dual) else term.weight
            for name, term in method.terms.items()
        }

    def __getitem__(self, name: str) -> float:
        return self._now[name]

    def follow(self, losses: Mapping[str, float]) -> None:
        """Move the dual weights on for the next step.

        Args:
            losses: the mean of each term over the optimizer step, by name; more names may be there. One that is not
                finite says nothing of a bound, and moves no weight.
        """
        self.of_step = {name: self._now[name] for name in self.duals}
        for name, dual in self.duals.items():
            if math.isfinite(losses[name]):
                self._now[name] = dual.after(self._now[name], losses[name])

    def save(self, folder: Path) -> None:
        """Keep the dual weights in a checkpoint."""
        if self.duals:
            write_json(folder / DUALS, {name: self._now[name] for name in self.duals})

    def resume(self, folder: str | Path) -> None:
        """Take the dual weights up again from a checkpoint, to the bit.

        Raises:
            BadInput: they are not there, or are no numbers.
        """
        if not self.duals:
            return
        kept = read_object(file := Path(folder) / DUALS)
        for name in self.duals:
            if type(kept.get(name)) is not float:
                raise BadInput(f"{file}: no weight of the term {name}")
            self._now[name] = kept[name]
