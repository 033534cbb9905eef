"""How a run ends, and which weights it keeps: at its plan's end, where a bound is passed, or by a signal.

Gradient ascent has no floor: the loss on the forget view can run away and take the whole model along. The losses of a
step judge the adapter before that step, so the last good adapter is the one of the last step whose losses were good.
"""

import logging
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from safeeraser.unlearn.config.settings import Stop
from safeeraser.unlearn.hooks.hook import Hook
from safeeraser.unlearn.masters import Copies, copies, take_up, trained_of
from safeeraser.unlearn.objective.losses import LOSSES
from safeeraser.unlearn.objective.method import Method, Term
from safeeraser.unlearn.objective.step import taken

log = logging.getLogger(__name__)

HEEDED = (signal.SIGINT, signal.SIGTERM)  # which end a run after the optimizer step under way


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
        for key, bound in _bounds(stop, term).items():
            if losses[name] > bound:
                return f"{key}={bound:g}: the term {name} is {losses[name]:.4g}"
    return None


def unreachable_bounds(stop: Stop, method: Method) -> list[str]:
    """The bounds that are set though no term of the method could pass them."""
    known = ((term, _bounds(stop, term)) for term in method.terms.values())
    reached = {key for term, bounds in known for key, bound in bounds.items() if LOSSES[term.loss].at_most > bound}
    given = {"stop.forget_loss": stop.forget_loss, "stop.retain_loss": stop.retain_loss}
    return [key for key, bound in given.items() if bound is not None and key not in reached]


def _bounds(stop: Stop, term: Term) -> dict[str, float]:
    """The bounds on a term, by their keys: on one that reads the forget view alone, and on one that reads retain."""
    forget = stop.forget_loss if term.views == ["forget"] else None
    bounds = {"stop.forget_loss": forget, "stop.retain_loss": stop.retain_loss if "retain" in term.views else None}
    return {key: bound for key, bound in bounds.items() if bound is not None}


class Guard(Hook):
    """Judges each step's losses, ends the run where a bound is passed, and gives the model the last good adapter back.

    Copies of what this process trains wait in CPU memory: of the adapter before the current step, which that step's
    losses will judge, and of the last one that was judged good. A checkpoint keeps the latter, as its own adapter is
    yet to be judged.
    """

    file = "last_good.pt"

    def __init__(self, stop: Stop, method: Method) -> None:
        self.stop, self.method = stop, method
        self.active = stop.not_finite or stop.forget_loss is not None or stop.retain_loss is not None
        self.stopped: dict[str, Any] | None = None
        self._before: Copies = (0, [])
        self._good: Copies = (0, [])

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        """Keep the weights from before the step, for its losses show whether they were good."""
        if self.active:
            self._before = (state.global_step, copies(trained_of(model), self._before[1]))

    def on_losses(self, losses, control):
        """Judge the adapter before the current step by the losses that it gave."""
        reason = reason_to_stop(self.stop, self.method, losses) if self.active else None
        if reason:
            self._end(reason, control)
        else:
            self._before, self._good = self._good, self._before

    def on_log(self, args, state, control, logs=None, **kwargs):
        """After the step: a gradient that is not finite has spoilt the adapter that the next losses would judge. In
        float16, losses are scaled, which meets such gradients now and then, and passes over them."""
        norm = (logs or {}).get("grad_norm")
        if self.stop.not_finite and norm is not None and not math.isfinite(norm) and not (args.fp16 or self.stopped):
            self._end(f"stop.not_finite: the norm of the gradient is {norm}", control)
        if self.stopped:
            control.should_save = False  # saving comes after logging

    def _end(self, reason: str, control: Any) -> None:
        # With no step judged good, the adapter that the run began with is all there is.
        step, _ = self._good if self._good[1] else self._before
        self.stopped = {"reason": reason, "adapter_of_step": step}
        control.should_training_stop = True

    def on_train_end(self, args, state, control, model=None, **kwargs):
        """Put the last good weights in the place of those that a bound condemned."""
        if self.stopped:
            take_up(trained_of(model), self._good[1] or self._before[1])

    def row(self) -> dict[str, Any]:
        """Why and with which step's adapter the run stops; nothing while it goes on."""
        return {"stopped": self.stopped} if self.stopped else {}

    def state_dict(self) -> Copies | None:
        """The last good weights; None before there are any."""
        return self._good if self._good[1] else None

    def load_state_dict(self, kept: Copies | None) -> None:
        """Take up the last good weights of the run that is resumed."""
        if self.active and kept:
            self._good = kept


class WeightAverage(Hook):
    """Forms the mean of the last weights, in CPU memory, and gives it to the model at the plan's end.

    Checkpoints hold it beside the weights that are trained on. A run that ends before its plan does keeps the weights
    that it has, or what a bound's `Guard` gives it.
    """

    file = "mean.pt"

    def __init__(self, share: float) -> None:
        self.share = share
        self._mean: Copies = (0, [])  # of how many, and their mean

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Take the weights of this step into the mean, if the step is one of the last `share`."""
        if not taken(self.share, state.global_step, state.max_steps):
            return
        (count, mean), now = self._mean, copies(trained_of(model), [])
        for each, new in zip(mean, now, strict=bool(count)):  # the first time nothing is there
            each.lerp_(new, 1 / (count + 1))
        self._mean = (count + 1, mean or now)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        """Put the mean in the place of the weights, unless the run stopped before its last step."""
        if self._mean[0] and state.global_step == state.max_steps:
            take_up(trained_of(model), self._mean[1])

    def state_dict(self) -> Copies | None:
        """How many weights are in the mean, and the mean; None before the first."""
        return self._mean if self._mean[1] else None

    def load_state_dict(self, kept: Copies | None) -> None:
        if not self.share:
            return
        self._mean = kept or (0, [])
        state = self.trainer.state
        count, wanted = self._mean[0], taken(self.share, state.global_step, state.max_steps)
        if count != wanted:
            raise ValueError(f"the mean after {count} steps, and it should be after {wanted}")


class Interruption(Hook):
    """Notes Ctrl-C and SIGTERM, and ends the run once all processes know of it, with a checkpoint to resume it from.

    Attributes:
        received: the signal that this process has got; 0: none.
        agreed: the one that some process has got, which all know after a step's losses are gathered.
    """

    def __init__(self, guard: Guard) -> None:
        self.received, self.agreed, self.guard, self._ends = 0, 0, guard, False

    @property
    def ended_by(self) -> int:
        """The signal that has ended the run before its plan did; 0: none has. Of one that a bound ends the guard
        decides."""
        return self.agreed if self._ends and not self.guard.stopped else 0

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Note signals rather than end at once. What is ignored stays so, as under `nohup`."""
        before = {}
        if threading.current_thread() is threading.main_thread():  # no other is given any
            before = {number: signal.getsignal(number) for number in HEEDED}
            before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
        try:
            for number in before:
                signal.signal(number, self._note)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        self.received = number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        log.warning("interrupted: a checkpoint follows this optimizer step; a second Ctrl-C ends the run at once")

    def on_step_end(self, args, state, control, **kwargs):
        if self.agreed and state.global_step < state.max_steps:
            self._ends = control.should_save = control.should_training_stop = True


def leave_group(begin: Callable[[int], None], worker: int) -> None:
    """Begin a process that loads data, out of the process group. A terminal and a launcher send signals to all of the
    group, and without its loading processes the run could not end its step."""
    os.setpgrp()
    begin(worker)
