"""The gradient of some terms at moved weights, which an optimizer step takes in the place of theirs where the weights
are (`safeeraser.unlearn.objective.step` says how far they are moved, and for which terms).

It is taken before the step's own passes, by `torch.autograd.grad`, of which neither DDP nor DeepSpeed hears; and the
weights are back before those begin. So the losses that are logged, judged and followed by weights are, under any step,
those of the weights that the optimizer then moves.
"""

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from safeeraser.unlearn.hooks.hook import Hook
from safeeraser.unlearn.masters import moved
from safeeraser.unlearn.objective.step import Step
from safeeraser.unlearn.state import trained_of


class MovedGradient(Hook):
    """Takes it, and adds it to each micro-step's own.

    Attributes:
        names: the terms whose own gradient is left out in the current optimizer step.
        told: of the current optimizer step, for the log.
    """

    def __init__(self, step: Step, terms: Sequence[str], seed: int) -> None:
        self.step, self.terms, self.seed = step, terms, seed
        self.names: Sequence[str] = ()
        self.told: dict[str, float] = {}
        self._gradient: list[Tensor] = []

    def take(self, batches: Sequence[dict[str, Any]], number: int) -> None:
        """Take that of optimizer step `number`, over this process's `batches`, or nothing where nothing is to be moved.
        All processes come here together."""
        self.names, self.told, self._gradient = (), {}, []
        if not self.terms or not batches:
            return
        model = self.trainer.forward.bare
        model.train()
        trained = trained_of(model)

        def mean() -> list[Tensor]:
            return self._mean(trained, batches, number)

        def everyones() -> list[Tensor]:
            return [self.trainer.accelerator.reduce(each, "mean") for each in mean()]

        shift = self.step.shift(everyones, trained, seed_of(self.seed, number, 0))
        self.told = {"by": 0.0, **shift.told}
        if shift.by is None:
            return
        with moved(trained, shift.by) as away:
            self.told["by"] = get_total_norm(away()).item()
            self._gradient = mean()  # the engine forms the mean over processes
        self.names = self.terms

    def row(self) -> dict[str, Any]:
        return {"moved": self.told} if self.told else {}

    def _loss(self, inputs: dict[str, Any]) -> Tensor:
        """The terms whose gradient is taken so, weighed and summed up, of a micro-step, in no engine's wrapping."""
        trainer, batch = self.trainer, inputs.get("moved", inputs["batch"])
        inputs = trainer._prepare_inputs({"batch": batch, "share": inputs["share"]})
        with trainer.compute_loss_context_manager():
            bare = replace(trainer.forward, model=trainer.forward.bare)
            return inputs["share"] * trainer.objective.of(self.terms, inputs["batch"], bare)

    def _mean(self, trained: list[nn.Parameter], batches: Sequence[dict], number: int) -> list[Tensor]:
        """The gradient where the weights now are, over this process's micro-steps, in float32."""
        total: list[Tensor] = []
        for place, batch in enumerate(batches):
            # Dropout draws the same at both places, and as it would had the run not been interrupted.
            seed = seed_of(self.seed, number, 1 + self.trainer.accelerator.process_index, place)
            with _drawn_from(seed, trained[0].device):
                found = torch.autograd.grad(self._loss(batch), trained, allow_unused=True, materialize_grads=True)
            found = [each.float() for each in found]
            total = found if not total else torch._foreach_add(total, found)
        return torch._foreach_div(total, len(batches))

    def beside(self, loss: Tensor, model: nn.Module) -> Tensor:
        """The loss as it is, whose backward pass gives the trained parameters this gradient too."""
        return _Beside.apply(loss, self._gradient, *trained_of(model)) if self.names else loss


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


@contextmanager
def _drawn_from(seed: int, device: torch.device):
    """Draw random numbers from a seed; what was drawn meanwhile is not missing afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
