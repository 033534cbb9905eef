"""How an optimizer step is taken: of which gradient, and what of the weights is kept in the end. Data, as methods are.

Beside the plain one three of Fan et al. 2025, arXiv 2502.05374, which make what was unlearned harder to learn again by
making the loss flat around it; and one that relearns inside the loop. A new step is a class here, an entry in `STEPS`
and a page in config/step/.
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

FORGETS = {"forget", "refusal"}  # a term that reads one of these views is there to make the model forget


class Gradient(Protocol):
    """The gradient of what a step asks about with the trained parameters moved `by` so much from where they are, in
    float32, and the loss there: means over the micro-steps of all processes, which ask for it together."""

    def __call__(self, by: Sequence[Tensor] | None = None) -> tuple[list[Tensor], float]: ...


class Shift(NamedTuple):
    """How far each trained parameter is to be moved, None where nothing moves; and what of that is for the log."""

    by: list[Tensor] | None
    logged: dict[str, float]


class Step(Keys):
    """What the steps have in common, and all that the plain one does."""

    title: ClassVar[str] = ""  # what it adds to the method's, as the source has it
    name: str

    @property
    def averaged(self) -> float:
        """The share of the optimizer steps, the last ones, of whose weights the mean is kept in the end; 0: the last
        weights are."""
        return 0.0

    def moved_terms(self, method: Method) -> list[str]:
        """The terms whose gradient is taken at moved weights; that of the others is taken where the weights are. Raises
        `ValueError` where it is taken so of some kind of terms, of which the method has none."""
        return []

    @property
    def relearned(self) -> Method | None:
        """What the step learns on the way to the moved weights; None: it learns nothing."""
        return None

    @property
    def added(self) -> float | None:
        """How many times the gradient at moved weights is added to the terms' own; None: it takes that one's place."""
        return None

    def beside(self, method: Method) -> dict[str, Method]:
        """What the model is run for beside the whole method, each with a batch of the rows that it reads: `moved`, the
        terms at moved weights where they are not all, and `relearned`."""
        moved = self.moved_terms(method)
        some = {"moved": method.of_terms(moved)} if moved and len(moved) < len(method.terms) else {}
        return some | ({"relearned": self.relearned} if self.relearned else {})

    def shift(self, gradient: Gradient, like: Sequence[Tensor], seed: int) -> Shift:
        """How far the trained parameters are moved for these terms.

        Args:
            gradient: of what is `relearned`, or else of these terms as they are weighed.
            like: the trained parameters.
            seed: for what is drawn in this optimizer step.
        """
        return Shift(None, {})

    def cost(self, method: Method, steps: int) -> str:
        """A sentence on what it does in a run of so many optimizer steps, and what that takes; empty: nothing."""
        return ""


class Plain(Step):
    """The optimizer takes the gradient of the loss as it is."""

    name: Literal["plain"] = "plain"


class _Moved(Step):
    """The gradient of some terms is taken at moved weights: of those that forget, or of all."""

    passes: ClassVar[int]  # over what the terms read, in each optimizer step, beside those of all steps

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
    """Sharpness-aware minimization: the weights are moved by `rho`, as one vector's length, in the direction in which
    what is minimized grows most (Foret et al. 2021, arXiv 2010.01412; on the forget terms in Fan et al. 2025)."""

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
    """Randomized smoothing: each weight is moved by Gaussian noise of the standard deviation `std`, one draw an
    optimizer step (Fan et al. 2025)."""

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
    """Relearning inside the loop: `inner_steps` plain steps of descent on a view that an attacker would train on, and
    there the gradient of the forget terms, `scale` times of which is added to the loss's own. Of first order: nothing
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
        """The sum of `inner_steps` steps of plain descent, -inner_lr g each, where g is the gradient of the loss on
        `view` at the weights moved so far (after the inner loop of TAR, Tamirisa et al. 2024, arXiv 2408.00761).

        `by` has a tensor for each of `like`, of its shape, in float32; it is None if a gradient is not finite. `logged`
        has the loss before the first and before the last step. Nothing is drawn, so `seed` is not used.
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
    """Weight averaging: plain steps, and in the end the mean of the weights after each of the `last` share of them
    (Izmailov et al. 2018, arXiv 1803.05407; in unlearning Fan et al. 2025)."""

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
    """After how many optimizer steps up to `step` the weights are in the mean over the last `share` of `steps`."""
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
