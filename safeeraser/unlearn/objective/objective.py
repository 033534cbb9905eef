"""The objective of each micro-step: the sum of a method's terms, each times its current weight.

A method may compare with the untouched model: the trained model with its adapter switched off. If the model itself is
trained, without an adapter, the untouched model is a second copy.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from safeeraser.benchmark.family import Family
from safeeraser.model.states import logits_and_states
from safeeraser.unlearn.hook import Hook
from safeeraser.unlearn.objective.batch import Batch
from safeeraser.unlearn.objective.divergence import divergence
from safeeraser.unlearn.objective.losses import LOSSES, Positions
from safeeraser.unlearn.objective.method import Dual, Method, Ramp

Outputs = dict[int | None, Tensor]  # hidden states by layer, (N, hidden); None: logits, (N, vocabulary)


class Weights(Hook):
    """The current weight of each term: a number, a dual weight that follows its term's loss, or a ramp over the run.

    A step's losses are means over all processes, so each process computes the same weights by itself.

    Attributes:
        of_step: the moving weights of the last step, by term name.
    """

    file = "duals.json"

    def __init__(self, method: Method) -> None:
        self.moving = method.moving
        self.duals = {name: weight for name, weight in self.moving.items() if isinstance(weight, Dual)}
        self.of_step: dict[str, float] = {}
        self._now: dict[str, float] = {
            name: term.weight if isinstance(term.weight, float) else term.weight.start
            for name, term in method.terms.items()
        }

    def __getitem__(self, name: str) -> float:
        return self._now[name]

    def on_train_begin(self, args, state, control, **kwargs):
        """Set the ramps to the run's current step, which is not 0 in a resumed run."""
        for name, weight in self.moving.items():
            if isinstance(weight, Ramp):
                self._now[name] = weight.at(state.global_step, state.max_steps)

    on_step_end = on_train_begin

    def on_losses(self, losses, control=None):
        """Update the dual weights for the next step. A loss that is not finite leaves its term's weight unchanged."""
        self.of_step = {name: self._now[name] for name in self.moving}
        for name, dual in self.duals.items():
            if math.isfinite(losses[name]):
                self._now[name] = dual.after(self._now[name], losses[name])

    def row(self) -> dict[str, Any]:
        return {"weights": self.of_step} if self.of_step else {}

    def state_dict(self) -> dict[str, float]:
        return {name: self._now[name] for name in self.duals}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        for name in self.duals:
            if type(weight := (state or {}).get(name)) is not float:
                raise ValueError(f"no weight of the term {name}")
            self._now[name] = weight


class Objective:
    """A method, the current weights of its terms, and its losses with everything that they need besides a batch.

    Args:
        weights: by term; they may change from step to step.
        model: the model that is trained, without an engine's wrapping.
        untouched: the untouched model, if it is a second copy.
    """

    def __init__(
        self,
        method: Method,
        weights: Weights,
        model: nn.Module,
        family: Family,
        untouched: nn.Module | None = None,
        *,
        seed: int,
        device: torch.device | str,
    ) -> None:
        self.method, self.weights, self.model, self.family, self.untouched = method, weights, model, family, untouched
        self.head = model.get_output_embeddings()  # a wrapped model cannot give it
        self.losses = method.losses(model, seed, device)

    def __call__(self, batch: Batch, model: nn.Module, apart: Collection[str] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a micro-step, a scalar, and its terms before weighting, by name.

        Args:
            model: the model in its engine's wrapping.
            apart: the terms whose gradient is computed elsewhere; only their values count here.
        """
        logits, terms = self._terms(self.losses, batch, model)
        loss = self._weighed({name: each.detach() if name in apart else each for name, each in terms.items()})
        if apart or not len(logits):
            # Engines wait for a backward pass through the model's output, even if no term has used the output.
            loss = loss + logits[:0].sum()
        return loss, terms

    def of(self, names: Iterable[str], batch: Batch) -> Tensor:
        """The weighted sum of some terms alone, computed by the model without an engine's wrapping."""
        return self._weighed(self._terms(names, batch, self.model)[1])

    def _weighed(self, terms: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self.weights[name] * value for name, value in terms.items()]).sum()

    def _terms(self, names: Iterable[str], batch: Batch, model: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
        """The logits that are read, and the terms named. One forward pass serves all terms."""
        places = {layer: reads.places for layer, reads in batch.reads.items()}
        outputs = self._run(model, batch.inputs, places, self.head)
        # Split once for all terms; otherwise each term would have a gradient of the size of all logits.
        runs = {layer: batch.reads[layer].split(each) for layer, each in outputs.items()}
        return outputs[None], {name: self._term(name, batch, runs) for name in names}

    def _term(self, name: str, batch: Batch, runs: Mapping[int | None, Sequence[Tensor]]) -> Tensor:
        """Term `name`, a scalar: its loss on the logits, or the mean of its loss over the layers that it reads."""
        term, compared = self.method.terms[name], self._compared(name, batch)
        values = []
        for layer in term.reads:
            reads, reference = batch.reads[layer], compared.get(layer)
            targets, item = (reads.of(name, reads.split(each)) for each in (reads.targets, reads.item))
            if reference is not None and LOSSES[term.loss].reference == "nll":
                reference = divergence(reference, targets)
            read = reads.of(name, runs[layer])
            at = Positions(read, targets, item, batch.items, reference, batch.view.get(name))
            values.append(self.losses[name](at))
        return torch.stack(values).mean()

    @torch.no_grad()
    def _compared(self, name: str, batch: Batch) -> Outputs:
        """The untouched model's outputs at the positions that term `name` reads; empty if it compares with none. Only
        the term's rows are run."""
        if name not in batch.reference:
            return {}
        entries, read = batch.reference[name]
        inputs = {key: batch.inputs[key][where] for key, where in entries.items()}
        places = dict.fromkeys(self.method.terms[name].reads, read)
        if self.untouched is not None:
            return self._run(self.untouched, inputs, places)
        trained = [parameter.requires_grad for parameter in self.model.parameters()]
        with self.model.disable_adapter():
            outputs = self._run(self.model, inputs, places)
        for parameter, before in zip(self.model.parameters(), trained, strict=True):
            if parameter.requires_grad and not before:  # PEFT makes all that is saved with the adapter trainable
                parameter.requires_grad_(False)
        return outputs

    def _run(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        places: Mapping[int | None, Tensor],
        head: nn.Module | None = None,
    ) -> Outputs:
        """The outputs of one forward pass at the `places` that are read, (N,) for each layer and for the logits."""
        states = {layer: each for layer, each in places.items() if layer is not None}
        read = places[None] if None in places else next(iter(states.values()))[:0]
        logits, kept = logits_and_states(model, inputs, read, states, self.family, head)
        outputs: Outputs = {None: logits}
        return outputs | dict(kept.items())
