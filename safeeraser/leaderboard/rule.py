"""The rule by which a method's settings are chosen, the same for all methods."""

from collections.abc import Iterable, Mapping
from typing import Any

FORGOTTEN = 0.05  # the ASR up to which a method has forgotten


def choose(tried: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The trial that the rule takes: among trials that have forgotten, the one with the lowest SARR plus lost ROUGE-L;
    if none has forgotten, the one with the lowest ASR. A tie goes to the lower learning rate."""

    def loss(trial: Mapping[str, Any]) -> tuple[bool, float, float]:
        asr, sarr, rouge, rate = (float(trial[key]) for key in ("asr", "sarr", "rouge_l", "lr"))
        return asr > FORGOTTEN, sarr + 1 - rouge if asr <= FORGOTTEN else asr, rate

    return min(tried, key=loss)


def wider(
    chosen: Mapping[str, Any], tried: Iterable[Mapping[str, Any]], lrs: tuple[float, ...], most: int
) -> list[float]:
    """The learning rates to try next if the choice is at the edge of the rates tried with the same steps: its half or
    its double, up to `most` halvings or doublings beyond the budget's own rates."""
    rates = {trial["lr"] for trial in tried if trial["max_train_steps"] == chosen["max_train_steps"]}
    more = []
    if chosen["lr"] == min(rates) > min(lrs) / 2**most * 1.01:
        more.append(chosen["lr"] / 2)
    if chosen["lr"] == max(rates) < max(lrs) * 2**most * 0.99:
        more.append(chosen["lr"] * 2)
    return more
