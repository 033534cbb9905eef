"""How an optimizer step is taken: its gradient, and the weights that are kept in the end. Steps are data, like methods.

In addition to the plain step there are three of Fan et al. 2025, arXiv 2502.05374, and one that relearns inside the
loop. The three make unlearned content harder to relearn by making the loss flat around the weights. A new step is a
class here, an entry in `STEPS` and a config file in config/step/.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple, Protocol, Union

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.nn.utils import get_total_norm

from safeeraser.benchmark.pages import Keys
from safeeraser.unlearn.objective.method import Method

FORGETS = {"forget", "refusal"}  # a term that reads one of these views makes the model forget


class Gradient(Protocol):
    """The gradient and the loss that a step asks for, in float32, with each trained parameter moved `by` a tensor. Both
    are means over the micro-steps of all processes, which call this together."""

    def __call__(self, by: Sequence[Tensor] | None = None) -> tuple[list[Tensor], float]: ...


class Shift(NamedTuple):
    """How far to move each trained parameter (None: move nothing), and the figures about the move for the log."""

    by: list[Tensor] | None
    logged: dict[str, float]


class Step(Keys):
    """The base class of all steps, with the behaviour of the plain step."""

    title: ClassVar[str] = ""  # the suffix to the method's title, as the source writes it
    name: str

    @property
    def averaged(self) -> float:
        """The share of the optimizer steps, counted from the last, over which the kept weights are averaged; 0: the
        last weights are kept."""
        return 0.0

    def moved_terms(self, method: Method) -> list[str]:
        """The terms whose gradient is computed at moved weights; the others use the current weights. Raises
        `ValueError` if the step moves only terms that forget, and the method has none."""
        return []

    @property
    def relearned(self) -> Method | None:
        """The method that the step relearns on the way to the moved weights; None if it relearns nothing."""
        return None

    @property
    def added(self) -> float | None:
        """The factor for adding the gradient at moved weights to the terms' own; None: it replaces their own."""
        return None

    def beside(self, method: Method) -> dict[str, Method]:
        """The methods that the model is run for in addition to the main one, each on its own batch: `moved` has the
        terms at moved weights, if they are not all terms; `relearned` is the method that the step relearns."""
        moved = self.moved_terms(method)
        some = {"moved": method.of_terms(moved)} if moved and len(moved) < len(method.terms) else {}
        return some | ({"relearned": self.relearned} if self.relearned else {})

    def shift(self, gradient: Gradient, like: Sequence[Tensor], seed: int) -> Shift:
        """How far to move the trained parameters for the moved terms.

        Args:
            gradient: of the `relearned` method if there is one, else of the weighted sum of the moved terms.
            like: the trained parameters.
            seed: for random draws in this optimizer step.
        """
        return Shift(None, {})

    def cost(self, method: Method, steps: int) -> str:
        """A sentence on the step's work and its cost in a run of `steps` optimizer steps; empty if it costs nothing."""
        return ""


class Plain(Step):
    """The optimizer takes the gradient of the loss as it is."""

    name: Literal["plain"] = "plain"


class _Moved(Step):
    """A step that computes the gradient of some terms at moved weights: of the terms that forget, or of all."""

    passes: ClassVar[int]  # extra passes over the rows of the moved terms, per optimizer step

    terms: Literal["forget", "all"] = "forget"

    def moved_terms(self, method: Method) -> list[str]:
        names = [name for name, term in method.terms.items() if self.terms == "all" or FORGETS & set(term.views)]
        if not names:
            raise ValueError(
                f"step.terms={self.terms}: no term of {method.name} reads {' or '.join(sorted(FORGETS))}; "
                "step.terms=all takes all"
            )
        return names

    def cost(self, method: Method, steps: int) -> str:
        moved = method.of_terms(self.moved_terms(method))
        more = f"{self.passes} more pass{'es' * (self.passes > 1)}, forward and backward,"
        return f"takes the gradient of {', '.join(moved.terms)} at moved weights: {more} over {', '.join(moved.views)}"


class Sam(_Moved):
    """Sharpness-aware minimization: moves the weights, as one vector, by the length `rho` in the direction in which the
    moved terms grow most (Foret et al. 2021, arXiv 2010.01412; on the forget terms in Fan et al. 2025)."""

    title: ClassVar[str] = "+SAM"
    passes: ClassVar[int] = 2

    name: Literal["sam"] = "sam"
    rho: NonNegativeFloat = 0.01

    def shift(self, gradient: Gradient, like: Sequence[Tensor], seed: int) -> Shift:
        ascent, _ = gradient()
        norm = get_total_norm(ascent).item()
        if not (self.rho and norm and math.isfinite(norm)):
            return Shift(None, {"ascent": norm})
        torch._foreach_mul_(ascent, self.rho / norm)
        return Shift(ascent, {"ascent": norm})


