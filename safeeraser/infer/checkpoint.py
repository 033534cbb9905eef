"""How likely a model holds an answer, and which tokens it holds for likeliest.

Attacks by gradients and on states go by both.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from safeeraser.benchmark.conversation import IGNORE
from safeeraser.model.turns import Row
from safeeraser.model.vlm import VLM


def nll(vlm: VLM, row: Row, other: Mapping[str, Tensor] | None = None) -> Tensor:
    """The mean negative log-likelihood of a row's targets, in nats, a scalar in float32, with a gradient if wanted.

    Args:
        other: what the model is given in place of some of the row's own tensors.
    """
    labels = torch.tensor(row.labels[1:], device=vlm.model.device)  # of what follows each place
    read = (labels != IGNORE).nonzero()[:, 0]
    logits = vlm.logits(vlm.join([row]) | dict(other or {}), read)
    return cross_entropy(logits.float(), labels[read])


def first_targets(row: Row, count: int) -> Row:
    """The row up to its first `count` targets."""
    end = next(place for place, label in enumerate(row.labels) if label != IGNORE) + count
    return Row(row.input_ids[:end], row.labels[:end], row.inputs)


@torch.no_grad()
def append_likeliest(vlm: VLM, row: Row, count: int) -> Row:
    """A prompt's row with the `count` likeliest tokens behind it, one after the other, as its targets."""
    for _ in range(count):
        last = torch.tensor([len(row.input_ids) - 1], device=vlm.model.device)
        token = int(vlm.logits(vlm.join([row]), last).argmax())
        row = Row([*row.input_ids, token], [*row.labels, token], row.inputs)
    return row
