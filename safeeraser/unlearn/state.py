"""What a checkpoint keeps beside weights, optimizer and random states, so that a resumed run ends to the bit as one
that never stopped: the state of each hook, in a file that the hook names, in the form of the file's ending.

| ending | state | whose |
|---|---|---|
| `.pt` | `Copies` of what is trained | of each process, where each trains a part (`1.mean.pt`); else of the first |
| `.safetensors` | tensors by name | of the first process |
| `.json` | an object | of the first process |
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
from safeeraser.unlearn.hooks.hook import Hook
from safeeraser.unlearn.masters import shared_out, trained_of

STAGING = ".checkpoint-being-written"


class State(TrainerCallback):
    """The states of some hooks: taken up when training begins, if it is resumed from a checkpoint, and kept with each.

    Args:
        resumed: the checkpoint's folder.
        process: this one's number.
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
        """Keep each hook's state in a checkpoint."""
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
        except Exception as error:  # whatever a damaged file makes the readers raise
            raise BadInput(f"{there}: cannot be read ({type(error).__name__})") from None


def write_state(file: Path, kept: Any) -> None:
    """Write a hook's state in the form of the file's ending."""
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
    """Have Trainer write a checkpoint beside its place, and move it there when all processes are through: it is there
    whole or not at all. Then the oldest past `save_total_limit` are removed."""
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
