"""The losses that terms are made of: pure functions of tensors.

A loss gets the positions that its term reads, flattened over the rows of its views, and returns one number. It is a
mean over *items* (an item is the data of a micro-step of batch size 1), never over the tokens of several items. So
eight micro-steps of one item have exactly the gradient of one micro-step of eight.

A new loss is a function here, an entry in `LOSSES` and a test. Its keyword-only arguments become keys of its term, with
their types and defaults. The defaults come from the source that the docstring names.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveFloat, TypeAdapter, ValidationError
from torch import Tensor

from safeeraser.benchmark.files import read_json
from safeeraser.errors import BadInput
from safeeraser.unlearn.objective.divergence import cross_entropy, divergence, jensen_shannon, margin
from safeeraser.unlearn.objective.loss import LAYERS, ONE_LAYER, Loss


@dataclass(frozen=True)
class Positions:
    """The N positions that a term reads, over all rows of its views.

    Attributes:
        logits: (N, V); for a loss that reads a layer's states, the states, (N, H).
        targets: (N,), the token that each position should predict.
        item: (N,), the number of the item (0 to `items` - 1) that each position belongs to, in ascending order.
        reference: the untouched model's counterpart of `logits`; or only the negative log-likelihood of the targets,
            (N,), if the loss needs no more.
        view: (N,), the index of each position's view in the term's `views`, for a loss that declares a number of views.
    """

    logits: Tensor
    targets: Tensor
    item: Tensor
    items: int
    reference: Tensor | None = None
    view: Tensor | None = None

    def mean(self, values: Tensor) -> Tensor:
        """The mean over each item's positions, averaged over the items: (N,) -> scalar."""
        counts = self.item.new_zeros(self.items).scatter_add(0, self.item, torch.ones_like(self.item))
        return (values / counts[self.item]).sum() / self.items

    def sums(self, values: Tensor) -> Tensor:
        """The sum over each item's positions: (N,) -> (items,). A GPU adds them up in the same order each time."""
        mine = torch.arange(self.items, device=self.item.device)[:, None] == self.item
        return torch.where(mine, values, 0).sum(1)

    def means(self, values: Tensor) -> Tensor:
        """The mean over each item's positions: (N,) -> (items,). It is more exact than `mean` for large values. The
        figures for the release's methods include the rounding of `mean`."""
        return self.sums(values) / self.sums(torch.ones_like(self.item))


def nll(at: Positions) -> Tensor:
    """Mean token cross-entropy of each item, averaged over the items (l_x in docs/reference/methods.md).

    With several views (`po`: refusal and retain) their tokens are pooled within the item before the mean is taken.
    """
    return at.mean(divergence(at.logits, at.targets))


def kl(at: Positions) -> Tensor:
    """KL(p_ref || p), averaged over the positions of each item and then over the items.

    The release's `batchmean` also divides by the positions, because the release flattens them into the batch.
    """
    return at.mean(divergence(at.logits, at.reference))


def npo(at: Positions, *, beta: PositiveFloat = 0.1) -> Tensor:
    """-(2 / beta) log sigmoid(beta (S - S_ref)), where S is the summed NLL of an item's answer: ascent that slows down
    as the answer becomes less likely than it was (Zhang et al. 2024, arXiv 2404.05868)."""
    # Token by token: the difference of two sums in the hundreds would be lost in float32's rounding.
    gain = divergence(at.logits, at.targets) - at.reference
    return -2 / beta * F.logsigmoid(beta * at.sums(gain)).mean()


def dpo(at: Positions, *, beta: PositiveFloat = 0.1) -> Tensor:
    """-(2 / beta) log sigmoid(beta (W - L)), where W and L are the summed log p - log p_ref of two answers. W is of the
    wanted answer, the view named first, and L of the unwanted one (Rafailov et al. 2023, arXiv 2305.18290; with a
    refusal as wanted answer, and with this factor, in Zhang et al. 2024, arXiv 2404.05868)."""
    gain = at.reference - divergence(at.logits, at.targets)
    return -2 / beta * F.logsigmoid(beta * at.sums(torch.where(at.view == 0, gain, -gain))).mean()


def simnpo(at: Positions, *, beta: PositiveFloat = 4.5, delta: float = 0.0) -> Tensor:
    """-(2 / beta) log sigmoid(beta (L - delta)), where L is the mean token NLL of an item's answer: NPO without a
    reference, and without its bias towards long answers (Fan et al. 2024, arXiv 2410.07163)."""
    means = at.means(divergence(at.logits, at.targets))
    return -2 / beta * F.logsigmoid(beta * (means - delta)).mean()


def undial(at: Positions, *, beta: float = 10.0) -> Tensor:
    """Cross-entropy to softmax(reference logits, with the target's logit lowered by beta): the reference is the
    teacher, with the answer's token played down (Dong et al. 2024, arXiv 2402.10052)."""
    reference: Tensor = at.reference
    lowered = torch.full_like(reference[:, :1], -beta)
    return at.mean(cross_entropy(at.logits, reference.scatter_add(1, at.targets[:, None], lowered)))


def wga(at: Positions, *, beta: float = 1.0) -> Tensor:
    """-(p^beta NLL), where p is the target's probability, treated as a constant: ascent that spares tokens that are
    already unlikely (Wang et al. 2025, arXiv 2502.19301)."""
    loss = divergence(at.logits, at.targets)
    return at.mean(-torch.exp(-beta * loss.detach()) * loss)


def satimp(at: Positions, *, beta1: float = 5.0, beta2: float = 1.0) -> Tensor:
    """-(p^beta1 (1 - p)^beta2 NLL), where p is the target's probability, treated as a constant: ascent where there is
    still something to forget, on the tokens that matter (Yang et al. 2025, arXiv 2505.11953)."""
    loss = divergence(at.logits, at.targets)
    p = torch.exp(-loss.detach())
    return at.mean(-(p**beta1) * (1 - p) ** beta2 * loss)


