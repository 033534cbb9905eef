"""Checks before a model is loaded: whether this machine, or the GPU that is to train, meets a run's needs; which
changes would make the run fit; and which engine is faster if it fits."""

import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import torch
from pydantic import ValidationError
from torch.utils.cpp_extension import get_default_build_root
from transformers import TrainingArguments

from safeeraser.benchmark.files import CONFIG
from safeeraser.errors import BadInput
from safeeraser.processes import ROOM, check_gpu, tensors
from safeeraser.unlearn.config.engine import Engine, check_engine, engine_of_file
from safeeraser.unlearn.config.settings import Settings
from safeeraser.unlearn.data.batch import Collator, PlanDataset
from safeeraser.unlearn.preflight.memory import Part

SHARED = Path("/dev/shm")  # loading processes hand batches over in it; a container has 64 MB by default
GIB = 2**30
# The estimate leaves out CUDA and its libraries. With several processes it also leaves out NCCL's buffers, and the
# fragments left by pieces that are gathered and freed all the time, such as ZeRO-3's: a share of the total.
BESIDE, BESIDE_OTHERS, FRAGMENTS = GIB, 2 * GIB, 0.05
SHARING = "zero3.yaml"
CHECKPOINTING: dict[str, Any] = {"gradient_checkpointing": True}
FOUR_BITS: dict[str, Any] = {"quantization": "nf4"}
# Changes that take less memory, the least costly first: keys, and the engine's file if the engine changes.
LESS: tuple[tuple[dict[str, Any], str | None], ...] = (
    (CHECKPOINTING, None),
    (FOUR_BITS, None),
    (CHECKPOINTING | FOUR_BITS, None),
    ({}, SHARING),
    (CHECKPOINTING, SHARING),
)

Estimate = Callable[[Settings, Engine], list[Part]]


def check_machine(engine: Engine) -> None:
    """Refuse an engine that could not run here.

    Raises:
        BadInput: torch cannot use the GPU, there are fewer GPUs than processes, or DeepSpeed or a tool to compile its
            CPU Adam is missing. The CPU Adam is compiled when the optimizer is made.
    """
    check_gpu()
    if 0 < (cards := torch.cuda.device_count()) < engine.here:
        raise BadInput(
            f"engine: its {engine.here} processes need a GPU each, and this machine has {cards}; on one GPU use "
            "ACCELERATE_CONFIG=config/accelerate/one_gpu.yaml, else lower num_processes in a copy of the engine's file"
        )
    if not engine.deepspeed:
        return
    if find_spec("deepspeed") is None:
        raise BadInput(f"engine: {engine.name} is DeepSpeed's, which is not installed; pip install -e '.[train]'")
    # torch looks for ninja only on PATH. A virtual environment that was not activated is not on PATH.
    if not shutil.which("ninja"):
        os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), sysconfig.get_path("scripts")])
    compiler = (os.environ.get("CXX") or "c++").split()[0]
    lacking = [name for name in (compiler, "ninja") if not shutil.which(name)] if engine.offload_optimizer else []
    # The Adam may have been compiled earlier, by torch or with DeepSpeed itself.
    built = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    if lacking and not any(built.rglob("cpu_adam.so")) and find_spec("deepspeed.ops.adam.cpu_adam_op") is None:
        raise BadInput(
            f"engine: DeepSpeed's Adam for CPU memory (offload_optimizer_device) is compiled here, without "
            f"{' and '.join(lacking)} (Debian: g++; pip install ninja); install what is missing, or do without: "
            "ACCELERATE_CONFIG=config/accelerate/ddp.yaml where everything fits on each GPU, else zero3.yaml there"
        )


def check_shared_memory(dataset: PlanDataset, collator: Collator, arguments: TrainingArguments, here: int) -> None:
    """Refuse loading processes that have no room for their batches: the batches that are loaded ahead and the batches
    of the current optimizer step, each as large as the first.

    Args:
        here: how many training processes share this machine.
    """
    workers = arguments.dataloader_num_workers
    if not workers or not SHARED.is_dir():
        return
    batch = collator([dataset[number] for number in range(min(arguments.train_batch_size, len(dataset)))])
    ahead = workers * arguments.dataloader_prefetch_factor + arguments.gradient_accumulation_steps
    needed, free = max(here, 1) * ahead * sum(each.nbytes for each in tensors(batch)), shutil.disk_usage(SHARED).free
    if needed > free:
        raise BadInput(
            f"workers={workers}: {ahead} batches of pictures take {needed / 2**20:,.0f} MiB of shared memory, and "
            f"{free / 2**20:,.0f} are free in {SHARED}; {ROOM}"
        )


def advice(settings: Settings, engine: Engine, parts: list[Part], estimate: Estimate, *, items: int) -> Iterator[str]:
    """Sentences about how a run's `parts` fit; none if no GPU is known. `items`: the number of items in the plan.

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
    """A sentence on a faster engine that shards and offloads nothing, if everything fits on each GPU."""
    file = "ddp.yaml" if engine.processes > 1 else "one_gpu.yaml"
    takes = _takes(settings, {}, other_engine(file, engine), estimate, items)
    if takes is not None and takes <= free:
        moves = "moves gradients to CPU memory and back" if engine.offload_optimizer else "shares out what it holds"
        yield (
            f"It also fits, with {takes / GIB:.1f} GiB, under ACCELERATE_CONFIG=config/accelerate/{file}, "
            f"which is faster: {engine.name} {moves} in each step."
        )


def free_on_gpu(settings: Settings, engine: Engine) -> float | None:
    """Bytes free on the GPU: `gpu_memory` if set, else the least of the GPUs that the run would use; None: no GPU."""
    if settings.gpu_memory:
        return settings.gpu_memory * GIB
    cards = range(min(engine.here or engine.processes, torch.cuda.device_count()))
    return min((torch.cuda.mem_get_info(card)[0] for card in cards), default=None)


def on_device(parts: list[Part], processes: int = 1) -> float:
    """Bytes on the GPU, including the overhead that the estimate leaves out."""
    counted = sum(part.device for part in parts)
    return counted * (1 + FRAGMENTS) + BESIDE_OTHERS if processes > 1 else counted + BESIDE


def other_engine(file: str, engine: Engine) -> Engine:
    """The engine of a file in config/accelerate/, with as many processes as `engine` has."""
    return replace(engine_of_file(Path(CONFIG, "accelerate", file)), processes=engine.processes)


def _takes(settings: Settings, change: dict[str, Any], engine: Engine, estimate: Estimate, items: int) -> float | None:
    """Bytes on the GPU with some keys changed; None if the run has one of the values already, or would refuse them."""
    if any(getattr(settings, key) == value for key, value in change.items()):
        return None
    try:
        changed = Settings.model_validate(dict(settings) | change)
        check_engine(engine, changed, items=items)
    except (ValidationError, BadInput):
        return None
    return on_device(estimate(changed, engine), engine.processes)
