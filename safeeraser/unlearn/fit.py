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
from safeeraser.unlearn.engine import Engine, check_engine, engine_of_file
from safeeraser.unlearn.memory import Part
from safeeraser.unlearn.settings import Settings

GIB = 2**30
# What the estimate leaves out: CUDA and its libraries; beside other processes NCCL's buffers, and the fragments that
# pieces leave which are gathered and let go all the time, such as ZeRO-3's: a share of all.
BESIDE, BESIDE_OTHERS, FRAGMENTS = GIB, 2 * GIB, 0.05
CHECKPOINTING: dict[str, Any] = {"gradient_checkpointing": True}
FOUR_BITS: dict[str, Any] = {"quantization": "nf4"}
# What costs time or precision, the least first; under the run's own engine, then under one that shares weights out.
CHANGES = (CHECKPOINTING, FOUR_BITS, CHECKPOINTING | FOUR_BITS)
SHARING, PLAIN = "zero3.yaml", {"one": "one_gpu.yaml", "several": "ddp.yaml"}

Estimate = Callable[[Settings, Engine], list[Part]]


def free_on_gpu(settings: Settings, engine: Engine) -> float | None:
    """Bytes free on the GPU: what `gpu_memory` says, or the fullest of those that would be used here; None: no GPU."""
    if settings.gpu_memory:
        return settings.gpu_memory * GIB
    cards = range(min(engine.here or engine.processes, torch.cuda.device_count()))
    return min((torch.cuda.mem_get_info(card)[0] for card in cards), default=None)


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
    if needed <= free:
        yield f"It fits in the {room}: {needed / GIB:.1f} with what CUDA takes."
        if engine.name not in ("single", "ddp"):
            yield from quicker(settings, engine, free, estimate, items)
        return
    yield f"It does not fit in the {room}: {needed / GIB:.1f} with what CUDA takes."
    least = needed
    for words, changed, other in alternatives(settings, engine, items):
        takes = on_device(estimate(changed, other), other.processes)
        least = min(least, takes)
        if takes <= free:
            yield f"It would with {words}: {takes / GIB:.1f} GiB."
            return
    yield (
        f"Nor would it with gradient checkpointing, four bits or {SHARING}: {least / GIB:.1f} GiB at the least; "
        "a smaller batch_size, max_length or LoRA.r, or tune_mm_projector=false, takes less."
    )


def on_device(parts: list[Part], processes: int = 1) -> float:
    """Bytes on the GPU, with what the estimate leaves out."""
    counted = sum(part.device for part in parts)
    return counted * (1 + FRAGMENTS) + BESIDE_OTHERS if processes > 1 else counted + BESIDE


def quicker(settings: Settings, engine: Engine, free: float, estimate: Estimate, items: int) -> Iterator[str]:
    """That nothing need be shared out or moved, where everything fits on each GPU."""
    file = PLAIN["several" if engine.processes > 1 else "one"]
    other = other_engine(file, engine)
    if not goes_together(settings, {}, other, items):
        return
    takes = on_device(estimate(settings, other), other.processes)
    if takes <= free:
        moves = "moves gradients to CPU memory and back" if engine.offload_optimizer else "shares out what it holds"
        yield (
            f"So would it, with {takes / GIB:.1f} GiB, under ACCELERATE_CONFIG=config/accelerate/{file}, "
            f"which is quicker: {engine.name} {moves} in each step."
        )


def alternatives(settings: Settings, engine: Engine, items: int) -> Iterator[tuple[str, Settings, Engine]]:
    """What else a run could be told, in words, with the settings and the engine that it makes."""
    files = [None, SHARING] if engine.processes > 1 and not engine.shards_weights else [None]
    for file in files:
        other = other_engine(file, engine) if file else engine
        for change in [*([{}] if file else []), *CHANGES]:
            if any(getattr(settings, key) == value for key, value in change.items()):
                continue
            if not (changed := goes_together(settings, change, other, items)):
                continue
            words = [f"{key}={str(value).lower()}" for key, value in change.items()]
            words += [f"ACCELERATE_CONFIG=config/accelerate/{file}"] if file else []
            yield " and ".join(words), changed, other


def goes_together(settings: Settings, change: dict[str, Any], engine: Engine, items: int) -> Settings | None:
    """The settings with some changed; None where a run would refuse them, or them under this engine."""
    try:
        changed = Settings.model_validate(dict(settings) | change)
        check_engine(engine, changed, items=items)
    except (ValidationError, BadInput):
        return None
    return changed


def other_engine(file: str, engine: Engine) -> Engine:
    """The engine of a file in config/accelerate/, with as many processes as there are."""
    return replace(engine_of_file(Path(CONFIG, "accelerate", file)), processes=engine.processes)
