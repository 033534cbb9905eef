"""The mean of the weights after the last optimizer steps, which a run may keep in the place of its last weights."""

from pathlib import Path

from torch import nn
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerState

from safeeraser.benchmark.files import read_object
from safeeraser.errors import BadInput
from safeeraser.unlearn import kept
from safeeraser.unlearn.masters import take_up
from safeeraser.unlearn.steps import taken

MEAN = "mean.pt"  # of the first process; others have theirs beside it where each trains a part


class Mean(TrainerCallback):
    """Forms the mean while the run goes on, in CPU memory, and gives it to the model at the plan's end.

    Checkpoints hold it beside the weights that are trained on. A run that ends before its plan does keeps the weights
    that it has, or what a bound's `Guard` gives it.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self._mean: kept.Kept = (0, [])  # of how many, and their mean

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if not taken(self.share, state.global_step, state.max_steps):
            return
        count, mean = self._mean
        parameters = kept.trained_of(model)
        if count:
            for each, now in zip(mean, kept.copies(parameters, []), strict=True):
                each.lerp_(now, 1 / (count + 1))
        self._mean = (count + 1, mean if count else kept.copies(parameters, []))

    def on_train_end(self, args, state: TrainerState, control, model=None, **kwargs):
        if self._mean[0] and state.global_step == state.max_steps:
            take_up(kept.trained_of(model), self._mean[1])

    def save(self, folder: Path, model: nn.Module, process: int) -> None:
        """Keep the mean so far in a checkpoint; each process its part."""
        kept.save(self._mean, folder, MEAN, model, process)

    def resume(self, folder: str | Path, process: int) -> None:
        """Take the mean so far up again from a checkpoint.

        Raises:
            BadInput: it is not there, or not of as many steps.
        """
        if not self.share:
            return
        state = read_object(Path(folder) / "trainer_state.json")
        self._mean = kept.load(folder, MEAN, process)
        count, wanted = self._mean[0], taken(self.share, state["global_step"], state["max_steps"])
        if count != wanted:
            raise BadInput(f"{Path(folder) / MEAN}: the mean after {count} steps, and it should be after {wanted}")
