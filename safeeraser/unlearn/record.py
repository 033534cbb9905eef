"""`run.json`: a run's settings, what it ran on, and how it went, so that a result carries its configuration."""

import platform
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from safeeraser.benchmark.adapters import RUN_FILE
from safeeraser.benchmark.files import read_json, read_json_lines
from safeeraser.benchmark.origin import git_commit, now, versions
from safeeraser.unlearn.config.settings import Settings
from safeeraser.unlearn.job import Job
from safeeraser.unlearn.save_dir import TRAIN_LOG

PACKAGES = ("torch", "transformers", "peft", "accelerate")


@dataclass(frozen=True)
class Unlearned:
    """A run that is through: where its adapter lies, and what `run.json` says of it.

    `not_sent`: why it is not at the hub, though `push_to_hub` asked for that.
    """

    save_dir: Path
    record: dict[str, Any]
    not_sent: str = ""

    @classmethod
    def read(cls, save_dir: Path) -> "Unlearned":
        """The run that `save_dir` holds."""
        return cls(save_dir, read_json(save_dir / RUN_FILE))

    @property
    def steps(self) -> int:
        """Optimizer steps taken."""
        return self.record["sittings"][-1]["to_step"]

    @property
    def stopped(self) -> dict[str, Any] | None:
        """The bound that ended it before its time and the step whose adapter was kept, if one did."""
        return self.record["sittings"][-1]["stopped"]

    @property
    def log(self) -> list[dict[str, Any]]:
        """A row an optimizer step: `step, loss, grad_norm, learning_rate, terms, micro_losses`; `weights`, `moved`."""
        return read_json_lines(self.save_dir / TRAIN_LOG)


def describe(settings: Settings, job: Job, trained: dict[str, int]) -> dict[str, Any]:
    """What is known of a run before it starts. `trained`: the trained parameters by group."""
    return {
        "title": settings.title,
        "settings": settings.model_dump(mode="json"),
        **job.origin,
        "data": job.data.record,
        "optimizer_steps": job.schedule.steps,
        "warmup_steps": job.schedule.warmup,
        "items_left_out": job.schedule.left_out,
        "engine": job.engine.record,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "trained_parameters": trained,
        "versions": {"python": platform.python_version()} | versions(*PACKAGES),
        "git_commit": git_commit(),
        "started": now(),
        "sittings": [],
    }


def measure_sitting(accelerator: Accelerator, seconds: float, items: int) -> dict[str, Any]:
    """How a sitting went: `seconds` of training over `items` of the plan, peak memory the largest of the processes'."""
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peaks = accelerator.gather(torch.tensor([[gpu, process]], device=accelerator.device)).amax(0).tolist()
    return {
        "seconds": round(seconds, 3),
        "items_per_second": round(items / seconds, 3),
        "peak_gpu_bytes": peaks[0] or None,
        "peak_process_bytes": peaks[1],
    }