class Smooth(_Moved):
    """Randomized smoothing: moves each weight by Gaussian noise of standard deviation `std`, drawn once per optimizer
    step (Fan et al. 2025)."""

    title: ClassVar[str] = "+RS"
    passes: ClassVar[int] = 1

    name: Literal["smooth"] = "smooth"
    std: NonNegativeFloat = 1e-4

    def shift(self, gradient: Gradient, like: Sequence[Tensor], seed: int) -> Shift:
        if not self.std:
            return Shift(None, {})
        drawn = torch.Generator(like[0].device).manual_seed(seed)
        noise = [torch.randn(each.shape, generator=drawn, device=each.device) for each in like]
        torch._foreach_mul_(noise, self.std)
        return Shift(noise, {})


class Tamper(_Moved):
    """Relearning inside the loop: takes `inner_steps` plain descent steps on a view that an attacker would train on.
    There it computes the moved terms' gradient, and adds `scale` times it to the loss's own. It is first order: nothing
    is differentiated through the inner steps (after TAR, Tamirisa et al. 2024, arXiv 2408.00761)."""

    title: ClassVar[str] = "+Tamper"
    passes: ClassVar[int] = 1

    name: Literal["tamper"] = "tamper"
    view: Literal["forget", "retain", "decoupled"] = "decoupled"
    inner_steps: PositiveInt = 3
    inner_lr: NonNegativeFloat = 0.005
    scale: NonNegativeFloat = 0.5

    @property
    def relearned(self) -> Method | None:
        term = {"loss": "nll", "views": [self.view], "weight": 1.0}
        return Method.model_validate({"name": "relearned", "terms": {"relearned": term}})

    @property
    def added(self) -> float | None:
        return self.scale

    def shift(self, gradient: Gradient, like: Sequence[Tensor], seed: int) -> Shift:
        """The sum of `inner_steps` plain descent steps, -inner_lr g each (after the inner loop of TAR, Tamirisa et al.
        2024, arXiv 2408.00761). g is the gradient of the loss on `view` at the weights moved so far.

        `by` has a float32 tensor of the shape of each of `like`; it is None if a gradient is not finite. `logged` has
        the loss before the first and before the last step. Nothing is drawn, so `seed` is not used.
        """
        by = [torch.zeros_like(each, dtype=torch.float32) for each in like]
        logged: dict[str, float] = {}
        for _ in range(self.inner_steps):
            slope, loss = gradient(by)
            logged = {"relearned_from": loss, **logged, "relearned_to": loss}
            if not math.isfinite(get_total_norm(slope).item()):
                return Shift(None, logged)
            torch._foreach_add_(by, slope, alpha=-self.inner_lr)
        return Shift(by, logged)

    def cost(self, method: Method, steps: int) -> str:
        first = f"{self.inner_steps} more pass{'es' * (self.inner_steps > 1)} over {self.view}"
        return f"learns {self.view} again for {first}; there it {super().cost(method, steps)}"


class Average(Step):
    """Weight averaging: plain steps, and in the end the mean of the weights after each of the last steps, whose share
    is `last` (Izmailov et al. 2018, arXiv 1803.05407; in unlearning Fan et al. 2025)."""

    title: ClassVar[str] = "+WA"

    name: Literal["average"] = "average"
    last: float = Field(0.25, gt=0, le=1)

    @property
    def averaged(self) -> float:
        return self.last

    def cost(self, method: Method, steps: int) -> str:
        return (
            f"keeps the mean of the weights after the last {taken(self.last, steps, steps)} of {steps} optimizer steps"
        )


def taken(share: float, step: int, steps: int) -> int:
    """How many optimizer steps up to `step` contribute to the mean of the weights over the last `share` of `steps`."""
    return max(0, step - steps + max(1, round(share * steps))) if share else 0


STEPS: dict[str, type[Step]] = {
    "plain": Plain,
    "sam": Sam,
    "smooth": Smooth,
    "tamper": Tamper,
    "average": Average,
}
if TYPE_CHECKING:
    AnyStep = Step
else:
    AnyStep = Annotated[Union[tuple(STEPS.values())], Field(discriminator="name")]  # noqa: UP007
