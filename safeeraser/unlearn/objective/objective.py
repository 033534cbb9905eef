"""What a run minimizes in each micro-step: the sum of a method's terms, each by the weight that it has now."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from safeeraser.unlearn.data.batch import Batch
from safeeraser.unlearn.hooks.weights import Weights
from safeeraser.unlearn.objective.divergence import divergence
from safeeraser.unlearn.objective.forward import Forward
from safeeraser.unlearn.objective.losses import LOSSES, Positions
from safeeraser.unlearn.objective.method import Method


class Objective:
    """A method, what its terms weigh, and its losses with all that they are given beside a batch.

    Args:
        weights: by term; they may change from step to step.
        model: the one that is trained.
    """

    def __init__(
        self, method: Method, weights: Weights, model: nn.Module, *, seed: int, device: torch.device | str
    ) -> None:
        self.method, self.weights = method, weights
        self.losses = method.losses(model, seed, device)

    def __call__(self, batch: Batch, forward: Forward, apart: Collection[str] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a micro-step, a scalar; and its terms before weighing, by name.

        Args:
            apart: terms whose gradient is taken elsewhere: of these the value counts alone.
        """
        logits, terms = self._terms(self.losses, batch, forward)
        loss = self._weighed({name: each.detach() if name in apart else each for name, each in terms.items()})
        if apart or not len(logits):
            # Engines wait for the backward pass at the model's output, of which no term may have taken anything.
            loss = loss + logits[:0].sum()
        return loss, terms

    def of(self, names: Iterable[str], batch: Batch, forward: Forward) -> Tensor:
        """Some of the terms alone, weighed and summed up."""
        return self._weighed(self._terms(names, batch, forward)[1])

    def _weighed(self, terms: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self.weights[name] * value for name, value in terms.items()]).sum()

    def _terms(self, names: Iterable[str], batch: Batch, forward: Forward) -> tuple[Tensor, dict[str, Tensor]]:
        """The logits that are read, and the terms named. One forward pass serves all terms."""
        outputs = forward(batch.inputs, {layer: reads.places for layer, reads in batch.reads.items()})
        # Split once for all terms, each of which would else have a gradient of the size of all logits.
        runs = {layer: batch.reads[layer].split(each) for layer, each in outputs.items()}
        return outputs[None], {name: self._term(name, batch, runs, forward) for name in names}

    def _term(self, name: str, batch: Batch, runs: Mapping[int | None, Sequence[Tensor]], forward: Forward) -> Tensor:
        """Term `name` of what was read, a scalar: of the logits, or the mean over the layers that it reads."""
        term, untouched = self.method.terms[name], self._untouched(name, batch, forward)
        values = []
        for layer in term.reads:
            reads, reference = batch.reads[layer], untouched.get(layer)
            targets, item = (reads.of(name, reads.split(each)) for each in (reads.targets, reads.item))
            if reference is not None and LOSSES[term.loss].reference == "nll":
                reference = divergence(reference, targets)
            read = reads.of(name, runs[layer])
            at = Positions(read, targets, item, batch.items, reference, batch.view.get(name))
            values.append(self.losses[name](at))
        return torch.stack(values).mean()

    def _untouched(self, name: str, batch: Batch, forward: Forward) -> dict[int | None, Tensor]:
        """The untouched model's logits or states at the places that term `name` reads, where it compares with them.
        Only the rows that it reads are run."""
        if name not in batch.reference:
            return {}
        entries, places = batch.reference[name]
        inputs = {key: batch.inputs[key][where] for key, where in entries.items()}
        return forward.untouched(inputs, dict.fromkeys(self.method.terms[name].reads, places))
