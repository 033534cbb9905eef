"""What a hook of a run is."""

from collections.abc import Collection, Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl


class Hook(TrainerCallback):
    """Hears of Trainer's events, and of a step's losses; and keeps its state over a resume.

    Attributes:
        file: what its state is called in a checkpoint (`unlearn/state.py`); empty: it has none.
        held: the parameters of which some weights are to stay as they are.
        trainer: that of the run, once it is made.
    """

    file: str = ""
    held: Collection[str] = ()
    trainer: Any = None

    def begin(self, trainer: Any) -> None:
        """Before training, with a model in no engine yet."""
        self.trainer = trainer

    def on_losses(self, losses: Mapping[str, float], control: TrainerControl) -> None:
        """Hear of an optimizer step's losses, which all processes know alike, before the optimizer moves the weights.

        Args:
            losses: `loss`, and by name the mean of each term before weighing.
        """

    def row(self) -> dict[str, Any]:
        """What it adds to the step's row in the log."""
        return {}

    def state_dict(self) -> Any:
        """What a checkpoint keeps of it, in the form of its `file`; None, or nothing in it: no file."""
        return None

    def load_state_dict(self, state: Any) -> None:
        """Take up again what a checkpoint has kept; None: it has no such file. Raises `ValueError` where it is not what
        this run would have kept."""
