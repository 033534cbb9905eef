"""The mean of the weights after the last optimizer steps, which a run may keep in the place of its last weights."""

from safeeraser.unlearn.hooks.hook import Hook
from safeeraser.unlearn.masters import take_up
from safeeraser.unlearn.objective.step import taken
from safeeraser.unlearn.state import Copies, copies, trained_of


class WeightAverage(Hook):
    """Forms the mean while the run goes on, in CPU memory, and gives it to the model at the plan's end.

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
        count, mean = self._mean
        parameters = trained_of(model)
        if count:
            for each, now in zip(mean, copies(parameters, []), strict=True):
                each.lerp_(now, 1 / (count + 1))
        self._mean = (count + 1, mean if count else copies(parameters, []))

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
