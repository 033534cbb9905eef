"""Whether this machine has what an engine asks of it, found out before a model is loaded for it."""

import os
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.utils.cpp_extension import get_default_build_root
from transformers import TrainingArguments

from safeeraser.errors import BadInput
from safeeraser.processes import ROOM, check_gpu, tensors
from safeeraser.unlearn.data.batch import Collator, PlanDataset
from safeeraser.unlearn.engine import Engine

SHARED = Path("/dev/shm")  # by which loading processes hand batches over; of a container by default 64 MB


def check_machine(engine: Engine) -> None:
    """Refuse an engine that could not run here.

    Raises:
        BadInput: torch cannot use the GPU that is there, there are fewer GPUs than processes, no DeepSpeed, or no
            compiler where DeepSpeed's Adam for CPU memory is compiled when the optimizer is made.
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
    compiler = (os.environ.get("CXX") or "c++").split()[0]
    lacking = [name for name in (compiler, "ninja") if not shutil.which(name)] if engine.offload_optimizer else []
    # It may have been compiled earlier, by torch or with DeepSpeed itself.
    built = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    if lacking and not any(built.rglob("cpu_adam.so")) and find_spec("deepspeed.ops.adam.cpu_adam_op") is None:
        raise BadInput(
            f"engine: DeepSpeed's Adam for CPU memory (offload_optimizer_device) is compiled here, without "
            f"{' and '.join(lacking)} (Debian: g++; pip install ninja); install what is missing, or do without: "
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
