"""A checkpoint whose responses are wanted: its hash, and how likely its model holds an answer."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from safeeraser.benchmark.adapters import adapter_file
from safeeraser.benchmark.conversation import IGNORE
from safeeraser.benchmark.files import sha256
from safeeraser.model.turns import Row
from safeeraser.model.vlm import VLM


def adapter_hash(checkpoint_path: Path | None) -> str | None:
    """The SHA-256 of the adapter's weights. Raises `BadInput` if there are none."""
    return sha256(adapter_file(checkpoint_path)) if checkpoint_path else None


def nll(vlm: VLM, row: Row, other: Mapping[str, Tensor] | None = None) -> Tensor:
    """The mean negative log-likelihood of a row's targets, in nats, a scalar in float32, with a gradient if wanted.

    Args:
        other: what the model is given in place of some of the row's own tensors.
    """
    targets = [place for place, label in enumerate(row.labels) if label != IGNORE]
    read = torch.tensor(targets, device=vlm.model.device) - 1
    said = vlm.logits(vlm.join([row]) | dict(other or {}), read).float()
    return cross_entropy(said, torch.tensor([row.labels[place] for place in targets], device=said.device))


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
