"""What an objective is given of a micro-step: the model's inputs, and the positions that each term reads."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Reads(NamedTuple):
    """The N positions of a batch where some term reads logits, or one layer's states. Each run has the same readers.

    Attributes:
        places: (N,), the positions, numbered as if the rows, padded to L tokens, were laid end to end.
        targets: (N,), the token that each position should predict.
        item: (N,), the number of the batch's item that each position belongs to.
        runs: the length of each run, in the order of `places`.
        takes: for each term, the numbers of the runs that it reads.
    """

    places: Tensor
    targets: Tensor
    item: Tensor
    runs: list[int]
    takes: dict[str, list[int]]

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """Split the values of all positions, (N, ...), into runs."""
        return values.split(self.runs)

    def of(self, term: str, runs: Sequence[Tensor]) -> Tensor:
        """The values at the positions that a term reads, from values that `split` has split."""
        taken = [runs[number] for number in self.takes[term]]
        # A single run is returned as it is: joining would copy it, and its gradient.
        return taken[0] if len(taken) == 1 else torch.cat(taken)


class Reference(NamedTuple):
    """The positions that a term reads from the untouched model. `entries` are the indices of the term's rows in each of
    a batch's inputs. `places` are the positions, numbered as if only the term's rows were laid end to end."""

    entries: dict[str, Tensor]
    places: Tensor


class Batch(NamedTuple):
    """The rows of a micro-step's items, padded on the right to L tokens, and the positions that each term reads.

    Attributes:
        inputs: the model's inputs, pictures in the model's dtype.
        items: the number of items.
        reads: the positions by layer of the language model; None: the positions of logits.
        view: for each term whose loss distinguishes its views, the number of each position's view among them.
        reference: for each term that compares with the untouched model, the positions that it reads there.
    """

    inputs: dict[str, Tensor]
    items: int
    reads: dict[int | None, Reads]
    view: dict[str, Tensor]
    reference: dict[str, Reference]
