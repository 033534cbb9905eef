"""From plan to tensors. The views of a micro-step's items are joined into one batch, so one forward pass serves all."""

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
from safeeraser.unlearn.data.views import Item
from safeeraser.unlearn.objective.batch import Batch, Reads, Reference
from safeeraser.unlearn.objective.losses import LOSSES
from safeeraser.unlearn.objective.method import VIEWS, Method, Recipe

# Bytes of prepared pictures that each worker keeps: 12 of 336 pixels, or all the small ones of the mini benchmark. With
# 3,000 records in the file's order, a record's items follow each other. Two workers then find 17% of all pictures
# already prepared, and 20% with twenty times the bytes. With shuffled items the figures are 0.2% and 4%.
PICTURES_KEPT = 2**24


class Viewed(NamedTuple):
    """One view of one item, ready for the model."""

    view: str
    row: Row


@dataclass(eq=False, repr=False)
class PlanDataset(Dataset):
    """Entry k holds the rows of step k of the plan: one for each view in `items`."""

    plan: Sequence[Step]
    items: Mapping[str, Sequence[Item]]
    refusals: Sequence[str]
    preprocessor: Preprocessor
    recipe: Recipe
    max_length: int
    _kept: dict[Path, Shown] = field(default_factory=dict, init=False)  # the pictures used last, oldest first

    def __reduce__(self) -> tuple[Any, ...]:
        # A spawned worker receives the constructor's arguments, and keeps its own pictures.
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
        """The row of the conversation that `step` takes for `view`, with its picture."""
        item = self.item(view, step)
        if item.picture is None:
            return self.encode(item)
        shown = self._shown(item.picture)
        return replace(self.encode(item, shown.text), inputs=shown.inputs)

    def encode(self, item: Item, place: str | None = None) -> Row:
        """Token ids and labels of a conversation under the recipe, without the picture's tensors.

        Args:
            place: the text that represents the picture. None: computed from the picture's size, if there is a picture.

        Raises:
            BadInput: the conversation cannot be encoded, or is too long. The error names the item.
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
        # Limited by bytes rather than by number: some families keep a picture at its own size.
        while sum(tensor.nbytes for each in self._kept.values() for tensor in each.inputs.values()) > PICTURES_KEPT:
            del self._kept[next(iter(self._kept))]
        return shown


class Collator:
    """Joins the rows of a micro-step's items into a `Batch` for the method, and one for each method of `beside`. The
    optimizer step runs the model for the methods of `beside` too.

    Everything that depends on lengths is computed here, as numbers and indices. If a GPU computed it, for instance with
    a mask, the program would have to wait for the GPU.
    """

    def __init__(
        self, method: Method, preprocessor: Preprocessor, dtype: torch.dtype, beside: Mapping[str, Method] | None = None
    ) -> None:
        self.method, self.preprocessor, self.dtype = method, preprocessor, dtype
        self.beside = {name: Collator(each, preprocessor, dtype) for name, each in (beside or {}).items()}

    def __call__(self, entries: list[list[Viewed]]) -> dict[str, Batch]:
        """`batch`, and the batches of `beside` by name. A worker returns them in memory shared with the trainer."""
        return hand_over({"batch": self.join(entries)} | {name: it.join(entries) for name, it in self.beside.items()})

    def join(self, entries: list[list[Viewed]]) -> Batch:
        """The batch of some items, in this process's own memory."""
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
            # In the model's dtype already, so that with 16 bits a worker hands on half as much.
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
        """Masks (R, L) of the positions that each term reads: answers, its entire rows, or rows with padding."""
        lengths = torch.tensor([len(row.input_ids) for row in rows])
        # The release pads each row to the longest of its item's views, and its KL reads the padding too.
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
    """The index in `names` of each row's view; -1 for other views. `view`: each row's index in `VIEWS`."""
    return torch.tensor([names.index(name) if name in names else -1 for name in VIEWS])[view]


def _in_runs(masks: dict[str, Tensor], targets: Tensor, item: Tensor) -> Reads:
    """The positions that some terms read, given a mask (R, L) for each term, in runs that the same terms read."""
    stacked = torch.stack([torch.zeros_like(targets, dtype=torch.bool), *masks.values()]).flatten(1)
    places = _places(stacked.any(0))
    readers, runs = stacked[:, places].unique_consecutive(dim=1, return_counts=True)
    takes = {name: _places(mine).tolist() for name, mine in zip(masks, readers[1:], strict=True)}
    return Reads(places, targets.flatten()[places], item[places], runs.tolist(), takes)


def _places(mask: Tensor) -> Tensor:
    """The indices where a mask of one dimension is True."""
    return mask.nonzero()[:, 0]
