"""The processes that a launcher (`accelerate launch`, `torchrun`) started for one command."""

import os
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import reduce
from operator import or_
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.utils._pytree import tree_leaves
from torch.utils.data import get_worker_info

from safeeraser.errors import BadInput

Batch = TypeVar("Batch")

ROOM = "a container has more with --ipc=host or --shm-size=8g; workers=0 needs none"  # how to get more shared memory


@dataclass(frozen=True)
class Processes:
    """The rank of this process and how many processes there are; without a launcher it is alone."""

    rank: int = 0
    count: int = 1
    group: Any = None

    @classmethod
    def join(cls) -> "Processes":
        """Join the group of the processes that a launcher started, if there is more than one."""
        count = int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1
        if count == 1:
            return cls()
        # Little is sent, so gloo will do, which runs anywhere. Processes meet soon or never, but may end days apart.
        distributed.init_process_group("gloo", timeout=timedelta(minutes=10))
        processes = cls(distributed.get_rank(), count, distributed.new_group(timeout=timedelta(days=30)))
        if torch.cuda.is_available():
            torch.cuda.set_device(processes.device)
        return processes

    @property
    def main(self) -> bool:
        """Whether this process writes the results of all processes."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """This process's GPU, or the CPU. Raises `BadInput` as `check_gpu` does."""
        check_gpu()
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())

    def gather(self, value: Any) -> list[Any]:
        """The values with which all processes call this method, in the order of their ranks; waits for all of them."""
        if self.count == 1:
            return [value]
        values = [None] * self.count
        distributed.all_gather_object(values, value, group=self.group)
        return values

    def union(self, value: Any) -> Any:
        """The union of all processes' values: a set, or a dict in which the value of the highest rank prevails."""
        return reduce(or_, self.gather(value))


def check_gpu() -> None:
    """Refuse to compute on the CPU if torch cannot use a GPU that is there: a 7B model would silently take weeks.

    Raises:
        BadInput: torch sees a GPU but cannot use it, which happens if the driver is too old for torch's CUDA version.
    """
    if torch.cuda.is_available() or not torch.cuda.device_count():
        return
    driver = "of a version that nvidia-smi does not report"
    with suppress(OSError, subprocess.SubprocessError):
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60).stdout.split()[0]
    raise BadInput(
        f"GPU: torch {torch.__version__} is built for CUDA {torch.version.cuda} and cannot use the GPU here with its "
        f"driver, {driver}; update the driver, or install a torch that is built for it (README.md, Install). "
        "To compute on the CPU, set CUDA_VISIBLE_DEVICES= (empty)"
    )


def tensors(batch: Any) -> list[Tensor]:
    """All tensors in a batch."""
    return [each for each in tree_leaves(batch) if isinstance(each, Tensor)]


def share_memory(batch: Any) -> None:
    """Move a batch into shared memory. Raises RuntimeError if shared memory is full.

    torch would move it by itself, but in a thread that only prints its errors: the command would then wait forever.
    """
    for each in tensors(batch):
        if each.numel():
            each.share_memory_()


def hand_over(batch: Batch) -> Batch:
    """A batch, moved to shared memory if a loading process made it, so that the command finds it; else unchanged.

    Raises:
        BadInput: shared memory is full.
    """
    if get_worker_info():
        try:
            share_memory(batch)
        except RuntimeError as error:
            raise BadInput(f"workers: no room to hand over pictures ({error}); {ROOM}") from None
    return batch


def leave_together() -> None:
    """End the group of processes, if there is one, once all of them have arrived here.

    gloo's threads need the interpreter once more, to release the last collective's tensors. A process that is already
    exiting by then is aborted, and the launcher stops the others too (1 run in 14).
    """
    if distributed.is_initialized():
        distributed.barrier()
        time.sleep(0.2)
        distributed.destroy_process_group()
