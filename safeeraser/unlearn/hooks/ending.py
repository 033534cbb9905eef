"""How a run ends (with its plan, by a bound or by a signal), and which weights it keeps.

Gradient ascent has no floor: the loss on the forget view can run away and ruin the model. A step's losses judge the
adapter from before the step. So the last good adapter is the one from before the last step with good losses.
"""

import logging
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from safeeraser.unlearn.config.sections import Stop
from safeeraser.unlearn.hook import Hook
from safeeraser.unlearn.masters import Copies, copies, take_up, trained_of
from safeeraser.unlearn.objective.losses import LOSSES
from safeeraser.unlearn.objective.method import Method, Term
from safeeraser.unlearn.objective.step import taken

log = logging.getLogger(__name__)

HEEDED = (signal.SIGINT, signal.SIGTERM)  # the signals that end a run after its current optimizer step


def reason_to_stop(stop: Stop, method: Method, losses: Mapping[str, float]) -> str | None:
    """The reason why a run ends after a step with the given losses; None if it continues.

    Args:
        losses: each term's mean over the optimizer step, by name and before weighting; other names may be present too.
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
    """The keys of the bounds that are set although no term of the method can pass them."""
    known = ((term, _bounds(stop, term)) for term in method.terms.values())
    reached = {key for term, bounds in known for key, bound in bounds.items() if LOSSES[term.loss].at_most > bound}
    given = {"stop.forget_loss": stop.forget_loss, "stop.retain_loss": stop.retain_loss}
    return [key for key, bound in given.items() if bound is not None and key not in reached]


def _bounds(stop: Stop, term: Term) -> dict[str, float]:
    """The bounds on a term, by key: one if it reads the forget view alone, another if it reads retain."""
    forget = stop.forget_loss if term.views == ["forget"] else None
    bounds = {"stop.forget_loss": forget, "stop.retain_loss": stop.retain_loss if "retain" in term.views else None}
    return {key: bound for key, bound in bounds.items() if bound is not None}


class Guard(Hook):
    """Judges each step's losses, ends the run when a bound is passed, and restores the last good adapter.

    CPU memory holds two copies of the weights that this process trains: the adapter from before the current step, which
    the step's losses judge, and the last adapter that was judged good. A checkpoint keeps the second copy, because its
    own adapter has not been judged yet.
    """

    file = "last_good.pt"

    def __init__(self, stop: Stop, method: Method) -> None:
        self.stop, self.method = stop, method
        self.active = stop.not_finite or stop.forget_loss is not None or stop.retain_loss is not None
        self.stopped: dict[str, Any] | None = None
        self._before: Copies = (0, [])
        self._good: Copies = (0, [])

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        """Copy the weights from before the step; the step's losses will show whether they are good."""
        if self.active:
            self._before = (state.global_step, copies(trained_of(model), self._before[1]))

    def on_losses(self, losses, control):
        """Judge the adapter from before the current step by the losses that it gave."""
        reason = reason_to_stop(self.stop, self.method, losses) if self.active else None
        if reason:
            self._end(reason, control)
        else:
            self._before, self._good = self._good, self._before

    def on_log(self, args, state, control, logs=None, **kwargs):
        """End the run after a step with a gradient that is not finite, because this step has spoilt the adapter. Not in
        float16: its loss scaling causes such gradients now and then, and skips their steps."""
        norm = (logs or {}).get("grad_norm")
        if self.stop.not_finite and norm is not None and not math.isfinite(norm) and not (args.fp16 or self.stopped):
            self._end(f"stop.not_finite: the norm of the gradient is {norm}", control)
        if self.stopped:
            control.should_save = False  # Trainer saves after it logs

    def _end(self, reason: str, control: Any) -> None:
        # If no step was judged good, only the adapter that the run began with is left.
        step, _ = self._good if self._good[1] else self._before
        self.stopped = {"reason": reason, "adapter_of_step": step}
        control.should_training_stop = True

    def on_train_end(self, args, state, control, model=None, **kwargs):
        """Restore the last good weights if the guard has ended the run."""
        if self.stopped:
            take_up(trained_of(model), self._good[1] or self._before[1])

    def row(self) -> dict[str, Any]:
        """Why the run stops and which step's adapter it keeps; empty while the run continues."""
        return {"stopped": self.stopped} if self.stopped else {}

    def state_dict(self) -> Copies | None:
        """The last good weights; None before there are any."""
        return self._good if self._good[1] else None

    def load_state_dict(self, kept: Copies | None) -> None:
        """Take over the last good weights of the run that is resumed."""
        if self.active and kept:
            self._good = kept


class WeightAverage(Hook):
    """Averages the weights of the last steps in CPU memory, and gives the mean to the model at the end of the plan.

    A checkpoint holds the mean in addition to the weights being trained. A run that ends early keeps its current
    weights, or the weights that the `Guard` restores.
    """

    file = "mean.pt"

    def __init__(self, share: float) -> None:
        self.share = share
        self._mean: Copies = (0, [])  # the number of weights averaged, and their mean

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Add the weights of this step to the mean, if the step is among the last `share` of all steps."""
        if not taken(self.share, state.global_step, state.max_steps):
            return
        (count, mean), now = self._mean, copies(trained_of(model), [])
        for each, new in zip(mean, now, strict=bool(count)):  # the mean starts empty
            each.lerp_(new, 1 / (count + 1))
        self._mean = (count + 1, mean or now)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        """Replace the weights by their mean, unless the run stopped before its last step."""
        if self._mean[0] and state.global_step == state.max_steps:
            take_up(trained_of(model), self._mean[1])

    def state_dict(self) -> Copies | None:
        """The number of weights in the mean, and the mean; None before the first."""
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
    """Notes Ctrl-C and SIGTERM, and ends the run with a checkpoint once all processes know of the signal.

    Attributes:
        received: the signal that this process has received; 0: none.
        agreed: a signal that some process has received; all processes know it once a step's losses are gathered.
    """

    def __init__(self, guard: Guard) -> None:
        self.received, self.agreed, self.guard, self._ends = 0, 0, guard, False

    @property
    def ended_by(self) -> int:
        """The signal that has ended the run early; 0 if none has, or if the guard has stopped the run."""
        return self.agreed if self._ends and not self.guard.stopped else 0

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Note signals instead of ending at once. Signals that were ignored before, as under `nohup`, stay ignored."""
        before = {}
        if threading.current_thread() is threading.main_thread():  # Python signals no other thread
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
    """Move a data-loading process out of the process group, then call `begin`. A terminal or a launcher signals the
    entire group, and the run could not finish its step without its loading processes."""
    os.setpgrp()
    begin(worker)
