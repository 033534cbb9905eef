"""Train parameters step by step, with saved states from which a killed run resumes."""

import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from safeeraser.benchmark.files import write_whole
from safeeraser.errors import BadInput

WARM_UP = 0.05  # share of the steps
KEEP_EVERY = 120  # seconds between two saved states; a larger model's takes seconds to write
Tick = Callable[[float], None]


class Part(NamedTuple):
    """Parameters that share one learning rate; `rate` is its peak."""

    parameters: list[nn.Parameter]
    rate: float


def fit(
    parts: Sequence[Part],
    loss_of_step: Callable[[], torch.Tensor],
    steps: int,
    tick: Tick,
    kept: Path | None,
    draws: Sequence[random.Random],
) -> None:
    """Train the parts with AdamW, each step on a new loss. Biases and norms do not decay; gradient norms are at most 1.

    Args:
        tick: called with each step's loss; for the steps of an earlier run, with the loss of its last step.
        kept: the file in which the state is saved every two minutes and at the end, to resume from; None: no file.
        draws: the generators that a step's loss draws from. They are saved, so a resumed run draws as if uninterrupted.

    Raises:
        BadInput: `kept` is damaged.
    """
    parameters = [each for part in parts for each in part.parameters]
    optimizer = torch.optim.AdamW([group for part in parts for group in _groups(part)], betas=(0.9, 0.98), fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_share(step, steps))
    done, loss, last = 0, 0.0, time.monotonic()
    if kept and kept.is_file():
        told = _read(kept)
        done, loss = told["step"], told["loss"]
        _go_on(told, parameters, optimizer, scheduler, draws)
        for _ in range(done):
            tick(loss)
    while done < steps:
        lost = loss_of_step()
        optimizer.zero_grad(set_to_none=True)
        lost.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        scheduler.step()
        done, loss = done + 1, lost.item()
        tick(loss)
        if kept and (done == steps or time.monotonic() - last > KEEP_EVERY):
            state = {"step": done, "loss": loss, "values": [each.data for each in parameters]}
            if done < steps:
                state |= {"optimizer": optimizer.state_dict(), "rate": scheduler.state_dict()}
            with write_whole(kept, "wb") as handle:
                torch.save(state | {"draws": [each.getstate() for each in draws]}, handle)
            last = time.monotonic()


def _read(kept: Path) -> dict[str, Any]:
    """Read a saved state. Raises `BadInput` if the file is damaged."""
    try:
        return torch.load(kept, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds of error for a damaged file
        why = type(error).__name__
        raise BadInput(f"{kept}: no state of a training to go on from ({why}); remove it to begin anew") from None


def _go_on(
    told: dict[str, Any],
    parameters: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    draws: Sequence[random.Random],
) -> None:
    """Restore a saved state. After the end of training it has no optimizer and no scheduler."""
    for parameter, value in zip(parameters, told["values"], strict=True):
        parameter.data.copy_(value)
    for each, drawn in zip(draws, told["draws"], strict=True):
        each.setstate(drawn)
    if "optimizer" in told:
        optimizer.load_state_dict(told["optimizer"])
        scheduler.load_state_dict(told["rate"])


def rate_share(step: int, steps: int) -> float:
    """The learning rate as a share of its peak: a linear warm-up, then a half cosine down to zero."""
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def _groups(part: Part) -> list[dict[str, Any]]:
    return [
        {"params": [p for p in part.parameters if p.ndim > 1], "weight_decay": 0.02, "lr": part.rate},
        {"params": [p for p in part.parameters if p.ndim <= 1], "weight_decay": 0.0, "lr": part.rate},
    ]
