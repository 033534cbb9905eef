"""Whether this machine has what an engine asks of it, found out before a model is loaded for it."""

import logging
import os
import shlex
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import TrainingArguments

from safeeraser.errors import BadInput
from safeeraser.processes import ROOM, check_gpu, tensors
from safeeraser.unlearn.batch import Collator, PlanDataset
from safeeraser.unlearn.engine import Engine

SHARED = Path("/dev/shm")  # by which loading processes hand batches over; of a container by default 64 MB


def check_machine(engine: Engine, *, build: bool) -> None:
    """Refuse an engine that could not run here.

    DeepSpeed's Adam for CPU memory is compiled on the machine, by torch, when the optimizer is first made; of CUDA it
    wants nothing. What was compiled earlier, or with DeepSpeed itself, needs no compiler any more: so where something
    is lacking it is tried, and else only to `build` it, which takes a minute or two, once.

    Raises:
        BadInput: torch cannot use the GPU that is there, there are fewer GPUs than processes, no DeepSpeed, or nothing
            to compile its Adam with.
    """
    check_gpu()
    if 0 < (cards := torch.cuda.device_count()) < engine.here:
        raise BadInput(
            f"engine: its {engine.here} processes want a GPU each, and {cards} is here; on one GPU: "
            "ACCELERATE_CONFIG=config/accelerate/one_gpu.yaml; else num_processes in a copy of the engine's file"
        )
    if not engine.deepspeed:
        return
    if find_spec("deepspeed") is None:
        raise BadInput(f"engine: {engine.name} is DeepSpeed's, which is not installed; pip install -e '.[train]'")
    # torch looks for ninja on PATH alone, where a virtual environment's need not be that was not activated.
    if not shutil.which("ninja"):
        os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), sysconfig.get_path("scripts")])
    lacking = tools_lacking() if engine.offload_optimizer else []
    if engine.offload_optimizer and (build or lacking) and (fault := build_fault()):
        raise BadInput(
            f"engine: DeepSpeed's Adam for CPU memory (offload_optimizer_device) cannot be compiled: "
            f"{' and '.join(lacking) + ' missing' if lacking else fault}; install what is missing, or do without: "
            "ACCELERATE_CONFIG=config/accelerate/ddp.yaml where everything fits on each GPU, else zero3.yaml there"
        )


def check_shared_memory(dataset: PlanDataset, collator: Collator, arguments: TrainingArguments, here: int) -> None:
    """Refuse loading processes that have no room for their batches: those that are loaded ahead, and those of the
    optimizer step that is at work, each as large as the first.

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


def tools_lacking() -> list[str]:
    """What torch compiles extensions with and does not find: a compiler, Python's headers, ninja."""
    compiler = shlex.split(os.environ.get("CXX") or "c++")[0]
    header = Path(sysconfig.get_path("include"), "Python.h")
    needed = {
        f"a C++ compiler ({compiler}; Debian: g++)": shutil.which(compiler),
        f"Python's headers ({header}; Debian: python3-dev)": header.is_file(),
        "ninja (pip install ninja)": shutil.which("ninja"),
    }
    return [name for name, found in needed.items() if not found]


def build_fault() -> str | None:
    """Compile and load DeepSpeed's Adam, if it is not there already; why it cannot be, in a line, if so."""
    noisy = logging.getLogger("torch.utils.cpp_extension")  # it fills a screen about a compiler that is not there
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        from deepspeed.ops.op_builder import CPUAdamBuilder  # takes seconds to import

        CPUAdamBuilder().load(verbose=False)
    except Exception as error:  # of whatever kind: of DeepSpeed, torch, the compiler, the dynamic loader
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return next((line for line in lines if "error:" in line), lines[0])
    finally:
        noisy.setLevel(level)
    return None
