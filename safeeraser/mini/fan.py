"""Many conversations about one picture in one row: how base training affords a picture on two cores.

System text and picture make up most of a conversation, so seven questions fanned out from one beginning cost less than
half of seven conversations. Each question sees the beginning and itself, and counts its positions from there, so that
every answer gets exactly the scores that it would get alone.
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
    """Lay conversations that agree up to the end of the picture in one row."""
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
    """The model's inputs (but the pixels) and `labels`. Padding stands at the end, in a branch that nothing sees."""
    fills = (padding, IGNORE, 0, -1)
    columns = zip(zip(*rows, strict=True), fills, strict=True)
    ids, labels, positions, branches = (torch.tensor(pad(column, fill)) for column, fill in columns)
    return {"input_ids": ids, "labels": labels, "position_ids": positions, "attention_mask": mask(branches)}


def mask(branches: torch.Tensor) -> torch.Tensor:
    """Which token sees which: itself and what came before, in the shared beginning or in its own branch.

    Args:
        branches: shape [batch, length].

    Returns:
        what is added to the attention's scores, shape [batch, 1, length, length]: 0, or the lowest float.
    """
    query, key = branches[:, :, None], branches[:, None, :]
    earlier = torch.ones(branches.shape[1], branches.shape[1], dtype=torch.bool).tril()
    seen = earlier & ((key == 0) | (key == query))
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]
