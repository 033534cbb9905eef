"""The losses of an optimizer step: micro-step by micro-step, of all processes, in the order of the plan."""

from collections.abc import Iterable, Mapping

import torch
from accelerate import Accelerator
from torch import Tensor


class StepLosses:
    """Collects a process's micro-steps, and in a step's last one gathers everybody's.

    Attributes:
        micro: the loss of each of the step's micro-steps.
        means: `loss`, and by name each term before weighing, as means over the step's items.
    """

    def __init__(self, terms: Iterable[str]) -> None:
        self.names = ("loss", *terms)
        self.micro: list[float] = []
        self.means: dict[str, float] = {}
        self._mine: list[Tensor] = []  # of the current step, of this process

    def add(self, loss: Tensor, terms: Mapping[str, Tensor], *, share: float, signal: int) -> None:
        """Note a micro-step's loss and terms, scalars; its share of the step's items; the signal that has come in."""
        told = [torch.full_like(loss, each) for each in (signal, share)]
        self._mine.append(torch.stack([*told, loss, *terms.values()]).detach().float())

    def gather(self, accelerator: Accelerator) -> int:
        """Make `micro` and `means` of what all processes have noted; returns the signal that some of them has got."""
        mine, self._mine = torch.stack(self._mine), []
        everyone = accelerator.gather(mine[None])  # (processes, micro-steps, 2 + names)
        # Micro-step k of the plan went to process k mod n.
        in_order = everyone.transpose(0, 1).reshape(-1, mine.shape[1])
        signals, shares, losses = in_order.split([1, 1, len(self.names)], 1)
        self.micro = losses[:, 0].tolist()
        self.means = dict(zip(self.names, (shares * losses).mean(0).tolist(), strict=True))
        return int(signals.max())
