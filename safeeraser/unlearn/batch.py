"""From plan to tensors: the views of a micro-step's items are joined into one batch, so that one forward serves all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from safeeraser.benchmark.conversation import IGNORE, Encoded, encode, expand_image, pad
from safeeraser.benchmark.pictures import open_picture
from safeeraser.errors import BadInput
from safeeraser.model import Preprocessor
from safeeraser.unlearn.methods import Method, Recipe
from safeeraser.unlearn.plan import Step
from safeeraser.unlearn.terms import LOSSES
from safeeraser.unlearn.views import VIEWS, Item

# Bytes of pixel tensors that each loading process keeps: 12 pictures of 336 pixels, or all the small ones of the mini
# benchmark. Of 3,000 records in the file's order, whose items follow each other, two processes find 17% of all pictures
# there, and 20% in twenty times as much; shuffled, 0.2% and 4%.
PIXELS_KEPT = 2**24


@dataclass(frozen=True)
class Row:
    """One view of one item, ready for the model. `pixels` has shape (3, height, width)."""

    view: str
    text: Encoded
    pixels: Tensor


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
        self._pixels = lru_cache(PIXELS_KEPT // preprocessor.pixels(Image.new("RGB", (1, 1))).nbytes)(self._load_pixels)

    def __reduce__(self) -> tuple[Any, ...]:
        # A loading process that is spawned is sent what this was made of, and keeps pictures of its own.
        given = (self.plan, self.items, self.refusals, self.preprocessor, self.recipe, self.max_length)
        return type(self), given

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, number: int) -> list[Row]:
        step = self.plan[number]
        return [self._row(view, step) for view in self.items]

    def item(self, view: str, step: Step) -> Item:
        """The conversation that `step` takes for `view`."""
        if view == "refusal":
            return replace(self.items[view][step.forget], answer=self.refusals[step.refusal])
        return self.items[view][getattr(step, view)]

    def _row(self, view: str, step: Step) -> Row:
        item = self.item(view, step)
        return Row(view, self.encode(item), self._pixels(item.picture))

    def encode(self, item: Item) -> Encoded:
        """Token ids and labels of a conversation under the recipe. Raises `BadInput` naming the item's place."""
        question, answer = item.question, item.answer
        if self.recipe.capitalize:
            question, answer = question.capitalize(), answer.capitalize()
        try:
            encoded = encode(
                self.preprocessor.tokenizer,
                question,
                answer,
                who=self.recipe.training_system,
                end_of_answer=self.recipe.end_of_answer,
                max_length=self.max_length,
            )
        except BadInput as error:
            raise BadInput(f"{item.where}: {error}") from None
        encoded = expand_image(encoded, self.preprocessor.image_token, self.preprocessor.image_length)
        tokens, context = len(encoded.input_ids), self.preprocessor.context
        if context and tokens > context:
            raise BadInput(
                f"{item.where}: a conversation of {tokens} tokens, and the model's context holds {context}; a smaller "
                "max_length shortens the answer"
            )
        return encoded

    def _load_pixels(self, picture: Path) -> Tensor:
        return self.preprocessor.pixels(open_picture(picture))


class Collator:
    """Joins the rows of a micro-step's items into the tensors that the trainer works on.

    The batch, for R rows padded on the right to L tokens:
        `input_ids` (R, L), `attention_mask` (R, L), `pixel_values` (R, 3, height, width): what the model takes
        `read` (N,): the places that some term reads, numbered as if the rows were laid end to end
        `targets` (N,): the token that each of these should predict;  `item` (N,): which of the `items` it belongs to
        `runs`: how these N follow each other in runs that the same terms read
        `takes`: for each term the numbers of the runs that it reads
        `reference`: for each term that needs it, the `rows` that it reads, and what it reads of these alone (`read`)

    All that depends on lengths is settled here, in numbers and indices: a GPU that were asked for them, by a mask say,
    would have to catch up with the program first.
    """

    def __init__(self, method: Method, pad_token: int) -> None:
        self.method, self.pad_token = method, pad_token

    def __call__(self, entries: list[list[Row]]) -> dict[str, Any]:
        rows = [(number, row) for number, entry in enumerate(entries) for row in entry]
        lengths = torch.tensor([len(row.text.input_ids) for _, row in rows])
        item = torch.tensor([number for number, _ in rows])
        view = torch.tensor([VIEWS.index(row.view) for _, row in rows])
        labels = torch.tensor(pad([row.text.labels for _, row in rows], IGNORE))
        # Position t predicts token t + 1; the last position predicts nothing.
        targets = torch.cat([labels[:, 1:], labels.new_full((len(rows), 1), IGNORE)], dim=1)
        places = torch.arange(labels.shape[1])[None]
        # The release pads each row to the longest of its item's views, and its KL reads that padding too.
        longest = torch.zeros(len(entries), dtype=torch.long).scatter_reduce(0, item, lengths, "amax")
        readable = {"answer": targets != IGNORE, "all": places < longest[item][:, None]}
        reads = {
            name: readable[term.positions] & self._rows_of(term.views, view)[:, None]
            for name, term in self.method.terms.items()
        }
        masks = torch.stack(list(reads.values())).flatten(1)
        read = _places(masks.any(0))
        readers, runs = masks[:, read].unique_consecutive(dim=1, return_counts=True)
        return {
            "input_ids": torch.tensor(pad([row.text.input_ids for _, row in rows], self.pad_token)),
            "attention_mask": (places < lengths[:, None]).long(),
            "pixel_values": torch.stack([row.pixels for _, row in rows]),
            "read": read,
            "targets": targets.flatten()[read],
            "item": item.repeat_interleave(labels.shape[1])[read],
            "items": len(entries),
            "runs": runs.tolist(),
            "takes": {name: _places(mine).tolist() for name, mine in zip(reads, readers, strict=True)},
            "reference": {
                name: {"rows": (rows := _places(mask.any(1))), "read": _places(mask[rows].flatten())}
                for name, mask in reads.items()
                if LOSSES[self.method.terms[name].loss].needs_reference
            },
        }

    @staticmethod
    def _rows_of(names: list[str], view: Tensor) -> Tensor:
        return torch.isin(view, torch.tensor([VIEWS.index(name) for name in names]))


def _places(mask: Tensor) -> Tensor:
    """Where a mask of one dimension is True."""
    return mask.nonzero()[:, 0]
