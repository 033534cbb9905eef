"""How an optimizer step is taken: of which gradient, and what of the weights is kept in the end. Data, as methods are.

Beside the plain one three of Fan et al. 2025, arXiv 2502.05374, which make what was unlearned harder to learn again by
making the loss flat around it. A new step is a class here, an entry in `STEPS` and a page in config/step/.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple, Union

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat
from torch import Tensor
from torch.nn.utils import get_total_norm

from safeeraser.unlearn.objective.method import Method

FORGETS = {"forget", "refusal"}  # a term that reads one of these views is there to make the model forget

Gradient = Callable[[], list[Tensor]]


class Shift(NamedTuple):
    """How far each trained parameter is to be moved, None where nothing moves; and what of that is for the log."""

    by: list[Tensor] | None
    told: dict[str, float]


class Step(BaseModel):
    """What the steps have in common, and all that the plain one does."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    title: ClassVar[str] = ""  # what it adds to the method's, as the source has it
    name: str

    @property
    def averaged(self) -> float:
        """The share of the optimizer steps, the last ones, of whose weights the mean is kept in the end; 0: the last
        weights are."""
        return 0.0

    def moved_terms(self, method: Method) -> list[str]:
        """The terms whose gradient is taken at moved weights; that of the others is taken where the weights are.

        Raises:
            ValueError: it is taken so of some kind of terms, of which the method has none.
        """
        return []

    def shift(self, gradient: Gradient, like: Sequence[Tensor], seed: int) -> Shift:
        """How far the trained parameters are moved for these terms.

        Args:
            gradient: gives that of these terms, as they are weighed, where the weights are: the mean over the
                micro-steps of all processes, in float32. All processes ask for it together.
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
        found = [name for name, term in method.terms.items() if self.terms == "all" or FORGETS & set(term.views)]
        if not found:
            raise ValueError(
                f"step.terms={self.terms}: no term of {method.name} reads {' or '.join(sorted(FORGETS))}; "
                "step.terms=all takes all"
            )
        return found

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
        ascent = gradient()
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
    "average": Average,
}
if TYPE_CHECKING:
    AnyStep = Step
else:
    AnyStep = Annotated[Union[tuple(STEPS.values())], Field(discriminator="name")]  # noqa: UP007
