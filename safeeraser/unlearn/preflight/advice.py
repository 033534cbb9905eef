"""Whether a run fits the GPU that is to train it, what would make it fit, and which engine is quicker where it fits."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
from pydantic import ValidationError

from safeeraser.benchmark.files import CONFIG
from safeeraser.errors import BadInput
from safeeraser.unlearn.config.settings import Settings
from safeeraser.unlearn.engine import Engine, check_engine, engine_of_file
from safeeraser.unlearn.preflight.memory import Part

GIB = 2**30
# What the estimate leaves out: CUDA and its libraries; beside other processes NCCL's buffers, and the fragments that
# pieces leave which are gathered and let go all the time, such as ZeRO-3's: a share of all.
BESIDE, BESIDE_OTHERS, FRAGMENTS = GIB, 2 * GIB, 0.05
SHARING = "zero3.yaml"
CHECKPOINTING: dict[str, Any] = {"gradient_checkpointing": True}
FOUR_BITS: dict[str, Any] = {"quantization": "nf4"}
# What would take less, the least costly first: keys, and the engine's file if it is another.
LESS: tuple[tuple[dict[str, Any], str | None], ...] = (
    (CHECKPOINTING, None),
    (FOUR_BITS, None),
    (CHECKPOINTING | FOUR_BITS, None),
    ({}, SHARING),
    (CHECKPOINTING, SHARING),
)

Estimate = Callable[[Settings, Engine], list[Part]]


def advice(settings: Settings, engine: Engine, parts: list[Part], estimate: Estimate, *, items: int) -> Iterator[str]:
    """Sentences about how a run's `parts` fit; none where no GPU is known. `items`: of the plan.

    Args:
        estimate: the parts under other settings and another engine.
    """
    free = free_on_gpu(settings, engine)
    if free is None:
        return
    room = f"{free / GIB:.1f} GiB {'of gpu_memory' if settings.gpu_memory else 'that are free on the GPU here'}"
    needed = on_device(parts, engine.processes)
    moved = (engine.here or engine.processes) * sum(part.cpu for part in parts)
    if not settings.gpu_memory and moved > (there := psutil.virtual_memory().available):
        yield f"CPU memory: all processes need {moved / GIB:.1f} GiB together, and {there / GIB:.1f} are free here."
    fits = needed <= free
    yield f"It {'fits' if fits else 'does not fit'} in the {room}: {needed / GIB:.1f} with what CUDA takes."
    if fits:
        if engine.name not in ("single", "ddp"):
            yield from _quicker(settings, engine, free, estimate, items)
        return
    least = needed
    for change, file in LESS:
        if file and (engine.processes == 1 or engine.shards_weights):
            continue
        takes = _takes(settings, change, other_engine(file, engine) if file else engine, estimate, items)
        if takes is not None and takes <= free:
            words = [f"{key}={str(value).lower()}" for key, value in change.items()]
            words += [f"ACCELERATE_CONFIG=config/accelerate/{file}"] if file else []
            yield f"It would with {' and '.join(words)}: {takes / GIB:.1f} GiB."
            return
        least = min(least, takes or least)
    yield (
        f"Nor would it with gradient checkpointing, four bits or {SHARING}: {least / GIB:.1f} GiB at the least; "
        "a smaller batch_size, max_length or LoRA.r, or tune_mm_projector=false, takes less."
    )


def _quicker(settings: Settings, engine: Engine, free: float, estimate: Estimate, items: int) -> Iterator[str]:
    """That nothing need be shared out or moved, where everything fits on each GPU."""
    file = "ddp.yaml" if engine.processes > 1 else "one_gpu.yaml"
    takes = _takes(settings, {}, other_engine(file, engine), estimate, items)
    if takes is not None and takes <= free:
        moves = "moves gradients to CPU memory and back" if engine.offload_optimizer else "shares out what it holds"
        yield (
            f"So would it, with {takes / GIB:.1f} GiB, under ACCELERATE_CONFIG=config/accelerate/{file}, "
            f"which is quicker: {engine.name} {moves} in each step."
        )


def free_on_gpu(settings: Settings, engine: Engine) -> float | None:
    """Bytes free on the GPU: what `gpu_memory` says, or the fullest of those that would be used here; None: no GPU."""
    if settings.gpu_memory:
        return settings.gpu_memory * GIB
    cards = range(min(engine.here or engine.processes, torch.cuda.device_count()))
    return min((torch.cuda.mem_get_info(card)[0] for card in cards), default=None)


def on_device(parts: list[Part], processes: int = 1) -> float:
    """Bytes on the GPU, with what the estimate leaves out."""
    counted = sum(part.device for part in parts)
    return counted * (1 + FRAGMENTS) + BESIDE_OTHERS if processes > 1 else counted + BESIDE


def other_engine(file: str, engine: Engine) -> Engine:
    """The engine of a file in config/accelerate/, with as many processes as there are."""
    return replace(engine_of_file(Path(CONFIG, "accelerate", file)), processes=engine.processes)


def _takes(settings: Settings, change: dict[str, Any], engine: Engine, estimate: Estimate, items: int) -> float | None:
    """Bytes on the GPU with some keys changed; None where a run has them so already, or would refuse them."""
    if any(getattr(settings, key) == value for key, value in change.items()):
        return None
    try:
        changed = Settings.model_validate(dict(settings) | change)
        check_engine(engine, changed, items=items)
    except (ValidationError, BadInput):
        return None
    return on_device(estimate(changed, engine), engine.processes)
