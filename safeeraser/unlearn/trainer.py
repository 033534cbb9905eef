"""The training loop: transformers' Trainer, with the loss of a method, run on a plan, logging every term by name."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import ProgressCallback, Trainer, TrainerCallback
from transformers.trainer_utils import rotate_checkpoints

from safeeraser.benchmark.files import read_json_lines, write_whole
from safeeraser.unlearn.methods import Method
from safeeraser.unlearn.terms import LOSSES, Positions

MODEL_INPUTS = ("input_ids", "attention_mask", "pixel_values")
TRAIN_LOG = "train_log.jsonl"
STAGING = ".checkpoint-being-written"


class UnlearnTrainer(Trainer):
    """Minimizes the sum of a method's terms over a plan, in the plan's order.

    One forward serves all views of a micro-step, and the vocabulary head runs only at positions that some term reads.
    The reference is the same model with its adapter switched off. A micro-step's loss is a mean over its items, and an
    optimizer step's gradient the mean over its micro-steps, on all processes.
    """

    loss_is_scaled_for_ga = False  # a mean over the micro-step: Trainer divides it by the number of micro-steps

    def __init__(self, *, method: Method, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.method = method
        self._micro_steps: list[Tensor] = []

    def compute_loss(self, model: nn.Module, inputs: dict, return_outputs: bool = False, **_: Any) -> Tensor:
        """The method's loss on one micro-step, as a scalar; its terms are kept for the log."""
        reads = torch.stack(list(inputs["reads"].values())).any(0)
        logits = _forward(model, inputs, reads)
        values = {
            name: LOSSES[term.loss].function(self._positions(name, inputs, reads, logits))
            for name, term in self.method.terms.items()
        }
        loss = torch.stack([self.method.terms[name].weight * value for name, value in values.items()]).sum()
        self._micro_steps.append(torch.stack([loss, *values.values()]).detach().float())
        return loss

    def _positions(self, name: str, inputs: dict, reads: Tensor, logits: Tensor) -> Positions:
        """What term `name` reads of `logits`, which are flattened over the True places of `reads`."""
        mask = inputs["reads"][name]
        rows = inputs["item"][:, None].expand_as(mask)
        needs_reference = LOSSES[self.method.terms[name].loss].needs_reference
        return Positions(
            logits=logits[mask[reads]],
            targets=inputs["targets"][mask],
            item=rows[mask],
            items=inputs["items"],
            reference=self._reference(inputs, mask) if needs_reference else None,
        )

    @torch.no_grad()
    def _reference(self, inputs: dict, mask: Tensor) -> Tensor:
        """The untouched model's logits at the True places of `mask`; only the rows that have one are run."""
        used = mask.any(1)
        peft_model: PeftModel = self.accelerator.unwrap_model(self.model)
        with peft_model.disable_adapter():
            return _forward(peft_model, {key: inputs[key][used] for key in MODEL_INPUTS}, mask[used])

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the terms to each step's row and append it to `<save_dir>/train_log.jsonl`."""
        super().log(logs, start_time)
        if "loss" not in logs:
            return
        losses = self._gather_micro_steps()
        names = ("loss", *self.method.terms)
        means = dict(zip(names, losses.mean(0).tolist(), strict=True))
        row = {
            "step": self.state.global_step,
            "loss": means.pop("loss"),
            "grad_norm": logs.get("grad_norm"),
            "learning_rate": logs["learning_rate"],
            "terms": means,
            "micro_losses": losses[:, 0].tolist(),
        }
        if self.is_world_process_zero():
            with open(Path(self.args.output_dir) / TRAIN_LOG, "a", encoding="utf-8") as handle:
                handle.write(json.dumps(row) + "\n")

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint beside its place and move it there when all processes are through: whole or not at all."""
        run_dir = Path(self.args.output_dir)
        staging = run_dir / STAGING
        if self.is_world_process_zero():
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.args.output_dir = str(staging)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.output_dir = str(run_dir)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            for checkpoint in staging.iterdir():
                shutil.rmtree(run_dir / checkpoint.name, ignore_errors=True)
                os.replace(checkpoint, run_dir / checkpoint.name)
            staging.rmdir()
            rotate_checkpoints(str(run_dir), self.args.save_total_limit)
        self.accelerator.wait_for_everyone()

    def _gather_micro_steps(self) -> Tensor:
        """Loss and terms of each micro-step since the last log, (micro-steps, 1 + terms), in the plan's order."""
        mine = torch.stack(self._micro_steps)
        self._micro_steps = []
        everyone = self.accelerator.gather(mine[None])  # (processes, micro-steps, 1 + terms)
        # Micro-step k of the plan went to process k mod n.
        return everyone.transpose(0, 1).reshape(-1, mine.shape[1])


def _forward(model: nn.Module, inputs: dict, reads: Tensor) -> Tensor:
    """Logits at the True places of `reads`, flattened row by row: (N, vocabulary)."""
    return model(**{key: inputs[key] for key in MODEL_INPUTS}, logits_to_keep=reads, use_cache=False).logits


class TrainLog(TrainerCallback):
    """Keeps `train_log.jsonl` true when a run is resumed: rows after the checkpoint's step are dropped."""

    def on_train_begin(self, args, state, control, **kwargs):
        path = Path(args.output_dir) / TRAIN_LOG
        if state.is_world_process_zero and path.exists():
            rows = [row for row in read_json_lines(path) if row["step"] <= state.global_step]
            with write_whole(path) as handle:
                handle.writelines(json.dumps(row) + "\n" for row in rows)


class Progress(ProgressCallback):
    """Trainer's progress bar with the newest loss beside it, rather than a line of output for each step."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is not None and "loss" in logs:
            self.training_bar.set_postfix_str(f"loss {logs['loss']:.3f}", refresh=False)
