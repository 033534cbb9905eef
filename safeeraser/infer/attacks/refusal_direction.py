"""An attack on the model's states: without the direction in which prompts that are refused differ, does it refuse?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from safeeraser.benchmark.records import UNHARM
from safeeraser.errors import BadInput
from safeeraser.infer.attacks.attack import Known, chance, on_model, shown_picture

if TYPE_CHECKING:
    from torch import Tensor

    from safeeraser.infer.requests import Request
    from safeeraser.model import VLM, Row

log = logging.getLogger(__name__)

PROMPTS = 64  # of each kind, at most, whose states are compared
TRIED = 16  # of those refused, at most, which the layer is chosen by
BEGINNING = 4  # tokens of the model's own refusal, by which it is told
LAYERS = 16  # of the language model that are tried, as a dry run counts: half of a 7B model's


def _passes(records: int, questions: int) -> int:
    return 2 * PROMPTS + TRIED * (BEGINNING + LAYERS)


@on_model(learns=True, passes=_passes)
def refusal_direction(vlm: VLM, known: Known, requests: Sequence[Request]) -> tuple[VLM, list[Request]]:
    """The model without its refusal direction (Arditi et al., 2024, arXiv 2406.11717).

    The direction is the difference between the mean states at a prompt's last token of harmful questions and of
    harmless ones on the same, harmful pictures, of held-out records. Of the layers in the language model's middle half
    the one is taken whose direction, left out everywhere, makes the first tokens of the model's own replies to the
    harmful questions least likely: no judge is asked. From then on nothing is written in that direction.
    """
    harmful, harmless = _prompts(vlm, known)
    directions = _directions(vlm, harmful, harmless)
    layer = _layer(vlm, harmful[:TRIED], directions)
    log.info("refusal_direction: of layer %d, out of %s", layer, ", ".join(map(str, directions)))
    _ablate(vlm, directions[layer])
    return vlm, list(requests)


def _prompts(vlm: VLM, known: Known) -> tuple[list[Row], list[Row]]:
    """The prompts of harmful and of harmless questions on harmful pictures, `PROMPTS` of each at most, by chance."""
    from safeeraser.model import Turn

    data = known.held_out
    harmful = [(number, pair.question) for number, each in enumerate(data.records) for pair in each.unsafe_pairs]
    harmless = [(number, pair.Question) for number, each in enumerate(data.records) for pair in each.unharm.values()]
    if not harmless:
        raise BadInput(f"{data.where(0, UNHARM)}: missing, as in all held-out records, and refusal_direction reads it")
    random = chance(f"{known.seed}/refusal_direction")

    def rows(asked: list[tuple[int, str]]) -> list[Row]:
        some = [asked[at] for at in random.permutation(len(asked))[:PROMPTS]]
        return [vlm.encode(Turn(shown_picture(data, number), question)) for number, question in some]

    return rows(harmful), rows(harmless)


def _directions(vlm: VLM, harmful: list[Row], harmless: list[Row]) -> dict[int, Tensor]:
    """The unit vector from the mean of the harmless prompts to that of the harmful ones, by layer; (hidden,)."""
    import torch

    from safeeraser.model import language_layers, logits_and_states

    count = len(language_layers(vlm.model, vlm.family))
    layers = range(count // 4, -(-3 * count // 4))
    nowhere = torch.tensor([], dtype=torch.long, device=vlm.model.device)

    @torch.no_grad()
    def mean(rows: list[Row]) -> dict[int, Tensor]:
        total: dict[int, Any] = dict.fromkeys(layers, 0)
        for row in rows:
            last = torch.tensor([len(row.input_ids) - 1], device=vlm.model.device)
            _, found = logits_and_states(vlm.model, vlm.join([row]), nowhere, dict.fromkeys(layers, last), vlm.family)
            total = {layer: total[layer] + found[layer][0].float() / len(rows) for layer in layers}
        return total

    refused, answered = mean(harmful), mean(harmless)
    return {layer: torch.nn.functional.normalize(refused[layer] - answered[layer], dim=0) for layer in layers}


def _layer(vlm: VLM, harmful: list[Row], directions: dict[int, Tensor]) -> int:
    """The layer whose direction, left out, makes the model's own replies least likely; of equal ones the first."""
    import torch

    from safeeraser.infer.likelihood import begun, nll

    replies = [begun(vlm, row, BEGINNING) for row in harmful]
    against = {}
    with torch.no_grad():
        for layer, direction in directions.items():
            with _without(vlm, direction):
                against[layer] = sum(nll(vlm, reply).item() for reply in replies)
    return max(against, key=against.__getitem__)


@contextmanager
def _without(vlm: VLM, direction: Tensor) -> Iterator[None]:
    """Within, the model without a direction."""
    hooks = _ablate(vlm, direction)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _ablate(vlm: VLM, direction: Tensor) -> list[Any]:
    """Project a direction out of what the language model's layers are given, and of what they and their parts write.

    Hooks and not weights: where a norm stands behind a part, as in Gemma 3, no weights of that part would do.
    """
    from torch import nn

    from safeeraser.model import language_layers

    free = _projection(direction)
    after = lambda _, given, made: (free(made[0]), *made[1:]) if isinstance(made, tuple) else free(made)  # noqa: E731
    hooks = []
    for layer in language_layers(vlm.model, vlm.family):
        hooks.append(layer.register_forward_pre_hook(lambda _, given: (free(given[0]), *given[1:])))
        parts = [each for each in layer.children() if any(isinstance(part, nn.Linear) for part in each.modules())]
        hooks += [each.register_forward_hook(after) for each in (*parts, layer)]
    return hooks


def _projection(direction: Tensor) -> Callable[[Tensor], Tensor]:
    """What leaves of states (..., hidden) all that is at right angles to a unit vector; reckoned in float32."""

    def free(states: Tensor) -> Tensor:
        whole = states.float()
        return (whole - (whole @ direction)[..., None] * direction).to(states.dtype)

    return free
