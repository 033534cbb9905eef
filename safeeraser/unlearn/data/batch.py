"""From plan to tensors: the views of a micro-step's items are joined into one batch, so that one forward serves all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from safeeraser.benchmark.conversation import IGNORE, pad
from safeeraser.benchmark.pictures import open_picture, picture_size
from safeeraser.errors import BadInput
from safeeraser.model.preprocess import Preprocessor
from safeeraser.model.turns import Row, Shown, Turn
from safeeraser.processes import hand_over
from safeeraser.unlearn.data.plan import Step
from safeeraser.unlearn.data.views import VIEWS, Item
from safeeraser.unlearn.objective.losses import LOSSES
from safeeraser.unlearn.objective.method import Method, Recipe

# Bytes of prepared pictures that each loading process keeps: 12 of 336 pixels, or all the small ones of the mini
# benchmark. Of 3,000 records in the file's order, whose items follow each other, two processes find 17% of all pictures
# there, and 20% in twenty times as much; shuffled, 0.2% and 4%.
PICTURES_KEPT = 2**24


class Viewed(NamedTuple):
    """One view of one item, ready for the model."""

    view: str
    row: Row


@dataclass(eq=False, repr=False)
class PlanDataset(Dataset):
    """Entry k is what step k of the plan takes: a row for each view that the method reads."""

    plan: Sequence[Step]
    items: Mapping[str, Sequence[Item]]
    refusals: Sequence[str]
    preprocessor: Preprocessor
    recipe: Recipe
    max_length: int
    _kept: dict[Path, Shown] = field(default_factory=dict, init=False)  # the last that were looked at, by and by

    def __reduce__(self) -> tuple[Any, ...]:
        # A loading process that is spawned is sent what this was made of, and keeps pictures of its own.
        return type(self), tuple(getattr(self, each.name) for each in fields(self) if each.init)

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, number: int) -> list[Viewed]:
        step = self.plan[number]
        return [Viewed(view, self.row(view, step)) for view in self.items]

    def item(self, view: str, step: Step) -> Item:
        """The conversation that `step` takes for `view`."""
        if view == "refusal":
            return replace(self.items[view][step.forget], answer=self.refusals[step.index(view)])
        return self.items[view][step.index(view)]

    def row(self, view: str, step: Step) -> Row:
        """The same as the model is given it."""
        item = self.item(view, step)
        if item.picture is None:
            return self.encode(item)
        shown = self._shown(item.picture)
        return replace(self.encode(item, shown.text), inputs=shown.inputs)

    def encode(self, item: Item, place: str | None = None) -> Row:
        """Token ids and labels of a conversation under the recipe, without its picture, which `place` stands for.

        Args:
            place: in the text; None: that of a picture of this size, which is not prepared for it; of text alone, none.

        Raises:
            BadInput: naming the item's place.
        """
        question, answer, picture = item.question, item.answer, item.picture
        if self.recipe.capitalize:
            question, answer = question.capitalize(), answer.capitalize()
        try:
            if picture and place is None:
                place = self.preprocessor.place(lambda: picture_size(picture))
            row = self.preprocessor.encode_text(
                Turn(None, question, answer, self.recipe.training_system),
                place,
                end_of_answer=self.recipe.end_of_answer,
                max_length=self.max_length,
            )
        except BadInput as error:
            raise BadInput(f"{item.where}: {error}") from None
        tokens, context = len(row.input_ids), self.preprocessor.context
        if tokens > context:
            raise BadInput(
                f"{item.where}: a conversation of {tokens} tokens, and the model's context holds {context}; a smaller "
                "max_length shortens the answer"
            )
        return row

    def _shown(self, picture: Path) -> Shown:
        shown = self._kept.pop(picture, None) or self.preprocessor.show(open_picture(picture))
        self._kept[picture] = shown
        # By their bytes, since pictures of some families are as large as they come.
        while sum(tensor.nbytes for each in self._kept.values() for tensor in each.inputs.values()) > PICTURES_KEPT:
            del self._kept[next(iter(self._kept))]
        return shown


class Reads(NamedTuple):
    """The N places of a batch where some term reads logits, or one layer's states, in runs that the same terms read.

    Attributes:
        places: (N,), numbered as if the rows, padded to L tokens, were laid end to end.
        targets: (N,), the token that each of these should predict.
        item: (N,), which of the batch's items it belongs to.
        runs: how long each run is, in the places' order.
        takes: for each term the numbers of the runs that it reads.
    """

    places: Tensor
    targets: Tensor
    item: Tensor
    runs: list[int]
    takes: dict[str, list[int]]

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """Values of all places, (N, ...), run by run."""
        return values.split(self.runs)

    def of(self, term: str, runs: Sequence[Tensor]) -> Tensor:
        """Of values that are `split`, those at the places that a term reads."""
        taken = [runs[number] for number in self.takes[term]]
        # A run alone is taken as it is: joining would copy it, and its gradient.
        return taken[0] if len(taken) == 1 else torch.cat(taken)


class Reference(NamedTuple):
    """What a term reads of the untouched model: where its rows are in each of a batch's inputs (`entries`), and the
    places of these rows that it reads, numbered as if they alone were laid end to end."""

    entries: dict[str, Tensor]
    places: Tensor


class Batch(NamedTuple):
    """The rows of a micro-step's items, padded on the right to L tokens, and what each term reads of them.

    Attributes:
        inputs: what the model takes, its pictures in the model's dtype.
        items: how many there are.
        reads: by layer of the language model; None: logits.
        view: for each term whose loss distinguishes its views, which of them each of its positions is in.
        reference: for each term that compares with the untouched model.
    """

    inputs: dict[str, Tensor]
    items: int
    reads: dict[int | None, Reads]
    view: dict[str, Tensor]
    reference: dict[str, Reference]


class Collator:
    """Joins the rows of a micro-step's items into a `Batch` of what the method reads; and what an optimizer step runs
    the model for beside it into batches of their own.

    All that depends on lengths is settled here, in numbers and indices: a GPU that were asked for them, by a mask say,
    would have to catch up with the program first.
    """

    def __init__(
        self, method: Method, preprocessor: Preprocessor, dtype: torch.dtype, beside: Mapping[str, Method] | None = None
    ) -> None:
        self.method, self.preprocessor, self.dtype = method, preprocessor, dtype
        self.beside = {name: Collator(each, preprocessor, dtype) for name, each in (beside or {}).items()}

    def __call__(self, entries: list[list[Viewed]]) -> dict[str, Batch]:
        """`batch`, and those beside it by name, in memory that a loading process shares with the one that trains."""
        return hand_over({"batch": self.join(entries)} | {name: it.join(entries) for name, it in self.beside.items()})

    def join(self, entries: list[list[Viewed]]) -> Batch:
        """The batch of some items, in this process's memory."""
        terms, views = self.method.terms, self.method.views
        entries = [[viewed for viewed in entry if viewed.view in views] for entry in entries]
        rows = [viewed.row for entry in entries for viewed in entry]
        item = torch.tensor([number for number, entry in enumerate(entries) for _ in entry])
        view = torch.tensor([VIEWS.index(viewed.view) for entry in entries for viewed in entry])
        labels = torch.tensor(pad([row.labels for row in rows], IGNORE))
        # Position t predicts token t + 1; the last position predicts nothing.
        targets = torch.cat([labels[:, 1:], labels.new_full((len(rows), 1), IGNORE)], dim=1)
        masks = self._masks(rows, item, view, labels, targets)
        items = item.repeat_interleave(labels.shape[1])
        layers = [None, *(layer for term in terms.values() for layer in term.reads if layer is not None)]
        return Batch(
            # In the model's dtype already, where half as much is then handed on by a loading process.
            inputs={
                key: each.to(self.dtype) if each.is_floating_point() else each
                for key, each in self.preprocessor.join(rows, side="right").items()
            },
            items=len(entries),
            reads={
                layer: _in_runs({name: masks[name] for name in masks if layer in terms[name].reads}, targets, items)
                for layer in layers
            },
            view={
                name: _numbered(terms[name].views, view)[mask.nonzero()[:, 0]]
                for name, mask in masks.items()
                if LOSSES[terms[name].loss].views
            },
            reference={
                name: self._reference(rows, mask)
                for name, mask in masks.items()
                if LOSSES[terms[name].loss].needs_reference
            },
        )

    def _masks(self, rows: list[Row], item: Tensor, view: Tensor, labels: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Where each term reads, (R, L): the answers of its views, or all their places up to the longest row's end."""
        lengths = torch.tensor([len(row.input_ids) for row in rows])
        # The release pads each row to the longest of its item's views, and its KL reads that padding too.
        longest = torch.zeros(int(item[-1]) + 1, dtype=torch.long).scatter_reduce(0, item, lengths, "amax")
        token = torch.arange(labels.shape[1])[None]
        wider = {"row": token < lengths[:, None], "all": token < longest[item][:, None]}
        masks = {}
        for name, term in self.method.terms.items():
            mine = torch.isin(view, torch.tensor([VIEWS.index(each) for each in term.views]))[:, None]
            # Logits are read where they predict the answer, a layer's states at the answer itself.
            answer = (targets if None in term.reads else labels) != IGNORE
            masks[name] = mine & wider.get(term.positions, answer)
        return masks

    def _reference(self, rows: list[Row], mask: Tensor) -> Reference:
        chosen = _places(mask.any(1))
        return Reference(self.preprocessor.entries(rows, chosen.tolist()), _places(mask[chosen].flatten()))


def _numbered(names: list[str], view: Tensor) -> Tensor:
    """Which of the views named each row is of."""
    return torch.tensor([names.index(name) if name in names else -1 for name in VIEWS])[view]


def _in_runs(masks: dict[str, Tensor], targets: Tensor, item: Tensor) -> Reads:
    """What some terms read, each by a mask (R, L): the places, and how the terms share them."""
    stacked = torch.stack([torch.zeros_like(targets, dtype=torch.bool), *masks.values()]).flatten(1)
    places = _places(stacked.any(0))
    readers, runs = stacked[:, places].unique_consecutive(dim=1, return_counts=True)
    takes = {name: _places(mine).tolist() for name, mine in zip(masks, readers[1:], strict=True)}
    return Reads(places, targets.flatten()[places], item[places], runs.tolist(), takes)


def _places(mask: Tensor) -> Tensor:
    """Where a mask of one dimension is True."""
    return mask.nonzero()[:, 0]
