"""The weights of a method's terms while it is trained: numbers, dual variables that follow their terms' losses, and
ramps over the run."""

import math
from typing import Any

from safeeraser.unlearn.hooks.hook import Hook
from safeeraser.unlearn.objective.method import Dual, Method, Ramp


class Weights(Hook):
    """What each term weighs now.

    The losses of a step are those of all processes, so each process comes to the same weights by itself.

    Attributes:
        of_step: the moving weights that the last step was taken with, by name.
    """

    file = "duals.json"

    def __init__(self, method: Method) -> None:
        self.moving = method.moving
        self.duals = {name: weight for name, weight in self.moving.items() if isinstance(weight, Dual)}
        self.of_step: dict[str, float] = {}
        self._now: dict[str, float] = {
            name: term.weight if isinstance(term.weight, float) else term.weight.start
            for name, term in method.terms.items()
        }

    def __getitem__(self, name: str) -> float:
        return self._now[name]

    def on_train_begin(self, args, state, control, **kwargs):
        """Set the ramps to where the run is: what is resumed has steps behind it."""
        for name, weight in self.moving.items():
            if isinstance(weight, Ramp):
                self._now[name] = weight.at(state.global_step, state.max_steps)

    on_step_end = on_train_begin

    def on_losses(self, losses, control=None):
        """Move the dual weights on for the next step. A loss that is not finite says nothing, and moves none."""
        self.of_step = {name: self._now[name] for name in self.moving}
        for name, dual in self.duals.items():
            if math.isfinite(losses[name]):
                self._now[name] = dual.after(self._now[name], losses[name])

    def row(self) -> dict[str, Any]:
        return {"weights": self.of_step} if self.of_step else {}

    def state_dict(self) -> dict[str, float]:
        return {name: self._now[name] for name in self.duals}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        for name in self.duals:
            if type(weight := (state or {}).get(name)) is not float:
                raise ValueError(f"no weight of the term {name}")
            self._now[name] = weight
