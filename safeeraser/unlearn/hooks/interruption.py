"""Ctrl-C and SIGTERM end a run after the optimizer step under way, with a checkpoint to resume it from."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from safeeraser.unlearn.hooks.guard import Guard
from safeeraser.unlearn.hooks.hook import Hook

log = logging.getLogger(__name__)

HEEDED = (signal.SIGINT, signal.SIGTERM)


class Interruption(Hook):
    """Notes a signal, and ends the run once all processes know of it.

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
