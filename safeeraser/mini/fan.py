"""Pack several conversations about one picture into one row, so that base training is fast enough on two cores.

System text and picture make up most of a conversation, so seven questions that share this beginning cost less than half
of seven conversations. Each question attends to the beginning and to itself, and its positions follow on from it. So
every answer gets exactly the scores that it would get in a row of its own.
"""

from typing import NamedTuple

import torch

from safeeraser.benchmark.conversation import IGNORE, pad
from safeeraser.model.turns import Row


class Fan(NamedTuple):
    """One row: token ids, labels, positions, and for each token its branch (0 is the shared beginning)."""

    ids: list[int]
    labels: list[int]
    positions: list[int]
    branches: list[int]


def fan(conversations: list[Row], image_token: int) -> Fan:
    """Pack conversations that agree up to the end of the picture into one row."""
    row = Fan([], [], [], [])
    for branch, conversation in enumerate(conversations, 1):
        count = len(conversation.input_ids)
        shared = count - conversation.input_ids[::-1].index(image_token)
        start = 0 if branch == 1 else shared
        row.ids.extend(conversation.input_ids[start:])
        row.labels.extend(conversation.labels[start:])
        row.positions.extend(range(start, count))
        row.branches.extend(0 if index < shared else branch for index in range(start, count))
    return row


def batch(rows: list[Fan], padding: int) -> dict[str, torch.Tensor]:
    """The model's inputs (except the pixels) and `labels`. Padding is at the end, hidden from all other tokens."""
    fills = (padding, IGNORE, 0, -1)
    columns = zip(zip(*rows, strict=True), fills, strict=True)
    ids, labels, positions, branches = (torch.tensor(pad(column, fill)) for column, fill in columns)
    return {"input_ids": ids, "labels": labels, "position_ids": positions, "attention_mask": mask(branches)}


def mask(branches: torch.Tensor) -> torch.Tensor:
    """The attention mask: a token sees itself and the earlier tokens of the shared beginning and of its own branch.

    Args:
        branches: shape [batch, length].

    Returns:
        a term to add to the attention scores, shape [batch, 1, length, length]: 0, or the lowest float where hidden.
    """
    query, key = branches[:, :, None], branches[:, None, :]
    earlier = torch.ones(branches.shape[1], branches.shape[1], dtype=torch.bool).tril()
    seen = earlier & ((key == 0) | (key == query))
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]
