"""The training loop: transformers' Trainer, run on a plan. `Objective` gives the loss, and hooks do everything else."""

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
from safeeraser.unlearn.masters import add_up_in_float32, gathered
from safeeraser.unlearn.objective.objective import Objective
from safeeraser.unlearn.save_dir import TRAIN_LOG
from safeeraser.unlearn.state import State, checkpoint_written_whole


class StepLosses:
    """Collects a process's losses by micro-step. The last micro-step of a step gathers all processes' losses.

    Attributes:
        micro: the losses of the optimizer step's micro-steps on all processes, in the plan's order.
        means: `loss`, and each term by name before weighting, as means over the optimizer step's items.
    """

    def __init__(self, terms: Iterable[str]) -> None:
        self.names = ("loss", *terms)
        self.micro: list[float] = []
        self.means: dict[str, float] = {}
        self._mine: list[Tensor] = []  # of this process in the current optimizer step

    def add(self, loss: Tensor, terms: Mapping[str, Tensor], *, share: float, signal: int) -> None:
        """Record a micro-step: loss and terms (scalars), share of the items, and the signal received (0: none)."""
        flags = [torch.full_like(loss, each) for each in (signal, share)]
        self._mine.append(torch.stack([*flags, loss, *terms.values()]).detach().float())

    def gather(self, accelerator: Accelerator) -> int:
        """Compute `micro` and `means` from all processes' records. Returns a signal that any process received, or 0."""
        mine, self._mine = torch.stack(self._mine), []
        everyone = accelerator.gather(mine[None])  # (processes, micro-steps, 2 + names)
        # Micro-step k of the plan went to process k mod n.
        in_order = everyone.transpose(0, 1).reshape(-1, mine.shape[1])
        signals, shares, losses = in_order.split([1, 1, len(self.names)], 1)
        self.micro = losses[:, 0].tolist()
        self.means = dict(zip(self.names, (shares * losses).mean(0).tolist(), strict=True))
        return int(signals.max())


class UnlearnTrainer(Trainer):
    """A Trainer that minimizes an objective, calls hooks, and logs every term by name.

    A micro-step's loss is the mean over its items. An optimizer step's gradient is the mean over its items on all
    processes. So a micro-step is weighted by its `share` of items, which is not 1 if the plan's last one is not full.

    Args:
        kept: the run's hooks with their states, in the order of their calls; `moved` and `interruption` among them.
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
        # Remove Trainer's own bar. If bars are disabled, Trainer has none, and this removes ours.
        for noisy in (PrinterCallback, ProgressCallback):
            self.remove_callback(noisy)

    def get_train_dataloader(self) -> DataLoader:
        """Trainer's loader, except that signals do not reach its workers, and batches stay in CPU memory until they
        are used. Trainer fetches all batches of an optimizer step at once, and their pictures could fill a GPU."""
        loader = super().get_train_dataloader()
        loader.device = None
        base = loader.base_dataloader
        base.worker_init_fn = partial(leave_group, base.worker_init_fn)
        return loader

    def get_batch_samples(self, *given: Any) -> tuple[list, Any]:
        """The micro-steps of an optimizer step. First the step's gradient at moved weights is computed."""
        batches, count = super().get_batch_samples(*given)
        items = sum(inputs["batch"].items for inputs in batches)
        for inputs in batches:
            # The micro-step's items relative to the mean micro-step: 1 if all are full.
            inputs["share"] = inputs["batch"].items * len(batches) / items
        self.moved.take(batches, self.state.global_step)
        return batches, count

    def _prepare_inputs(self, inputs: dict) -> dict:
        """A micro-step on the device, copied while the GPU works, without the batches that only `moved` reads."""
        inputs = {key: value for key, value in inputs.items() if key in ("batch", "share")}
        return send_to_device(inputs, self.args.device, non_blocking=self.accelerator.non_blocking)

    def compute_loss(self, model: nn.Module, inputs: dict, return_outputs: bool = False, **_: Any) -> Tensor:
        """The objective of one micro-step, a scalar. Its backward pass also adds the gradient at moved weights."""
        batch, share = inputs["batch"], inputs.get("share", 1.0)
        loss, terms = self.objective(batch, model, apart=self.moved.names)
        self.items_seen += batch.items * self.accelerator.num_processes
        self.losses.add(loss, terms, share=share, signal=self.interruption.received)
        if self.accelerator.sync_gradients:
            # The step's last micro-step. Hooks precede the optimizer, which DeepSpeed calls in the backward pass.
            self.interruption.agreed = self.losses.gather(self.accelerator)
            for hook in self.hooks:
                hook.on_losses(self.losses.means, self.control)
        return share * self.moved.beside(loss)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as Trainer does, and append a row with the step's terms to `<save_dir>/train_log.jsonl`."""
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
        """Trainer's names, without the matrices that have held weights: weight decay would move held weights too."""
        held = {name for hook in self.hooks for name in hook.held}
        return [name for name in super().get_decay_parameter_names(model) if name not in held]

    def floating_point_ops(self, inputs: dict) -> int:
        """Trainer's count for the model's inputs, which Trainer itself would look for among the keys of `inputs`."""
        return super().floating_point_ops(inputs["batch"].inputs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the adapter's trained values, gathering nothing else. Trainer saves a model without adapter."""
        if not isinstance(self.model, PeftModel):
            return super().save_model(output_dir, _internal_call)
        weights = baked(self.model, dict(gathered(adapter_parameters(self.model))))
        with plainly_named(self.model):
            self._save(output_dir, state_dict=weights)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load a checkpoint's weights, in which the projector has ordinary names, except in a checkpoint of FSDP's."""
        with nullcontext() if self.is_fsdp_enabled else plainly_named(self.model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write Trainer's checkpoint with the hooks' states and `run.json`, either complete or not at all."""
        run = Path(self.args.output_dir)
        with checkpoint_written_whole(self.args, self.accelerator) as staging:
            super()._save_checkpoint(model, trial)
            folder = staging / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            self.kept.save(folder, self.model)
            if self.is_world_process_zero():
                shutil.copy(run / RUN_FILE, folder)  # it describes this checkpoint as it describes the run's adapter
