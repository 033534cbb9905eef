"""The losses of which terms are made: pure functions of tensors.

A loss sees the positions that its term reads, flattened over the rows of its views, and gives one number. It is a mean
over *items* (an item is what a micro-step of batch size 1 takes), never over the tokens of several items: so eight
micro-steps of one item have exactly the gradient of one micro-step of eight.

A new loss is a function here, an entry in `LOSSES` and a test.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Positions:
    """The N positions that a term reads, over all rows of its views.

    Shapes: `logits` (N, V); `targets` (N,), the token that each position should predict; `item` (N,), the number of the
    item (0 to `items` - 1) that each position belongs to; `reference` (N, V), the untouched model's logits, or None.
    """

    logits: Tensor
    targets: Tensor
    item: Tensor
    items: int
    reference: Tensor | None = None

    def mean(self, values: Tensor) -> Tensor:
        """The mean over each item's positions, averaged over the items: (N,) -> scalar."""
        counts = self.item.new_zeros(self.items).scatter_add(0, self.item, torch.ones_like(self.item))
        return (values / counts[self.item]).sum() / self.items


def nll(at: Positions) -> Tensor:
    """Mean token cross-entropy of each item, averaged over the items (l_x in the README).

    With several views (`po`: refusal and retain) their tokens are pooled within the item before the mean is taken.
    """
    losses = F.cross_entropy(at.logits.float(), at.targets, reduction="none")
    return at.mean(losses)


def kl(at: Positions) -> Tensor:
    """KL(p_ref || p), averaged over the positions of each item and then over the items.

    The release's `batchmean` divides by the positions, since it flattens them into the batch.
    """
    p = F.log_softmax(at.logits.float(), dim=-1)
    p_ref = F.log_softmax(at.reference.float(), dim=-1)
    divergence = F.kl_div(p, p_ref, reduction="none", log_target=True).sum(-1)
    return at.mean(divergence)


@dataclass(frozen=True)
class Loss:
    """A loss function, and whether it must be given the untouched model's logits."""

    function: Callable[[Positions], Tensor]
    needs_reference: bool = False


LOSSES = {"nll": Loss(nll), "kl": Loss(kl, needs_reference=True)}
