"""From plan to tensors: the views of a micro-step's items are joined into one batch, so that one forward serves all."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from safeeraser.benchmark.conversation import IGNORE, pad
from safeeraser.benchmark.pictures import open_picture, picture_size
from safeeraser.errors import BadInput
from safeeraser.model import Preprocessor, Row, Shown, Turn
from safeeraser.processes import hand_over
from safeeraser.unlearn.methods import Method, Recipe
from safeeraser.unlearn.plan import Step
from safeeraser.unlearn.terms import LOSSES
from safeeraser.unlearn.views import VIEWS, Item

# Bytes of prepared pictures that each loading process keeps: 12 of 336 pixels, or all the small ones of the mini
# benchmark. Of 3,000 records in the file's order, whose items follow each other, two processes find 17% of all pictures
# there, and 20% in twenty times as much; shuffled, 0.2% and 4%.
PICTURES_KEPT = 2**24


class Viewed(NamedTuple):
    """One view of one item, ready for the model."""

    view: str
    row: Row


class PlanDataset(Dataset):
    """Entry k is what step k of the plan takes: a row for each view that the method reads."""

    def __init__(
        self,
        plan: Sequence[Step],
        items: Mapping[str, Sequence[Item]],
        refusals: Sequence[str],
        preprocessor: Preprocessor,
        recipe: Recipe,
        max_length: int,
    ) -> None:
        self.plan, self.items, self.refusals = plan, items, refusals
        self.preprocessor, self.recipe, self.max_length = preprocessor, recipe, max_length
        self._kept: dict[Path, Shown] = {}  # the last that were looked at, by and by

    def __reduce__(self) -> tuple[Any, ...]:
        # A loading process that is spawned is sent what this was made of, and keeps pictures of its own.
        given = (self.plan, self.items, self.refusals, self.preprocessor, self.recipe, self.max_length)
        return type(self), given

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, number: int) -> list[Viewed]:
        step = self.plan[number]
        return [Viewed(view, self._row(self.item(view, step))) for view in self.items]

    def item(self, view: str, step: Step) -> Item:
        """The conversation that `step` takes for `view`."""
        if view == "refusal":
            return replace(self.items[view][step.forget], answer=self.refusals[step.index(view)])
        return self.items[view][step.index(view)]

    def _row(self, item: Item) -> Row:
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


class Collator:
    """Joins the rows of a micro-step's items into the tensors that the trainer works on.

    The batch, for R rows padded on the right to L tokens:
        `inputs`: what the model takes, its pictures in `dtype`
        `read` (N,): the places whose logits some term reads, numbered as if the rows were laid end to end
        `targets` (N,): the token that each of these should predict;  `item` (N,): which of the `items` it belongs to
        `runs`: how these N follow each other in runs that the same terms read
        `takes`: for each term the numbers of the runs that it reads
        `states`: by layer, the same five of the places whose states some term reads there
        `view`: for each term whose loss tells its views apart, which of them each of its positions is in
        `reference`: for each term that needs it, where its rows stand in each of `inputs` (`entries`), and what it
            reads of these alone (`read`)
        `moved`: where an optimizer step asks for some of the terms alone, the same of these, of the rows that they read

    All that depends on lengths is settled here, in numbers and indices: a GPU that were asked for them, by a mask say,
    would have to catch up with the program first.
    """

    def __init__(
        self, method: Method, preprocessor: Preprocessor, dtype: torch.dtype, moved: Sequence[str] = ()
    ) -> None:
        self.method, self.preprocessor, self.dtype = method, preprocessor, dtype
        some = moved and len(moved) < len(method.terms)  # of all terms the batch itself is asked for
        self.moved = Collator(method.of_terms(moved), preprocessor, dtype) if some else None

    def __call__(self, entries: list[list[Viewed]]) -> dict[str, Any]:
        batch = self._batch(entries)
        if self.moved:
            views = self.moved.method.views
            batch["moved"] = self.moved([[viewed for viewed in entry if viewed.view in views] for entry in entries])
        return hand_over(batch)

    def _batch(self, entries: list[list[Viewed]]) -> dict[str, Any]:
        terms = self.method.terms
        rows = [viewed.row for entry in entries for viewed in entry]
        item = torch.tensor([number for number, entry in enumerate(entries) for _ in entry])
        view = torch.tensor([VIEWS.index(viewed.view) for entry in entries for viewed in entry])
        lengths = torch.tensor([len(row.input_ids) for row in rows])
        labels = torch.tensor(pad([row.labels for row in rows], IGNORE))
        # Position t predicts token t + 1; the last position predicts nothing.
        targets = torch.cat([labels[:, 1:], labels.new_full((len(rows), 1), IGNORE)], dim=1)
        places = torch.arange(labels.shape[1])[None]
        # The release pads each row to the longest of its item's views, and its KL reads that padding too.
        longest = torch.zeros(len(entries), dtype=torch.long).scatter_reduce(0, item, lengths, "amax")
        # Logits are read where they predict the answer, a layer's states at the answer itself.
        answer = {"logits": targets != IGNORE, "states": labels != IGNORE}
        within = places < longest[item][:, None]
        reads = {
            name: self._rows_of(term.views, view)[:, None]
            & (within if term.positions == "all" else answer["logits" if term.layer is None else "states"])
            for name, term in terms.items()
        }
        items = item.repeat_interleave(labels.shape[1])

        def read_at(layer: int | None) -> dict[str, Any]:
            return _in_runs({name: reads[name] for name in reads if terms[name].layer == layer}, targets, items)

        return {
            # Here already, where half as much is then handed on by a loading process.
            "inputs": {
                key: each.to(self.dtype) if each.is_floating_point() else each
                for key, each in self.preprocessor.join(rows, side="right").items()
            },
            "items": len(entries),
            **read_at(None),
            "states": {term.layer: read_at(term.layer) for term in terms.values() if term.layer is not None},
            "view": {
                name: self._numbered(terms[name].views, view)[mask.nonzero()[:, 0]]
                for name, mask in reads.items()
                if LOSSES[terms[name].loss].views
            },
            "reference": {
                name: self._reference(rows, mask)
                for name, mask in reads.items()
                if LOSSES[terms[name].loss].needs_reference
            },
        }

    def _reference(self, rows: list[Row], mask: Tensor) -> dict[str, Any]:
        chosen = _places(mask.any(1))
        entries = self.preprocessor.entries(rows, chosen.tolist())
        return {"entries": entries, "read": _places(mask[chosen].flatten())}

    @staticmethod
    def _numbered(names: list[str], view: Tensor) -> Tensor:
        """Which of the views named each row is of."""
        return torch.tensor([names.index(name) if name in names else -1 for name in VIEWS])[view]

    @staticmethod
    def _rows_of(names: list[str], view: Tensor) -> Tensor:
        return torch.isin(view, torch.tensor([VIEWS.index(name) for name in names]))


def _in_runs(reads: dict[str, Tensor], targets: Tensor, item: Tensor) -> dict[str, Any]:
    """What some terms read, each by a mask (R, L): the places, and how the terms share them."""
    masks = torch.stack([torch.zeros_like(targets, dtype=torch.bool), *reads.values()]).flatten(1)
    read = _places(masks.any(0))
    readers, runs = masks[:, read].unique_consecutive(dim=1, return_counts=True)
    return {
        "read": read,
        "targets": targets.flatten()[read],
        "item": item[read],
        "runs": runs.tolist(),
        "takes": {name: _places(mine).tolist() for name, mine in zip(reads, readers[1:], strict=True)},
    }


def _places(mask: Tensor) -> Tensor:
    """Where a mask of one dimension is True."""
    return mask.nonzero()[:, 0]
