"""The losses of which terms are made: pure functions of tensors.

A loss sees the positions that its term reads, flattened over the rows of its views, and gives one number. It is a mean
over *items* (an item is what a micro-step of batch size 1 takes), never over the tokens of several items: so eight
micro-steps of one item have exactly the gradient of one micro-step of eight.

A new loss is a function here, an entry in `LOSSES` and a test.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 64  # positions at a time: 8 MB in float32 with a vocabulary of 32,000


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
    return at.mean(divergence(at.logits, at.targets))


def kl(at: Positions) -> Tensor:
    """KL(p_ref || p), averaged over the positions of each item and then over the items.

    The release's `batchmean` divides by the positions, since it flattens them into the batch.
    """
    return at.mean(divergence(at.logits, at.reference))


def divergence(logits: Tensor, wanted: Tensor) -> Tensor:
    """How far each position's distribution is from the one wanted there, (N,): differentiable in `logits` (N, V).

    `wanted` is a token each (N,), which gives its negative log-likelihood, or logits (N, V), which give the KL
    divergence from theirs. Beside the gradient it takes no memory of the size of the logits, of which plain torch keeps
    several copies in float32.
    """
    return _Divergence.apply(logits, wanted)


class _Divergence(torch.autograd.Function):
    """Both losses have the gradient softmax(logits) - p_wanted, so nothing need be kept but what came in."""

    @staticmethod
    def forward(ctx, logits: Tensor, wanted: Tensor) -> Tensor:
        ctx.save_for_backward(logits, wanted)
        return torch.cat([_divergence(*chunk) for chunk in _chunks(logits, wanted)])

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple[Tensor, None]:
        gradient = torch.empty_like(ctx.saved_tensors[0])
        for into, g, logits, wanted in _chunks(gradient, upstream, *ctx.saved_tensors):
            p = torch.softmax(logits.float(), -1)
            if wanted.dim() == 1:
                p.scatter_add_(1, wanted[:, None], torch.full_like(p[:, :1], -1))
            else:
                p -= torch.softmax(wanted.float(), -1)
            into.copy_(p.mul_(g[:, None]))
        return gradient, None


def _divergence(logits: Tensor, wanted: Tensor) -> Tensor:
    if wanted.dim() == 1:
        return F.cross_entropy(logits.float(), wanted, reduction="none")
    p, p_ref = (torch.log_softmax(values.float(), -1) for values in (logits, wanted))
    return F.kl_div(p, p_ref, reduction="none", log_target=True).sum(-1)


def _chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(tensor.split(CHUNK) for tensor in tensors), strict=True)


@dataclass(frozen=True)
class Loss:
    """A loss function, and whether it must be given the untouched model's logits."""

    function: Callable[[Positions], Tensor]
    needs_reference: bool = False


LOSSES = {
    "nll": Loss(nll),
    "kl": Loss(kl, needs_reference=True),
}
