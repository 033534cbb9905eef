"""The base class of a run's hooks."""

from collections.abc import Collection, Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl


class Hook(TrainerCallback):
    """Reacts to Trainer's events and to each step's losses, and may keep a state in checkpoints.

    Attributes:
        file: the name of the state's file in a checkpoint (`unlearn/state.py`); empty if the hook has no state.
        held: the names of the parameters in which some weights must not change.
        trainer: the run's trainer, once it is made.
    """

    file: str = ""
    held: Collection[str] = ()
    trainer: Any = None

    def begin(self, trainer: Any) -> None:
        """Prepare for training. No engine has wrapped the model yet."""
        self.trainer = trainer

    def on_losses(self, losses: Mapping[str, float], control: TrainerControl) -> None:
        """React to a step's losses before the optimizer moves the weights. All processes get the same losses.

        Args:
            losses: `loss`, and each term's mean by name, before weighting.
        """

    def row(self) -> dict[str, Any]:
        """The hook's entries in the step's row of the log."""
        return {}

    def state_dict(self) -> Any:
        """The state for a checkpoint, of the type that the ending of `file` requires; None or empty: no file."""
        return None

    def load_state_dict(self, state: Any) -> None:
        """Restore the state from a checkpoint; None means that the checkpoint has no such file. Raises `ValueError` if
        this run would not have saved such a state."""
