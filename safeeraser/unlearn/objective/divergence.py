"""Divergences between the distributions of logits: one number per position, computed 64 positions at a time.

Apart from the gradient, they use no memory of the size of the logits. Plain torch keeps several copies in float32.
"""

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 64  # positions at a time: 8 MB in float32 with a vocabulary of 32,000


def divergence(logits: Tensor, wanted: Tensor) -> Tensor:
    """The divergence of each position's distribution from its target, (N,), differentiable in `logits` (N, V).

    `wanted` is a token for each position (N,), which gives the token's negative log-likelihood, or logits (N, V), which
    give KL(p_wanted || p).
    """
    return _Divergence.apply(logits, wanted, _divergence)


def cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    """The cross-entropy of each position's distribution to the softmax of `wanted` (N, V), (N,): KL plus a constant,
    with the same gradient and memory. A `wanted` logit of minus infinity rules its token out."""
    return _Divergence.apply(logits, wanted, _cross_entropy)


def jensen_shannon(logits: Tensor, wanted: Tensor) -> Tensor:
    """The Jensen-Shannon divergence in nats between the distributions of two sets of logits (N, V): (N,),
    differentiable in `logits`."""
    return _JensenShannon.apply(logits, wanted)


def margin(logits: Tensor) -> Tensor:
    """The largest minus the mean logit of each position: (N, V) -> (N,), in float32 if the logits are narrower."""
    return _Margin.apply(logits)


class _Divergence(torch.autograd.Function):
    """The negative log-likelihood of a token, the KL divergence and the cross-entropy. All have the gradient
    softmax(logits) - p_wanted, so only the inputs need to be kept."""

    @staticmethod
    def forward(ctx, logits: Tensor, wanted: Tensor, value: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(logits, wanted)
        return torch.cat([value(*chunk) for chunk in _chunks(logits, wanted)])

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple[Tensor, None, None]:
        """The gradient (softmax(logits) - p_wanted) upstream for `upstream` (N,): (N, V), in the logits' dtype.

        p_wanted is 1 at a wanted token, or the softmax of wanted logits. This is the gradient of a cross-entropy
        (Hinton et al. 2015, arXiv 1503.02531, section 2.1), and of a KL divergence, which differs by a constant.
        """
        gradient = torch.empty_like(ctx.saved_tensors[0])
        for into, g, logits, wanted in _chunks(gradient, upstream, *ctx.saved_tensors):
            p = torch.softmax(logits.float(), -1)
            if wanted.dim() == 1:
                p.scatter_add_(1, wanted[:, None], torch.full_like(p[:, :1], -1))
            else:
                p -= torch.softmax(wanted.float(), -1)
            into.copy_(p.mul_(g[:, None]))
        return gradient, None, None


class _JensenShannon(torch.autograd.Function):
    """(KL(p, m) + KL(q, m)) / 2 with m = (p + q) / 2, where p and q are the softmax of `logits` and of `wanted` (Lin
    1991, "Divergence measures based on the Shannon entropy")."""

    @staticmethod
    def forward(ctx, logits: Tensor, wanted: Tensor) -> Tensor:
        ctx.save_for_backward(logits, wanted)
        values = []
        for chunk in _chunks(logits, wanted):
            p, q, m = _with_mean(*chunk)
            values.append((p.exp() * (p - m) + q.exp() * (q - m)).sum(-1) / 2)
        return torch.cat(values)

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple[Tensor, None]:
        """The gradient p (log(p / m) - sum p log(p / m)) / 2 upstream for `upstream` (N,): (N, V) in the logits' dtype.

        The derivative by p is log(p / m) / 2, because the terms that come through m cancel. The softmax's Jacobian
        diag(p) - p p^T maps it to the derivative by the logits.
        """
        gradient = torch.empty_like(ctx.saved_tensors[0])
        for into, g, *chunk in _chunks(gradient, upstream, *ctx.saved_tensors):
            p, _, m = _with_mean(*chunk)
            ratio, p = p - m, p.exp()
            into.copy_(p * (ratio - (p * ratio).sum(-1, keepdim=True)) * g[:, None] / 2)
        return gradient, None


class _Margin(torch.autograd.Function):
    """Its gradient needs only the place of the largest logit (the first of equal ones), so it needs no chunks."""

    @staticmethod
    def forward(ctx, logits: Tensor) -> Tensor:
        ctx.like, (largest, where) = logits[:0], logits.max(-1, keepdim=True)
        ctx.save_for_backward(where)
        wide = torch.promote_types(logits.dtype, torch.float32)
        return largest[:, 0].to(wide) - torch.cat([chunk.to(wide).mean(-1) for (chunk,) in _chunks(logits)])

    @staticmethod
    def backward(ctx, upstream: Tensor) -> Tensor:
        """The gradient upstream (1 at the largest logit - 1 / V) for `upstream` (N,): (N, V) in the logits' dtype."""
        (where,), size = ctx.saved_tensors, ctx.like.shape[1]
        each = (upstream / -size).to(ctx.like.dtype)[:, None]
        return each.repeat(1, size).scatter_add_(1, where, upstream.to(ctx.like.dtype)[:, None])


def _divergence(logits: Tensor, wanted: Tensor) -> Tensor:
    if wanted.dim() == 1:
        return F.cross_entropy(logits.float(), wanted, reduction="none")
    p, p_ref = (torch.log_softmax(values.float(), -1) for values in (logits, wanted))
    return F.kl_div(p, p_ref, reduction="none", log_target=True).sum(-1)


def _cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    return -(torch.softmax(wanted.float(), -1) * torch.log_softmax(logits.float(), -1)).sum(-1)


def _with_mean(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The log-probabilities of two distributions and of their mean."""
    p, q = (torch.log_softmax(values.float(), -1) for values in (logits, wanted))
    return p, q, torch.logaddexp(p, q) - math.log(2)


def _chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(tensor.split(CHUNK) for tensor in tensors), strict=True)
