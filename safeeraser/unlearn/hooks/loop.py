"""Small hooks: consistent logs, dropout masks, checkpoints at chosen steps, a progress bar, the projector's state."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ProgressCallback

from safeeraser.benchmark.files import keep_json_lines
from safeeraser.model.projector import moved_by
from safeeraser.unlearn.hook import Hook
from safeeraser.unlearn.hooks.moved import seed_of
from safeeraser.unlearn.save_dir import PROBE_LOG, TRAIN_LOG


class KeepLogs(Hook):
    """Keeps the logs consistent when a run is resumed: drops the rows after the checkpoint's step."""

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            for name in (TRAIN_LOG, PROBE_LOG):
                keep_json_lines(Path(args.output_dir) / name, lambda row: row["step"] <= state.global_step)


class OwnMasks(Hook):
    """Makes each process draw its own dropout masks.

    All processes have drawn the adapter from one seed, and would go on to draw the same masks. A resumed run restores
    the checkpoint's random state after this hook.
    """

    def on_train_begin(self, args, state, control, **kwargs):
        if args.process_index:  # process 0 draws the same as a run with one process
            torch.manual_seed(seed_of(args.seed, args.process_index))


class SaveAfter(Hook):
    """Has Trainer write a checkpoint after each of the given optimizer steps, which need not be evenly spaced."""

    def __init__(self, steps: Sequence[int]) -> None:
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step in self.steps:
            control.should_save = True


class Progress(ProgressCallback, Hook):
    """Trainer's progress bar with the newest loss next to it, in place of a line of output for each step."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is not None and "loss" in logs:
            self.training_bar.set_postfix_str(f"loss {logs['loss']:.3f}", refresh=False)


class MovedProjector(Hook):
    """Keeps a projector's trained D in checkpoints (model/projector.py), because the adapter has only the weight that W
    and D make. DeepSpeed and FSDP save D themselves, so nothing is kept under them."""

    file = "sines.safetensors"

    def state_dict(self) -> dict[str, Tensor]:
        return {name: each.detach().cpu() for name, each in self._moved_by().items()}

    @torch.no_grad()
    def load_state_dict(self, kept: dict[str, Any] | None) -> None:
        for name, parameter in self._moved_by().items():
            there = (kept or {}).get(name)
            if there is None or there.shape != parameter.shape:
                raise ValueError(f"not what the projector was moved by (nothing for {name})")
            parameter.copy_(there)

    def _moved_by(self) -> dict[str, nn.Parameter]:
        kept_elsewhere = self.trainer.is_deepspeed_enabled or self.trainer.is_fsdp_enabled
        return {} if kept_elsewhere else moved_by(self.trainer.model)
