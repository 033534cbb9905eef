"""Hooks' states in checkpoints. With them, and with weights, optimizer and random states, a resumed run ends to the bit
like one that never stopped. Each hook names a file for its state; the file's ending decides the format.

| ending | state | saved by |
|---|---|---|
| `.pt` | `Copies` of the trained parameters | each process, if each trains a part (`1.mean.pt`); else the first |
| `.safetensors` | tensors by name | the first process |
| `.json` | an object | the first process |
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save
from torch import nn
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

from safeeraser.benchmark.files import read_object, write_json, write_whole
from safeeraser.errors import BadInput
from safeeraser.unlearn.hook import Hook
from safeeraser.unlearn.masters import shared_out, trained_of

STAGING = ".checkpoint-being-written"


class State(TrainerCallback):
    """Saves the states of hooks in each checkpoint, and restores them when a resumed run begins to train.

    Args:
        resumed: the folder of the checkpoint to resume from; None: the run is not resumed.
        process: the number of this process.
    """

    def __init__(self, hooks: Sequence[Hook], *, resumed: str | None, process: int) -> None:
        self.hooks, self.resumed, self.process = hooks, resumed, process
        self.keeping = [hook for hook in hooks if hook.file]

    def on_train_begin(self, args, state, control, **kwargs):
        for hook in self.keeping if self.resumed else ():
            file = Path(str(self.resumed)) / hook.file
            try:
                hook.load_state_dict(self._read(file))
            except ValueError as error:
                raise BadInput(f"{file}: {error}") from None

    def save(self, folder: Path, model: nn.Module) -> None:
        """Write each hook's state to the checkpoint `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        shared = shared_out(trained_of(model)[0])
        for hook in self.keeping:
            if (kept := hook.state_dict()) and (self.process == 0 or (shared and hook.file.endswith(".pt"))):
                write_state(self._mine(folder / hook.file), kept)

    def _mine(self, file: Path) -> Path:
        return file.with_name(f"{self.process}.{file.name}") if self.process else file

    def _read(self, file: Path) -> Any:
        there = next((each for each in (self._mine(file), file) if each.is_file()), None)
        if there is None or there.suffix == ".json":
            return there and read_object(there)
        try:
            return torch.load(there, weights_only=True) if there.suffix == ".pt" else load_file(there)
        except Exception as error:  # the readers raise many kinds of error for a damaged file
            raise BadInput(f"{there}: cannot be read ({type(error).__name__})") from None


def write_state(file: Path, kept: Any) -> None:
    """Write a hook's state in the format of the file's ending."""
    if file.suffix == ".json":
        write_json(file, kept)
        return
    with write_whole(file, "wb") as handle:
        if file.suffix == ".pt":
            torch.save(kept, handle)
        else:
            handle.write(save(kept))


@contextmanager
def checkpoint_written_whole(arguments: TrainingArguments, accelerator: Accelerator) -> Iterator[Path]:
    """Have Trainer write a checkpoint to a staging folder, and move it into place when all processes have written. So a
    checkpoint is never incomplete. Then remove the oldest checkpoints beyond `save_total_limit`."""
    run, first = Path(arguments.output_dir), accelerator.is_main_process
    staging = run / STAGING
    if first:
        shutil.rmtree(staging, ignore_errors=True)
    accelerator.wait_for_everyone()
    arguments.output_dir = str(staging)
    try:
        yield staging
    finally:
        arguments.output_dir = str(run)
    accelerator.wait_for_everyone()
    if first:
        for checkpoint in staging.iterdir():
            shutil.rmtree(run / checkpoint.name, ignore_errors=True)
            os.replace(checkpoint, run / checkpoint.name)
        staging.rmdir()
        rotate_checkpoints(str(run), arguments.save_total_limit)
    accelerator.wait_for_everyone()
