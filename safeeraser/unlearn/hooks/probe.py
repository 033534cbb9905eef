"""Probes: greedy responses to held-out questions during training. Over the steps they form the forgetting curve.

Only rates and lengths of the responses are kept, never their text.
"""

from collections.abc import Mapping
from pathlib import Path

from accelerate.utils import broadcast

from safeeraser.benchmark.files import append_json_line, keep_json_lines
from safeeraser.benchmark.wording import is_degenerate, is_refusal
from safeeraser.errors import BadInput
from safeeraser.generation import DECODERS, Asked
from safeeraser.generation.sampling import Generation
from safeeraser.model.preprocess import Preprocessor
from safeeraser.model.vlm import VLM
from safeeraser.unlearn.config.settings import Settings
from safeeraser.unlearn.data.items import evenly_spaced, sound_items
from safeeraser.unlearn.data.views import Item, build_views
from safeeraser.unlearn.hook import Hook
from safeeraser.unlearn.hooks.ending import Interruption
from safeeraser.unlearn.masters import shared_out_again
from safeeraser.unlearn.save_dir import PROBE_LOG

ASKED = ("forget", "decoupled", "retain")  # the views whose questions are asked, on their own pictures


def probe_items(settings: Settings) -> dict[str, list[Item]]:
    """The questions that a probe asks, spread evenly over the file, for each view of `ASKED` that is there.

    A view that has a file of its own is not asked, because that file holds training data.

    Raises:
        BadInput: there are no questions, or the file cannot be used.
    """
    source, probe = settings.data, settings.probe
    asked = [view for view in ASKED if view in source.views and not source.views[view].file]
    try:
        every = build_views(source, probe.data_path, asked)
        items, _ = sound_items(settings, probe.data_path, {view: of_view for view, of_view in every.items() if of_view})
    except BadInput as error:
        raise BadInput(f"probe.data_path: {error}") from None
    if not items:
        raise BadInput(f"probe.data_path: {probe.data_path}: nothing to ask there (data={source.name})")
    return {view: evenly_spaced(of_view, probe.prompts) for view, of_view in items.items()}


def measure(answers: list[str]) -> dict[str, float]:
    """The shares of refusals and of degenerate responses, and the mean length in words."""
    return {
        "refusal": sum(map(is_refusal, answers)) / len(answers),
        "degenerate": sum(map(is_degenerate, answers)) / len(answers),
        "length": sum(len(answer.split()) for answer in answers) / len(answers),
    }


class Probes(Hook):
    """Asks before the first step, every `every` steps, and for the adapter that is kept. Rows go to `probe.jsonl`.

    Every process asks all questions. ZeRO-3 and FSDP need all processes at work to gather the weights. Elsewhere it
    takes no longer than if one process asked alone.
    """

    def __init__(
        self,
        settings: Settings,
        items: Mapping[str, list[Item]],
        preprocessor: Preprocessor,
        interruption: Interruption,
    ) -> None:
        self.items, self.preprocessor = items, preprocessor
        self.interruption, self.guard = interruption, interruption.guard
        self.every, self.averaged = settings.probe_every, bool(settings.step.averaged)
        self.generation = Generation(greedy=True, max_new_tokens=settings.probe.max_new_tokens)

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            self._ask(0)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.every == 0 and not self.guard.stopped:
            self._ask(state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        if self.interruption.ended_by:
            return  # an uninterrupted run would not ask here
        step = self.guard.stopped["adapter_of_step"] if self.guard.stopped else state.global_step
        if step % self.every or self.averaged:  # else it was asked already, with the weights that are kept
            self._ask(step)

    def _ask(self, step: int) -> None:
        row = {view: measure(self._answers(items)) for view, items in self.items.items()}
        control = self.trainer.control
        due = control.should_log
        self.trainer.log({f"probe/{view}/{name}": value for view in row for name, value in row[view].items()})
        control.should_log = due  # `log` clears it, and the step's own row would be lost
        if self.trainer.is_world_process_zero():
            log = Path(self.trainer.args.output_dir) / PROBE_LOG
            keep_json_lines(log, lambda earlier: earlier["step"] != step)
            append_json_line(log, {"step": step} | row)

    def _answers(self, items: list[Item]) -> list[str]:
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        # Processes must `agree`: if two broke a tie differently, one would wait for the other.
        vlm = VLM(model, self.preprocessor)
        decoder = DECODERS[vlm.decoder](vlm, self.generation, batch_size=len(items), agree=broadcast)
        answers = [""] * len(items)
        model.eval()
        try:
            with self.trainer.accelerator.autocast():
                for ended in decoder.answer([Asked(item.picture, item.question) for item in items]):
                    for number, text in ended:
                        answers[number] = text or ""
        finally:
            model.train()
            shared_out_again(model)
        return answers
