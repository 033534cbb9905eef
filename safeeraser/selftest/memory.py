"""The memory that two optimizer steps take, beside what the dry run foretells; and so which size fits this machine."""

import gc
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import psutil
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedConfig

from safeeraser.benchmark.release import RELEASED_TYPE
from safeeraser.errors import BadInput
from safeeraser.model.load import choose_dtype, load_config
from safeeraser.selftest.families import FAMILIES
from safeeraser.selftest.material import Bench, architecture
from safeeraser.selftest.result import Figure
from safeeraser.selftest.training import load_trainer
from safeeraser.unlearn.config.settings import Settings
from safeeraser.unlearn.engine import Engine
from safeeraser.unlearn.preflight.advice import GIB, on_device
from safeeraser.unlearn.preflight.dry_run import largest_step, outline, planned_step
from safeeraser.unlearn.preflight.memory import MicroStep, Part, Setup, memory
from safeeraser.unlearn.trainer import UnlearnTrainer

# The estimate is an upper bound by a little: beside real training of a LLaVA of 118M on a CPU it was 0.1% to 2.3% too
# high. It leaves out the micro-steps' own tensors, and what an allocator rounds up: 5% is for these. One that is more
# than a tenth too high keeps people from cards that would do.
LEAST, MOST = 0.95, 1.1
SMALL = GIB  # on a GPU, workspaces of cuBLAS (tens of MB) are much beside a model that takes less than this
DISK = {"tiny": 0.2, "1b": 8, "7b": 30}  # GiB: the weights, an adapter an engine, three checkpoints
CONTEXT = GIB // 2  # of CUDA's own, of the process that looks on while others train


def check(bench: Bench) -> Iterator[Figure]:
    """The estimate over what was counted."""
    settings = bench.settings(
        bench.folder / "memory", max_train_steps=2, gradient_accumulation_steps=2, save_model=False
    )
    parts, weights, peak = measure(settings)
    estimated, counted = sum(part.device for part in parts), weights + peak
    yield Figure("counted at the peak", counted / 2**20, unit="MiB")
    if torch.cuda.is_available() and counted < SMALL:
        yield Figure("estimated over counted", None, note="a model this small is lost beside cuBLAS's workspaces")
    else:
        yield Figure("estimated over counted", estimated / counted, LEAST, MOST)


def measure(settings: Settings) -> tuple[list[Part], int, int]:
    """The estimate's parts; bytes of the weights, and of the most that was given out beside them in a whole run.

    On a GPU torch's allocator tells its peak. On a CPU it tells each piece given out and taken back to the profiler.
    Copies that the estimate has in CPU memory are left out on a GPU, and counted in `device` on a CPU.
    """
    trainer = load_trainer(settings)
    parts = estimate(settings, trainer)
    held_models = [held for held in (trainer.model, trainer.forward.second) if held is not None]
    weights = sum(parameter.nbytes for held in held_models for parameter in held.parameters())
    gc.collect()  # what was there before would be freed meanwhile, and subtracted
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        trainer.train()
        return parts, before, torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        trainer.train()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return [replace(part, device=part.device + part.cpu, cpu=0) for part in parts], weights, max(accumulate(changes))


def estimate(settings: Settings, trainer: UnlearnTrainer) -> list[Part]:
    """What the dry run would tell of this run."""
    dtype = choose_dtype(settings.dtype)
    model = outline(settings, load_config(settings.model_path), dtype)
    return memory(model, Setup(settings, Engine(), dtype), planned_step(settings, trainer.train_dataset))


def needed(size: str, **keys: object) -> float:
    """Bytes that a step on a model of this size takes, by the dry run's estimate, with what CUDA takes."""
    settings = Bench(Path(), size).settings(Path(), **keys)
    dtype, config = choose_dtype(settings.dtype), architecture(size)
    return on_device(
        memory(outline(settings, config, dtype), Setup(settings, Engine(), dtype), worst_step(settings, config))
    )


def worst_step(settings: Settings, config: PreTrainedConfig) -> MicroStep:
    """A micro-step of the longest conversations that `max_length` allows, as if they were all answer. Pictures are
    counted for LLaVA-1.5 alone, whose numbers tell what they take."""
    tokens, picture = 1, {}
    if config.model_type == RELEASED_TYPE:
        side = config.vision_config.image_size
        tokens = (side // config.vision_config.patch_size) ** 2
        picture = {"pixel_values": torch.zeros(1, 3, side, side)}
    item = dict.fromkeys(settings.method.views, (settings.max_length - 1 + tokens, settings.max_length))
    return largest_step(settings, [item] * settings.batch_size, picture)


def free() -> float:
    """Bytes free on the fullest GPU, or in the machine's memory."""
    cards = range(torch.cuda.device_count())
    return min((torch.cuda.mem_get_info(card)[0] for card in cards), default=psutil.virtual_memory().available)


def choose_size(wanted: str | None, folder: Path) -> str:
    """The size that is wanted, or the largest that fits; on a CPU, tiny.

    Raises:
        BadInput: the one that is wanted fits neither memory nor disk.
    """
    if wanted in FAMILIES:
        return wanted
    sizes = [wanted] if wanted else ["7b", "1b", "tiny"] if torch.cuda.is_available() else ["tiny"]
    room, disk = free() - CONTEXT, shutil.disk_usage(folder).free
    for size in sizes:
        takes, on_disk = needed(size), DISK[size] * GIB
        if takes <= room and on_disk <= disk:
            return size
    if takes > room:
        raise BadInput(
            f"--size {size}: a step takes {takes / GIB:.1f} GiB of memory, and {room / GIB:.1f} are free; a "
            "smaller --size fits"
        )
    raise BadInput(
        f"--size {size}: takes {on_disk / GIB:g} GiB of disk, and {disk / GIB:.1f} are free in the folder for "
        "temporary files; TMPDIR names another"
    )