def ceu(at: Positions, *, ignore_first: NonNegativeInt = 1) -> Tensor:
    """Cross-entropy to the model's own distribution with the target's token ruled out, which is treated as a constant.
    The first tokens of an answer are left out (Yang 2025, arXiv 2503.01224)."""
    wanted = at.logits.detach().scatter(1, at.targets[:, None], float("-inf"))
    place = torch.arange(len(at.item), device=at.item.device) - torch.searchsorted(at.item, at.item)
    counted = place >= ignore_first
    counts = at.sums(counted.long()).clamp(min=1)  # an answer without a counted token contributes 0
    return (at.sums(cross_entropy(at.logits, wanted) * counted) / counts).mean()


def jsd_target(at: Positions) -> Tensor:
    """Jensen-Shannon divergence to the one-hot target: log 2 + (p log p - (1 + p) log(1 + p)) / 2, where p is the
    target's probability. The loss and its gradient are bounded (JensUn, Singh et al. 2025, arXiv 2509.02820)."""
    loss = divergence(at.logits, at.targets)
    p = torch.exp(-loss)
    return at.mean(math.log(2) - (p * loss + (1 + p) * torch.log1p(p)) / 2)


def jsd(at: Positions) -> Tensor:
    """Jensen-Shannon divergence to the reference, (KL(p ‖ m) + KL(p_ref ‖ m)) / 2, where m is the mean of p and p_ref.
    JensUn keeps retain near the untouched model with it (arXiv 2509.02820)."""
    return at.mean(jensen_shannon(at.logits, at.reference))


def flat(at: Positions) -> Tensor:
    """Squared difference between the largest and the mean logit, which is 0 only if all tokens are equally likely. It
    has no softmax, whose gradient would vanish on the way (Entesari et al. 2025, arXiv 2506.05314)."""
    return at.mean(margin(at.logits).square())


def rmu(at: Positions, control: Tensor) -> Tensor:
    """Mean squared distance of a layer's states from `control` (H,), a vector that means nothing to the layers above
    (Li et al. 2024, arXiv 2403.03218)."""
    return at.means((at.logits.float() - control).square().mean(-1)).mean()


def control_vector(width: int, seed: int, *, coefficient: float = 20.0, control_vector: Path | None = None) -> Tensor:
    """RMU's control vector, (width,), in float32: drawn uniformly from the unit cube, scaled to norm `coefficient`.

    Args:
        control_vector: a JSON file with the vector as it is: a list of numbers, or an object with a list of this name.

    Raises:
        BadInput: the file has no vector, or one of another width.
    """
    if control_vector is None:
        # On the CPU, so that it is the same on all hardware; named, because a dry run has another default device.
        generator = torch.Generator("cpu").manual_seed(seed)
        drawn = torch.rand(width, generator=generator, device="cpu")
        return drawn / drawn.norm() * coefficient
    value, numbers_of = read_json(control_vector), TypeAdapter(Annotated[list[FiniteFloat], Field(min_length=1)])
    try:
        numbers = numbers_of.validate_python(value.get("control_vector") if isinstance(value, dict) else value)
    except ValidationError:
        raise BadInput(
            f"{control_vector}: a control vector is a list of numbers, or an object that names one"
        ) from None
    if len(numbers) != width:
        raise BadInput(f"{control_vector}: a vector of {len(numbers)} numbers; the model's states have {width}")
    return torch.tensor(numbers, device="cpu")


def states(at: Positions) -> Tensor:
    """Mean squared distance of a layer's states from the reference's states: RMU's loss on the retain view."""
    reference: Tensor = at.reference
    return at.means((at.logits.float() - reference.float()).square().mean(-1)).mean()


def reroute(at: Positions) -> Tensor:
    """ReLU(cos(h, h_ref)) of a layer's states: with it, circuit breakers turn the states on forget away from the
    reference (Zou et al. 2024, arXiv 2406.04313). At h = h_ref it is at its maximum, and has no gradient."""
    reference: Tensor = at.reference
    return at.mean(F.cosine_similarity(at.logits.float(), reference.float()).relu())


def distance(at: Positions) -> Tensor:
    """|h - h_ref| of a layer's states: with it, circuit breakers keep retain near the reference (Zou et al. 2024, arXiv
    2406.04313). At h = h_ref its gradient is 0."""
    reference: Tensor = at.reference
    return at.mean(torch.linalg.vector_norm(at.logits.float() - reference.float(), dim=-1))


LOSSES = {
    "nll": Loss(nll),
    "kl": Loss(kl, reference="whole", copies=3, starts_flat=True),
    "npo": Loss(npo, reference="nll"),
    "dpo": Loss(dpo, reference="nll", views=2),
    "simnpo": Loss(simnpo),
    "undial": Loss(undial, reference="whole", copies=3),
    "wga": Loss(wga, at_most=0.0),
    "satimp": Loss(satimp, at_most=0.0),
    "ceu": Loss(ceu, views=1, copies=3),
    "jsd_target": Loss(jsd_target, at_most=math.log(2)),
    "jsd": Loss(jsd, reference="whole", copies=3, at_most=math.log(2), starts_flat=True),
    "flat": Loss(flat),
    "rmu": Loss(rmu, states=ONE_LAYER, beforehand=control_vector),
    "states": Loss(states, states=ONE_LAYER, reference="whole", starts_flat=True),
    "reroute": Loss(reroute, states=LAYERS, reference="whole", copies=3, starts_flat=True),
    "distance": Loss(distance, states=LAYERS, reference="whole", copies=3, starts_flat=True),
}
