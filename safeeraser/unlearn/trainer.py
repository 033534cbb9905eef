"""The training loop: transformers' Trainer, with the loss of a method, run on a plan, logging every term by name."""

import os
import shutil
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, ProgressCallback, Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from safeeraser.benchmark.family import Family
from safeeraser.benchmark.files import RUN_FILE, append_json_line
from safeeraser.model import adapter_parameters, baked, load_sines, logits_and_states, plainly_named, save_sines
from safeeraser.unlearn.callbacks import KeepLogs, OwnMasks, Progress
from safeeraser.unlearn.interrupt import Interruption, leave_group
from safeeraser.unlearn.mask import Mask
from safeeraser.unlearn.masters import add_up_in_float32, whole
from safeeraser.unlearn.mean import Mean
from safeeraser.unlearn.methods import Method
from safeeraser.unlearn.moved import MovedGradient
from safeeraser.unlearn.record import TRAIN_LOG
from safeeraser.unlearn.reference import untouched
from safeeraser.unlearn.settings import Stop
from safeeraser.unlearn.steps import Step
from safeeraser.unlearn.stop import Guard
from safeeraser.unlearn.terms import LOSSES, Positions, divergence
from safeeraser.unlearn.weights import Weights

STAGING = ".checkpoint-being-written"


class UnlearnTrainer(Trainer):
    """Minimizes the sum of a method's terms over a plan, in the plan's order.

    One forward serves all views of a micro-step, and the vocabulary head runs only at positions that some term reads.
    The reference is the same model with its adapter switched off, if it is not given one. A micro-step's loss is a mean
    over its items, and an optimizer step's gradient the mean over its items, on all processes: a micro-step counts by
    how many it has, which differs where the plan's last one is not full.
    """

    loss_is_scaled_for_ga = False  # a mean over the micro-step: Trainer divides it by the number of micro-steps

    def __init__(
        self,
        *,
        method: Method,
        step: Step,
        family: Family,
        stop: Stop,
        reference: nn.Module | None = None,
        mask: Mask | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        add_up_in_float32(self.accelerator)
        self.method, self.family, self.reference = method, family, reference
        self.losses = method.losses(self.model, self.args.seed, self.args.device)
        self.head = self.model.get_output_embeddings()  # of the model itself, whatever it comes to be wrapped in
        self.mask = mask
        if mask:
            mask.apply(self.model)
        self.guard, self.weights = Guard(stop, method), Weights(method)
        self.moved = MovedGradient(step, step.moved_terms(method), self.args.seed, self.accelerator)
        self.mean = Mean(step.averaged)
        self.interruption = Interruption()
        # The guard comes before the interruption: of a run that is stopped it decides.
        for callback in (KeepLogs(), OwnMasks(), self.mean, self.guard, self.interruption, Progress()):
            self.add_callback(callback)
        for noisy in (PrinterCallback, ProgressCallback):
            self.remove_callback(noisy)
        self.items_seen = 0  # in this sitting, by all processes
        self._micro_steps: list[Tensor] = []  # of the current step
        self._step: Tensor  # of all processes, when they are through

    @property
    def interrupted(self) -> int:
        """The signal that has ended the run before its plan did; 0: none has."""
        return self.interruption.agreed if self.interruption.ends and not self.guard.stopped else 0

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
        items = sum(batch["items"] for batch in batches)
        for batch in batches:
            batch["share"] = batch["items"] * len(batches) / items  # of those of the mean micro-step: 1 in full ones
        model = self.accelerator.unwrap_model(self.model)
        self.moved.take(model, batches, self._moved_loss, self.state.global_step)
        return batches, count

    def _prepare_inputs(self, inputs: dict) -> dict:
        """A micro-step on the device, copied while the GPU is at work, without what is for the moved weights."""
        inputs = {key: value for key, value in inputs.items() if key != "moved"}
        inputs = send_to_device(inputs, self.args.device, non_blocking=self.accelerator.non_blocking)
        return super()._prepare_inputs(inputs)

    def _moved_loss(self, batch: dict) -> Tensor:
        """The terms whose gradient is taken at moved weights, weighed and summed up."""
        inputs = self._prepare_inputs(batch.get("moved", batch))
        with self.compute_loss_context_manager():
            _, values = self._values(self.accelerator.unwrap_model(self.model), inputs, self.moved.terms)
            return batch["share"] * torch.stack([self.weights[name] * value for name, value in values.items()]).sum()

    def compute_loss(self, model: nn.Module, inputs: dict, return_outputs: bool = False, **_: Any) -> Tensor:
        """The method's loss on one micro-step, as a scalar; its terms are kept for the log."""
        logits, values = self._values(model, inputs, self.losses)
        apart = self.moved.names
        loss = torch.stack(
            [self.weights[name] * (value.detach() if name in apart else value) for name, value in values.items()]
        ).sum()
        if apart or not len(logits):
            # Engines wait for the backward pass at the model's output, of which no term may have taken anything.
            loss = loss + logits[:0].sum()
        self.items_seen += inputs["items"] * self.accelerator.num_processes
        share = inputs.get("share", 1.0)
        told = [torch.full_like(loss, each) for each in (self.interruption.received, share)]
        self._micro_steps.append(torch.stack([*told, loss, *values.values()]).detach().float())
        if self.accelerator.sync_gradients:
            # The step's last micro-step, and still before the optimizer, which DeepSpeed calls within the backward.
            told = self._gather_micro_steps()
            self.interruption.agreed, self._step = int(told[:, 0].max()), told[:, 1:]
            means = self._means()
            self.guard.judge(means, self.control)
            self.weights.follow(means)
        return share * self.moved.beside(loss, self.accelerator.unwrap_model(self.model))

    def _values(self, model: nn.Module, inputs: dict, names: Iterable[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """The logits that some term reads, and the terms named, before weighing."""
        places = {layer: group["read"] for layer, group in inputs["states"].items()}
        logits, states = logits_and_states(model, inputs["inputs"], inputs["read"], places, self.family, self.head)
        # Split once for all terms, each of which would else have a gradient of the size of all logits.
        read = {layer: each.split(_group(inputs, layer)["runs"]) for layer, each in [(None, logits), *states.items()]}
        return logits, {
            name: self.losses[name](self._positions(name, inputs, read[self.method.terms[name].layer]))
            for name in names
        }

    def _means(self) -> dict[str, float]:
        """The step's `loss` and its terms, by name."""
        means = (self._step[:, :1] * self._step[:, 1:]).mean(0)
        return dict(zip(("loss", *self.method.terms), means.tolist(), strict=True))

    def _positions(self, name: str, inputs: dict, read: Sequence[Tensor]) -> Positions:
        """What term `name` takes of what was `read`, in runs, and what it compares with."""
        targets, item = (self._taken(name, inputs, key) for key in ("targets", "item"))
        at = _joined([read[number] for number in _group(inputs, self.method.terms[name].layer)["takes"][name]])
        reference = self._reference(name, inputs) if name in inputs["reference"] else None
        return Positions(at, targets, item, inputs["items"], reference, inputs["view"].get(name))

    def _taken(self, name: str, inputs: dict, key: str) -> Tensor:
        """Of the `targets`, or the numbers of each `item`, those at the places that term `name` reads."""
        group = _group(inputs, self.method.terms[name].layer)
        runs = group[key].split(group["runs"])
        return _joined([runs[number] for number in group["takes"][name]])

    @torch.no_grad()
    def _reference(self, name: str, inputs: dict) -> Tensor:
        """What term `name` compares with: of the untouched model's logits or states at the places that it reads, all,
        or the targets' negative log-likelihood. Only the rows that it reads are run."""
        term, given = self.method.terms[name], inputs["reference"][name]
        entries, read = given["entries"], given["read"]
        batch = {key: inputs["inputs"][key][where] for key, where in entries.items()}
        states = {} if term.layer is None else {term.layer: read}
        with untouched(self.accelerator.unwrap_model(self.model), self.reference) as model:
            found, kept = logits_and_states(model, batch, read[:0] if states else read, states, self.family)
        if LOSSES[term.loss].reference == "nll":
            return divergence(found, self._taken(name, inputs, "targets"))
        return found if term.layer is None else kept[term.layer]

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """As Trainer says, but for matrices with weights that are held: decay would move these too."""
        held = self.mask.held if self.mask else ()
        return [name for name in super().get_decay_parameter_names(model) if name not in held]

    def floating_point_ops(self, inputs: dict) -> int:
        """As Trainer counts them, which looks for the model's inputs among the batch's own keys."""
        return super().floating_point_ops(inputs["inputs"])

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the terms to each step's row and append it to `<save_dir>/train_log.jsonl`."""
        super().log(logs, start_time)
        if "loss" not in logs:
            return
        means = self._means()
        row = {
            "step": self.state.global_step,
            "loss": means.pop("loss"),
            "grad_norm": logs.get("grad_norm"),
            "learning_rate": logs["learning_rate"],
            "terms": means,
            "micro_losses": self._step[:, 1].tolist(),
        }
        if self.weights.of_step:
            row["weights"] = self.weights.of_step
        if self.moved.told:
            row["moved"] = self.moved.told
        if not self.args.fp16:  # whose loss scaling meets such gradients now and then, and passes over them
            self.guard.judge_gradient(row["grad_norm"], self.control)
        if self.guard.stopped:
            row["stopped"] = self.guard.stopped
            self.control.should_save = False  # saving comes after logging
        if self.is_world_process_zero():
            append_json_line(Path(self.args.output_dir) / TRAIN_LOG, row)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the adapter as it is trained, gathering nothing else for it; a model trained whole as Trainer does."""
        if not isinstance(self.model, PeftModel):
            return super().save_model(output_dir, _internal_call)
        weights = baked(whole(adapter_parameters(self.model)))
        with plainly_named(self.model):
            self._save(output_dir, state_dict=weights)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Take a checkpoint's adapter up again, where no engine has kept the parameters themselves, as FSDP has."""
        if self.is_fsdp_enabled:
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        with plainly_named(self.model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_sines(self.model, resume_from_checkpoint)

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
            folder = staging / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            for keeper in (self.guard, self.mean):
                keeper.save(folder, self.model, self.args.process_index)
            if self.is_world_process_zero():
                self.weights.save(folder)
                if not (self.is_deepspeed_enabled or self.is_fsdp_enabled):  # which keep parameters of their own
                    save_sines(self.model, folder)
                shutil.copy(run_dir / RUN_FILE, folder)  # what tells of an adapter tells of this one too
                if self.mask:
                    self.mask.write(folder)
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
        """Signal, share, loss and terms of each micro-step since the last step, (micro-steps, 3 + terms), in the plan's
        order."""
        mine = torch.stack(self._micro_steps)
        self._micro_steps = []
        everyone = self.accelerator.gather(mine[None])  # (processes, micro-steps, 3 + terms)
        # Micro-step k of the plan went to process k mod n.
        return everyone.transpose(0, 1).reshape(-1, mine.shape[1])


def _group(inputs: dict, layer: int | None) -> dict:
    """What of a batch tells of the places whose logits are read, or the states of a layer."""
    return inputs if layer is None else inputs["states"][layer]


def _joined(runs: Sequence[Tensor]) -> Tensor:
    """One behind the other. A run alone is taken as it is: joining would copy it, and its gradient."""
    return runs[0] if len(runs) == 1 else torch.cat(list(runs))
