"""The likelihood that a model gives an answer, and the tokens that it finds likeliest.

The attacks that use gradients or hidden states call these functions.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from safeeraser.benchmark.conversation import IGNORE
from safeeraser.model.turns import Row
from safeeraser.model.vlm import VLM


def nll(vlm: VLM, row: Row, other: Mapping[str, Tensor] | None = None) -> Tensor:
    """The mean negative log-likelihood of a row's targets in nats: a float32 scalar that can be differentiated.

    Args:
        other: tensors that replace the row's own tensors of the same names.
    """
    labels = torch.tensor(row.labels[1:], device=vlm.model.device)  # of the token after each position
    read = (labels != IGNORE).nonzero()[:, 0]
    logits = vlm.logits(vlm.join([row]) | dict(other or {}), read)
    return cross_entropy(logits.float(), labels[read])


def first_targets(row: Row, count: int) -> Row:
    """The row, cut off after its first `count` targets."""
    end = next(place for place, label in enumerate(row.labels) if label != IGNORE) + count
    return Row(row.input_ids[:end], row.labels[:end], row.inputs)


@torch.no_grad()
def append_likeliest(vlm: VLM, row: Row, count: int) -> Row:
    """A prompt's row, extended by `count` greedily decoded tokens, which are its targets."""
    for _ in range(count):
        last = torch.tensor([len(row.input_ids) - 1], device=vlm.model.device)
        token = int(vlm.logits(vlm.join([row]), last).argmax())
        row = Row([*row.input_ids, token], [*row.labels, token], row.inputs)
    return row
