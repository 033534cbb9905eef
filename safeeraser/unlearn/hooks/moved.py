"""The gradient of some terms at moved weights, which an optimizer step takes in the place of theirs where the weights
are, or beside it (`safeeraser.unlearn.objective.step` says how far they are moved, and for which terms).

It is taken before the step's own passes, by `torch.autograd.grad`, of which neither DDP nor DeepSpeed hears; and the
weights are back before those begin. So the losses that are logged, judged and followed by weights are, under any step,
those of the weights that the optimizer then moves.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from safeeraser.unlearn.hooks.hook import Hook
from safeeraser.unlearn.masters import moved, trained_of
from safeeraser.unlearn.objective.objective import Objective, Weights
from safeeraser.unlearn.objective.step import Step


class MovedGradient(Hook):
    """Takes it, and adds it to each micro-step's own.

    Attributes:
        names: the terms whose own gradient is left out in the current optimizer step.
        logged: of the current optimizer step, for the log.
    """

    def __init__(self, step: Step, terms: Sequence[str], seed: int) -> None:
        self.step, self.terms, self.seed = step, terms, seed
        self.names: Sequence[str] = ()
        self.logged: dict[str, Any] = {}
        self.relearned: Objective | None = None
        self._gradient: list[Tensor] = []

    def begin(self, trainer: Any) -> None:
        """Make the objective of what the step learns again, if it learns anything."""
        super().begin(trainer)
        if method := self.step.relearned:
            given = {"seed": self.seed, "device": trainer.args.device}
            self.relearned = Objective(method, Weights(method), trainer.model, trainer.objective.family, **given)

    def take(self, batches: Sequence[dict[str, Any]], number: int) -> None:
        """Take that of optimizer step `number`, over this process's `batches`, or nothing where nothing is to be moved.
        All processes come here together."""
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
            *self._gradient, _ = self._mean(of_terms, trained, batches, number)  # the engine forms that of processes
        if self.step.added is None:
            self.names = self.terms
        else:
            torch._foreach_mul_(self._gradient, self.step.added)

    def row(self) -> dict[str, Any]:
        """What the log has of the current optimizer step; nothing where no weights were moved."""
        return {"moved": self.logged} if self.logged else {}

    def _of_terms(self, objective: Objective, names: Sequence[str], key: str, inputs: dict[str, Any]) -> Tensor:
        """Some terms of a micro-step, weighed and summed up, in no engine's wrapping."""
        trainer, batch = self.trainer, inputs.get(key, inputs["batch"])
        inputs = trainer._prepare_inputs({"batch": batch, "share": inputs["share"]})
        with trainer.compute_loss_context_manager():
            return inputs["share"] * objective.of(names, inputs["batch"])

    def _mean(
        self, loss_of: Callable[[dict], Tensor], trained: list[nn.Parameter], batches: Sequence[dict], number: int
    ) -> list[Tensor]:
        """The gradient of `loss_of` where the weights now are, and then its value, in float32: means over this
        process's micro-steps."""
        total: list[Tensor] = []
        for place, batch in enumerate(batches):
            # Dropout draws the same at each place, and as it would had the run not been interrupted.
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
        """The loss as it is, whose backward pass gives the trained parameters this gradient too."""
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
        # What comes down is the micro-step's share of the optimizer step.
        each = ((upstream * part).to(dtype) for part, dtype in zip(ctx.gradient, ctx.dtypes, strict=True))
        return upstream, None, *each


def seed_of(*numbers: int) -> int:
    """A seed that numbers decide together; noughts at their end decide nothing."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
