"""The training loop: transformers' Trainer, run on a plan. What is minimized is the `Objective`'s, all else hooks'."""

import shutil
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, ProgressCallback, Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from safeeraser.benchmark.adapters import RUN_FILE
from safeeraser.benchmark.files import append_json_line
from safeeraser.model.lora import adapter_parameters
from safeeraser.model.projector import baked, plainly_named
from safeeraser.unlearn.hooks.ending import Interruption, leave_group
from safeeraser.unlearn.hooks.moved import MovedGradient
from safeeraser.unlearn.masters import add_up_in_float32, gather
from safeeraser.unlearn.objective.objective import Objective
from safeeraser.unlearn.save_dir import TRAIN_LOG
from safeeraser.unlearn.state import State, checkpoint_written_whole


class StepLosses:
    """Collects the losses of a process's micro-steps, and in a step's last one gathers everybody's as the plan goes.

    Attributes:
        micro: the loss of each of the step's micro-steps.
        means: `loss`, and by name each term before weighing, as means over the step's items.
    """

    def __init__(self, terms: Iterable[str]) -> None:
        self.names = ("loss", *terms)
        self.micro: list[float] = []
        self.means: dict[str, float] = {}
        self._mine: list[Tensor] = []  # of the current step, of this process

    def add(self, loss: Tensor, terms: Mapping[str, Tensor], *, share: float, signal: int) -> None:
        """Note a micro-step's loss and terms, scalars; its share of the step's items; the signal that has come in."""
        flags = [torch.full_like(loss, each) for each in (signal, share)]
        self._mine.append(torch.stack([*flags, loss, *terms.values()]).detach().float())

    def gather(self, accelerator: Accelerator) -> int:
        """Make `micro` and `means` of what all processes have noted; returns the signal that some of them has got."""
        mine, self._mine = torch.stack(self._mine), []
        everyone = accelerator.gather(mine[None])  # (processes, micro-steps, 2 + names)
        # Micro-step k of the plan went to process k mod n.
        in_order = everyone.transpose(0, 1).reshape(-1, mine.shape[1])
        signals, shares, losses = in_order.split([1, 1, len(self.names)], 1)
        self.micro = losses[:, 0].tolist()
        self.means = dict(zip(self.names, (shares * losses).mean(0).tolist(), strict=True))
        return int(signals.max())


class UnlearnTrainer(Trainer):
    """Wires an objective and hooks, and logs every term by name.

    A micro-step's loss is a mean over its items, and an optimizer step's gradient the mean over its items, on all
    processes: a micro-step counts by its `share` of them, which differs where the plan's last one is not full.

    Args:
        kept: the states of the run's hooks, which hear of a step in this order; `moved` and `interruption` among them.
    """

    loss_is_scaled_for_ga = False  # a mean over the micro-step: Trainer divides it by the number of micro-steps

    def __init__(
        self,
        *,
        objective: Objective,
        kept: State,
        moved: MovedGradient,
        interruption: Interruption,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        add_up_in_float32(self.accelerator)
        self.objective, self.kept, self.hooks = objective, kept, kept.hooks
        self.moved, self.interruption = moved, interruption
        self.items_seen = 0  # in this sitting, by all processes
        self.losses = StepLosses(objective.method.terms)
        for hook in self.hooks:
            hook.begin(self)
        for callback in (kept, *self.hooks):
            self.add_callback(callback)
        # Trainer's own bar goes; or ours, where Trainer has none because none is wanted.
        for noisy in (PrinterCallback, ProgressCallback):
            self.remove_callback(noisy)

    def get_train_dataloader(self) -> DataLoader:
        """As Trainer makes it, but that no signal reaches the processes that load data, and batches stay where they are
        until their turn: Trainer takes an optimizer step's at once, whose pictures may fill a GPU."""
        loader = super().get_train_dataloader()
        loader.device = None
        base = loader.base_dataloader
        base.worker_init_fn = partial(leave_group, base.worker_init_fn)
        return loader

    def get_batch_samples(self, *given: Any) -> tuple[list, Any]:
        """An optimizer step's micro-steps, before which its gradient at moved weights is taken."""
        batches, count = super().get_batch_samples(*given)
        items = sum(inputs["batch"].items for inputs in batches)
        for inputs in batches:
            # Of the items of the mean micro-step: 1 in full ones.
            inputs["share"] = inputs["batch"].items * len(batches) / items
        self.moved.take(batches, self.state.global_step)
        return batches, count

    def _prepare_inputs(self, inputs: dict) -> dict:
        """A micro-step on the device, copied while the GPU is at work, without the batches that `moved` takes."""
        inputs = {key: value for key, value in inputs.items() if key in ("batch", "share")}
        return send_to_device(inputs, self.args.device, non_blocking=self.accelerator.non_blocking)

    def compute_loss(self, model: nn.Module, inputs: dict, return_outputs: bool = False, **_: Any) -> Tensor:
        """The objective of one micro-step, a scalar, with which its gradient at moved weights comes."""
        batch, share = inputs["batch"], inputs.get("share", 1.0)
        loss, terms = self.objective(batch, model, apart=self.moved.names)
        self.items_seen += batch.items * self.accelerator.num_processes
        self.losses.add(loss, terms, share=share, signal=self.interruption.received)
        if self.accelerator.sync_gradients:
            # The step's last micro-step, and still before the optimizer, which DeepSpeed calls in the backward pass.
            self.interruption.agreed = self.losses.gather(self.accelerator)
            for hook in self.hooks:
                hook.on_losses(self.losses.means, self.control)
        return share * self.moved.beside(loss)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the terms to each step's row and append it to `<save_dir>/train_log.jsonl`."""
        super().log(logs, start_time)
        if "loss" not in logs:
            return
        (_, loss), *terms = self.losses.means.items()
        row = {"step": self.state.global_step, "loss": loss, "grad_norm": logs.get("grad_norm")}
        row |= {"learning_rate": logs["learning_rate"], "terms": dict(terms), "micro_losses": self.losses.micro}
        for hook in self.hooks:
            row |= hook.row()
        if self.is_world_process_zero():
            append_json_line(Path(self.args.output_dir) / TRAIN_LOG, row)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """As Trainer says, but for matrices with weights that are held: decay would move these too."""
        held = {name for hook in self.hooks for name in hook.held}
        return [name for name in super().get_decay_parameter_names(model) if name not in held]

    def floating_point_ops(self, inputs: dict) -> int:
        """As Trainer counts them, which looks for the model's inputs among the batch's own keys."""
        return super().floating_point_ops(inputs["batch"].inputs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the adapter as it is trained, gathering nothing else for it; a model trained whole as Trainer does."""
        if not isinstance(self.model, PeftModel):
            return super().save_model(output_dir, _internal_call)
        weights = baked(self.model, gather(adapter_parameters(self.model)))
        with plainly_named(self.model):
            self._save(output_dir, state_dict=weights)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Take a checkpoint's adapter up again; FSDP has kept the parameters themselves."""
        with nullcontext() if self.is_fsdp_enabled else plainly_named(self.model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Trainer's checkpoint, whole or not at all, with the hooks' states and what describes the run."""
        run = Path(self.args.output_dir)
        with checkpoint_written_whole(self.args, self.accelerator) as staging:
            super()._save_checkpoint(model, trial)
            folder = staging / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            self.kept.save(folder, self.model)
            if self.is_world_process_zero():
                shutil.copy(run / RUN_FILE, folder)  # what describes an adapter describes this one too
