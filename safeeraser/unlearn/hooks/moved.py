"""The gradient of some terms at moved weights. It replaces their gradient at the current weights, or is added to it.

`safeeraser.unlearn.objective.step` decides how far the weights move, and for which terms. The gradient is computed
before the step's own passes, by `torch.autograd.grad`, which neither DDP nor DeepSpeed notices. The weights are
restored before the step's passes begin. So the losses that are logged, judged and followed by dual weights always
belong to the weights that the optimizer then moves.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from safeeraser.unlearn.hook import Hook
from safeeraser.unlearn.masters import moved, trained_of
from safeeraser.unlearn.objective.objective import Objective, Weights
from safeeraser.unlearn.objective.step import Step


class MovedGradient(Hook):
    """Computes the gradient at moved weights, and adds it to the gradient of each micro-step.

    Attributes:
        names: the terms whose own gradient is left out in the current optimizer step.
        logged: the current optimizer step's entries for the log.
    """

    def __init__(self, step: Step, terms: Sequence[str], seed: int) -> None:
        self.step, self.terms, self.seed = step, terms, seed
        self.names: Sequence[str] = ()
        self.logged: dict[str, Any] = {}
        self.relearned: Objective | None = None
        self._gradient: list[Tensor] = []

    def begin(self, trainer: Any) -> None:
        """Make the objective of the method that the step relearns, if there is one."""
        super().begin(trainer)
        if method := self.step.relearned:
            given = {"seed": self.seed, "device": trainer.args.device}
            self.relearned = Objective(method, Weights(method), trainer.model, trainer.objective.family, **given)

    def take(self, batches: Sequence[dict[str, Any]], number: int) -> None:
        """Compute the gradient for optimizer step `number` over this process's `batches`. There is none if no term is
        to be moved, or if the step does not move the weights. All processes call this together."""
        self.names, self.logged, self._gradient = (), {}, []
        if not self.terms or not batches:
            return
        model = self.trainer.objective.model
        model.train()
        trained = trained_of(model)
        of_terms = partial(self._of_terms, self.trainer.objective, self.terms, "moved")
        asked = partial(self._of_terms, self.relearned, ["relearned"], "relearned") if self.relearned else of_terms

        def gradient(by: Sequence[Tensor] | None = None) -> tuple[list[Tensor], float]:
            with moved(trained, by) if by else nullcontext():
                *mean, loss = self._mean(asked, trained, batches, number)
            *mean, loss = [self.trainer.accelerator.reduce(each, "mean") for each in (*mean, loss)]
            return mean, loss.item()

        shift = self.step.shift(gradient, trained, seed_of(self.seed, number, 0))
        self.logged = {"by": 0.0, **shift.logged}
        if shift.by is None:
            return
        with moved(trained, shift.by) as away:
            self.logged["by"] = get_total_norm(away()).item()
            *self._gradient, _ = self._mean(of_terms, trained, batches, number)  # the engine averages over processes
        if self.step.added is None:
            self.names = self.terms
        else:
            torch._foreach_mul_(self._gradient, self.step.added)

    def row(self) -> dict[str, Any]:
        """The current optimizer step's entry in the log; empty if no term's gradient is taken at moved weights."""
        return {"moved": self.logged} if self.logged else {}

    def _of_terms(self, objective: Objective, names: Sequence[str], key: str, inputs: dict[str, Any]) -> Tensor:
        """The weighted sum of some terms of a micro-step, times its share, without the engine's wrapping."""
        trainer, batch = self.trainer, inputs.get(key, inputs["batch"])
        inputs = trainer._prepare_inputs({"batch": batch, "share": inputs["share"]})
        with trainer.compute_loss_context_manager():
            return inputs["share"] * objective.of(names, inputs["batch"])

    def _mean(
        self, loss_of: Callable[[dict], Tensor], trained: list[nn.Parameter], batches: Sequence[dict], number: int
    ) -> list[Tensor]:
        """The gradient of `loss_of` at the current weights, followed by its value, in float32: means over this
        process's micro-steps."""
        total: list[Tensor] = []
        for place, batch in enumerate(batches):
            # Each micro-step draws the same dropout masks in every pass over it, also in a resumed run.
            seed = seed_of(self.seed, number, 1 + self.trainer.accelerator.process_index, place)
            device = trained[0].device
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                torch.manual_seed(seed)
                loss = loss_of(batch)
                gradients = torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)
            each = [part.float() for part in (*gradients, loss.detach())]
            total = each if not total else torch._foreach_add(total, each)
        return torch._foreach_div(total, len(batches))

    def beside(self, loss: Tensor) -> Tensor:
        """The unchanged loss, whose backward pass also gives the trained parameters the gradient at moved weights."""
        if not self._gradient:
            return loss
        return _Beside.apply(loss, self._gradient, *trained_of(self.trainer.objective.model))


class _Beside(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loss: Tensor, gradient: list[Tensor], *trained: Tensor) -> Tensor:
        ctx.gradient, ctx.dtypes = gradient, [each.dtype for each in trained]
        return loss.clone()

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        # `upstream` is the micro-step's share of the optimizer step.
        each = ((upstream * part).to(dtype) for part, dtype in zip(ctx.gradient, ctx.dtypes, strict=True))
        return upstream, None, *each


def seed_of(*numbers: int) -> int:
    """A seed that the numbers determine together; zeros at their end make no difference."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
