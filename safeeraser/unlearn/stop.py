"""When a run ends before its plan does, and which adapter it then keeps.

Gradient ascent has no floor: the loss on the forget view can run away and take the whole model along. The losses of a
step judge the adapter before that step, so the last good adapter is the one of the last step whose losses were good.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft.utils.integrations import gather_params_ctx  # gathers what ZeRO-3 has split, and does nothing elsewhere
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl

from safeeraser.unlearn.methods import Method
from safeeraser.unlearn.settings import Stop

LAST_GOOD = "last_good.pt"


def reason_to_stop(stop: Stop, method: Method, losses: Mapping[str, float]) -> str | None:
    """Why a run ends after a step with these losses: None if it does not.

    Args:
        losses: the mean of each term over the optimizer step, by name, before weighting; more names may be there.
    """
    if stop.not_finite:
        for name, value in losses.items():
            if not math.isfinite(value):
                return f"stop.not_finite: {name} is {value}"
    for name, term in method.terms.items():
        if stop.forget_loss is not None and term.views == ["forget"] and losses[name] > stop.forget_loss:
            return f"stop.forget_loss={stop.forget_loss:g}: the term {name} is {losses[name]:.4g}"
        if stop.retain_loss is not None and "retain" in term.views and losses[name] > stop.retain_loss:
            return f"stop.retain_loss={stop.retain_loss:g}: the term {name} is {losses[name]:.4g}"
    return None


def unreachable_bounds(stop: Stop, method: Method) -> list[str]:
    """The bounds that are set though no term of the method could pass them."""
    views = [term.views for term in method.terms.values()]
    found = []
    if stop.forget_loss is not None and ["forget"] not in views:
        found.append("stop.forget_loss")
    if stop.retain_loss is not None and not any("retain" in names for names in views):
        found.append("stop.retain_loss")
    return found


class Guard(TrainerCallback):
    """Judges each step's losses, ends the run where a bound is passed, and gives the model the last good adapter back.

    Copies of the trained parameters wait in CPU memory: of the adapter before the current step, which that step's
    losses will judge, and of the last one that was judged good.
    """

    def __init__(self, stop: Stop, method: Method) -> None:
        self.stop, self.method = stop, method
        self.active = stop.not_finite or stop.forget_loss is not None or stop.retain_loss is not None
        self.stopped: dict[str, Any] | None = None
        self._before: tuple[int, list[Tensor]] = (0, [])
        self._good: tuple[int, list[Tensor]] = (0, [])

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if self.active:
            trained = _trained(model)
            with gather_params_ctx(trained, modifier_rank=None):
                copies = _copy([_own(parameter) for parameter in trained], self._before[1])
            self._before = (state.global_step, copies)

    def judge(self, losses: Mapping[str, float], control: TrainerControl) -> None:
        """Judge the adapter before the current step by the losses that it gave."""
        reason = reason_to_stop(self.stop, self.method, losses) if self.active else None
        if reason:
            self._end(reason, control)
        else:
            self._before, self._good = self._good, self._before

    def judge_gradient(self, norm: float | None, control: TrainerControl) -> None:
        """After the step: a gradient that is not finite has spoilt the adapter that the next losses would judge."""
        if self.stop.not_finite and norm is not None and not math.isfinite(norm) and not self.stopped:
            self._end(f"stop.not_finite: the norm of the gradient is {norm}", control)

    def _end(self, reason: str, control: TrainerControl) -> None:
        # With no step judged good, the adapter that the run began with is all there is.
        step, _ = self._good if self._good[1] else self._before
        self.stopped = {"reason": reason, "adapter_of_step": step}
        control.should_training_stop = True

    def on_train_end(self, args, state, control, model=None, **kwargs):
        if self.stopped:
            trained = _trained(model)
            with gather_params_ctx(trained, modifier_rank=0):
                for parameter, value in zip(trained, self._good[1] or self._before[1], strict=True):
                    _own(parameter).copy_(value)

    def save(self, folder: Path) -> None:
        """Keep the last good adapter in a checkpoint, whose own adapter is yet to be judged."""
        if self._good[1]:
            torch.save(self._good, folder / LAST_GOOD)

    def resume(self, folder: str | Path) -> None:
        """Take the last good adapter up again from a checkpoint."""
        file = Path(folder) / LAST_GOOD
        if self.active and file.is_file():
            self._good = torch.load(file, weights_only=True)


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _own(parameter: nn.Parameter) -> Tensor:
    """What this process holds of a parameter: all of it, or under FSDP its part."""
    return parameter.to_local().detach() if isinstance(parameter, DTensor) else parameter.data


def _copy(tensors: list[Tensor], into: list[Tensor]) -> list[Tensor]:
    if not into:
        return [tensor.detach().to("cpu", copy=True) for tensor in tensors]
    for target, tensor in zip(into, tensors, strict=True):
        target.copy_(tensor)
    return into
