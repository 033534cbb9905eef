"""Launches whose processes find all libraries imported: each line of stdin is one, answered by process and exit code.

Importing takes a process longer than most commands here. So `accelerate launch` is called in a fork of this process,
and its workers are forks again (PET_START_METHOD=fork, PET_RUN_PATH=1), each of which goes through a whole series of
commands, `series.py COMMANDS.json`. The test of a killed launch shows that a run launched by itself is the same.
"""

import json
import logging
import multiprocessing
import os
import runpy
import sys
from importlib import import_module
from pathlib import Path

import deepspeed  # noqa: F401  (for the forks)
from accelerate.commands.launch import launch_command, launch_command_parser
from accelerate.state import AcceleratorState, GradientState
from hydra.core.global_hydra import GlobalHydra
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from safeeraser.processes import leave_together
from safeeraser.unlearn import run


def launch(config, commands, log, cwd, env):
    """Run the commands under the engine of the file `config`."""
    os.chdir(cwd)
    with open(log, "w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    os.environ |= env
    launch_command(launch_command_parser().parse_args(["--config_file", config, __file__, commands]))


if __name__ == "__main__" and not sys.argv[1:]:
    for line in sys.stdin:
        process = multiprocessing.get_context("fork").Process(target=launch, args=json.loads(line))
        process.start()
        print(process.pid, flush=True)
        process.join()
        print(process.exitcode, flush=True)
elif __name__ == "__main__":
    if stand_in := os.environ.get("GPU_ENGINES_ON_CPUS"):
        runpy.run_path(stand_in)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run.leave_together = lambda: None  # the processes stay together until all runs are through
    for script, *words in json.loads(Path(sys.argv[1]).read_text()):
        # Settings of accelerate's and DeepSpeed's outlive a run; the latter's would split what is only outlined.
        AcceleratorState._reset_state()
        GradientState._reset_state()
        unset_hf_deepspeed_config()
        GlobalHydra.instance().clear()
        sys.argv[1:] = words
        import_module(script).main.__wrapped__()
    leave_together()
