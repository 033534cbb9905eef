"""Run a series of commands in each of two launched processes: `series.py COMMANDS.json`."""

import json
import logging
import os
import runpy
import sys
from importlib import import_module
from pathlib import Path

import torch.distributed
from accelerate.state import AcceleratorState, GradientState
from hydra.core.global_hydra import GlobalHydra
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from safeeraser.processes import leave_together
from safeeraser.unlearn import run

prepare = run.prepare


def prepare_together(settings):
    """Let no process write before all have prepared. (A run launched alone waits here, to form its process group.)"""
    job = prepare(settings)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    return job


if __name__ == "__main__":
    if stand_in := os.environ.get("GPU_ENGINES_ON_CPUS"):
        runpy.run_path(stand_in)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run.leave_together = lambda: None  # the processes stay together until all runs are done
    run.prepare = prepare_together
    for script, *words in json.loads(Path(sys.argv[1]).read_text()):
        # Settings of accelerate and DeepSpeed outlive a run. DeepSpeed's would split the outline of the next model.
        AcceleratorState._reset_state()
        GradientState._reset_state()
        unset_hf_deepspeed_config()
        GlobalHydra.instance().clear()
        sys.argv[1:] = words
        import_module(script).main.__wrapped__()
    leave_together()
