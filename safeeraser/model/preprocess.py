"""Preparing a model's input in any family: pictures and texts become rows, and rows become a batch.

transformers decides which tokens represent a picture, how a template words a turn and which other inputs a model needs.
Its processor is called once for each picture, and returns the picture's text and its other inputs. Callers see only
rows of token ids with labels, and batches of tensors that go into the model unchanged.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any, Literal

import torch
from jinja2 import TemplateError
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad
from transformers import ProcessorMixin

from safeeraser.benchmark.conversation import CHAT_TEMPLATE, IGNORE, SYSTEM_TEXTS
from safeeraser.benchmark.conversation import pad as pad_rows
from safeeraser.benchmark.family import Family
from safeeraser.errors import BadInput
from safeeraser.model.turns import Row, Shown, Turn

# Placeholders that locate an answer and a system text in a template's output: letters that no template has.
ANSWER, SYSTEM = "\ue000", "\ue001"
TEXT = ("input_ids", "attention_mask")
TYPES = ("mm_token_type_ids", "token_type_ids")  # names of the input that marks tokens: 0 for text, 1 for pictures
SHAPES = ((64, 64), (96, 64), (512, 128), (128, 512), (1024, 1024))  # if these five give one text, all sizes do
# How many sizes of pictures have their outlines cached, some 10 kB each. A run reads its pictures more than once, and
# an audit at each of its points.
SIZES = 4096
OUTLINED: dict[str, Callable[[tuple[int, int]], Shown]] = {}  # the cached functions, by a processor's settings
# Settings that save three quarters of the work for a blank picture, of which only the outline matters.
BLANK = {"do_rescale": False, "do_normalize": False, "resample": Image.Resampling.NEAREST}


class Preprocessor:
    """Prepares a model's input from texts and pictures.

    Args:
        processor: transformers' processor for the model.
        context: the number of positions that the model has.
        picture_token: the token that a picture's features replace, as the model's configuration names it. The token
            that marks a picture in a text may be another one.
        origin: `model_path`.
    """

    def __init__(
        self, processor: ProcessorMixin, family: Family, context: int, picture_token: int, origin: str
    ) -> None:
        self.processor, self.family, self.origin = processor, family, origin
        self.context, self.picture_token = context, picture_token
        self.tokenizer = processor.tokenizer

    @property
    def pad_token(self) -> int:
        """The token that pads rows."""
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad

    @cached_property
    def end_token(self) -> int:
        """The token that ends an answer."""
        return self.tokenizer.convert_tokens_to_ids(self.family.end_of_turn)

    @cached_property
    def reserved(self) -> list[str]:
        """The tokens that no text may contain, because they represent a picture, a video or a sound."""
        others = (getattr(self.processor, name, None) for name in ("video_token", "audio_token"))
        return [name for name in dict.fromkeys((self.processor.image_token, self._repeated, *others)) if name]

    @cached_property
    def _repeated(self) -> str:
        """The name of the token that a picture's features replace."""
        return self.tokenizer.convert_ids_to_tokens(self.picture_token)

    def show(self, picture: Image.Image, **how: Any) -> Shown:
        """The picture as the model sees it. `how` overrides settings of the processor.

        Raises:
            BadInput: the processor does not take a picture of this shape.
        """
        try:
            given = self.processor(
                text=[self.processor.image_token],
                images=[picture],
                return_tensors="pt",
                return_text_replacement_offsets=True,
                **how,
            )
        except ValueError as error:
            raise BadInput(
                f"a picture of {picture.width} x {picture.height} pixels, which the model's processor does not take "
                f"({str(error).splitlines()[0]})"
            ) from None
        text = given["text_replacement_offsets"][0][0]["replacement"]
        left_out = (*TEXT, *TYPES, "text_replacement_offsets")
        return Shown(text, {key: value for key, value in given.items() if key not in left_out})

    def outline(self, size: Callable[[], tuple[int, int]]) -> Shown:
        """`show` for a picture of some size, but with tensors that have a shape and no values (on the device `meta`).
        `size` returns (width, height), and is called only if the result depends on it."""
        return self._outlined(SHAPES[0] if self.same_for_all else size())

    def place(self, size: Callable[[], tuple[int, int]]) -> str:
        """The text that represents a picture of some size; `size` as in `outline`."""
        return self.outline(size).text

    @cached_property
    def same_for_all(self) -> bool:
        """Whether all pictures are represented by the same text, whatever their shape."""
        return len({self._outlined(shape).text for shape in SHAPES}) == 1

    @cached_property
    def _outlined(self) -> Callable[[tuple[int, int]], Shown]:
        """`_outline` with a cache that all processors of the same settings share."""
        settings = f"{self.processor.image_token} {self.processor.to_json_string()}"
        return OUTLINED.setdefault(settings, lru_cache(SIZES)(self._outline))

    def _outline(self, size: tuple[int, int]) -> Shown:
        shown = self.show(Image.new("RGB", size), **BLANK)
        # Pixels that were not rescaled are still integers.
        dtypes = {torch.uint8: torch.float32}
        inputs = {key: each.to("meta", dtypes.get(each.dtype, each.dtype)) for key, each in shown.inputs.items()}
        return Shown(shown.text, inputs)

    def encode(self, turn: Turn, **how: Any) -> Row:
        """A turn as a row; see `encode_text`."""
        if not turn.picture:
            return self.encode_text(turn, None, **how)
        shown = self.show(turn.picture)
        return replace(self.encode_text(turn, shown.text, **how), inputs=shown.inputs)

    def encode_text(
        self, turn: Turn, place: str | None, *, end_of_answer: bool = False, max_length: int | None = None
    ) -> Row:
        """The row of a turn without its picture's tensors.

        Args:
            place: the text that represents the picture, from `place` or `show`; None: no picture.
            end_of_answer: append the token that ends an answer as the last target.
            max_length: the most tokens, with the picture counted as one. A longer answer is cut; the prompt never is.

        Raises:
            BadInput: the text contains one of `reserved`; the prompt alone fills `max_length`, which leaves no target;
                the template writes no system text; or the tokenizer does not keep prompt and answer apart.
        """
        prompt, text = self._texts(turn, place)
        ids = self._tokens(prompt)
        if turn.answer is None:
            return Row(ids, [IGNORE] * len(ids))
        full = self._tokens(text) + ([self.end_token] if end_of_answer else [])
        if full[: len(ids)] != ids:
            raise BadInput("the model's tokenizer does not keep the prompt apart from its answer")
        if max_length is not None:
            full = full[: self.most_tokens(ids, max_length)]
        if len(full) <= len(ids):
            counted = len(ids) - self.most_tokens(ids, 0)
            raise BadInput(f"a prompt of {counted} tokens leaves no room for its answer in max_length={max_length}")
        return Row(full, [IGNORE] * len(ids) + full[len(ids) :])

    def most_tokens(self, prompt: Sequence[int], max_length: int) -> int:
        """The most tokens that a row with this prompt may have, where `max_length` counts the picture as one."""
        return max_length + max(list(prompt).count(self.picture_token) - 1, 0)

    def _texts(self, turn: Turn, place: str | None) -> tuple[str, str]:
        """The prompt, and the prompt with the answer but without its end; `place` represents the picture in both."""
        for name in self.reserved:
            if name in turn.question or name in (turn.answer or ""):
                raise BadInput(f"the text itself contains '{name}', which stands for the picture")
        if turn.system and self.no_system:
            raise BadInput(self.no_system)
        pictured = place is not None
        prompt = self._written(turn, None, pictured)
        full = prompt
        if turn.answer is not None:
            full = self._written(turn, turn.answer, pictured).removesuffix(self._behind)
        if not full.startswith(prompt):
            # Some templates write a question differently once it is answered: the prompt's form counts.
            full = prompt + full.removeprefix(self._written(turn, ANSWER, pictured).partition(ANSWER)[0])
        if place is not None:
            prompt, full = (text.replace(self.processor.image_token, place) for text in (prompt, full))
        return prompt, full

    @cached_property
    def _behind(self) -> str:
        """The text that the template writes after an answer."""
        return self._written(Turn(None, "Q"), ANSWER, False).rpartition(ANSWER)[2]

    @cached_property
    def no_system(self) -> str:
        """Why the template takes no system text; empty if it does. Some templates raise for one, some leave it out."""
        with suppress(TemplateError):
            if SYSTEM in self._written(Turn(None, "Q", system=SYSTEM), None, False):
                return ""
        return f"the chat template of model family {self.family.name} writes no system text"

    @cached_property
    def _silent(self) -> dict[str, bool]:
        """The template's argument that turns thinking off, if it has one, so that the answer follows the prompt."""
        thinks = not self.family.chat and "enable_thinking" in str(self.processor.chat_template)
        return {"enable_thinking": False} if thinks else {}

    def _written(self, turn: Turn, answer: str | None, pictured: bool) -> str:
        asked = [{"type": "image"}] * pictured + [{"type": "text", "text": turn.question}]
        chat = [{"role": "user", "content": asked}]
        if system := turn.system or (SYSTEM_TEXTS[turn.who] if self.family.chat else None):
            chat.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
        if answer is not None:
            chat.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        # Not by a subclass's own method: SmolVLM's uses the part for videos, which is not loaded.
        return ProcessorMixin.apply_chat_template(
            self.processor,
            chat,
            chat_template=CHAT_TEMPLATE if self.family.chat else None,
            add_generation_prompt=answer is None,
            **self._silent,
        )

    def _tokens(self, text: str) -> list[int]:
        # Some templates write the first token themselves, others leave it to the tokenizer.
        first = self.tokenizer.bos_token
        # A picture's hundreds of equal tokens are most of the work: only one of each run is tokenized, then repeated.
        runs = re.compile(f"(?:{re.escape(self._repeated)})+")
        lengths = iter([len(run) // len(self._repeated) for run in runs.findall(text)])
        short = runs.sub(lambda _: self._repeated, text)
        ids = self.tokenizer(short, add_special_tokens=not (first and text.startswith(first)))["input_ids"]
        return [token for each in ids for token in [each] * (next(lengths) if each == self.picture_token else 1)]

    @cached_property
    def types(self) -> str | None:
        """The name of the input that marks a picture's tokens, if the model takes one."""
        return next((key for key in TYPES if key in self.processor.model_input_names), None)

    def join(self, rows: Sequence[Row], side: Literal["left", "right"] = "right") -> dict[str, Tensor]:
        """The model's inputs for some rows. Text tensors are (rows, tokens of the longest row), padded on `side`.
        Picture tensors are concatenated; each picture may have any number of entries."""
        ids = [row.input_ids for row in rows]
        left = side == "left"
        batch = {
            "input_ids": torch.tensor(pad_rows(ids, self.pad_token, left=left)),
            "attention_mask": torch.tensor(pad_rows([[1] * len(row) for row in ids], 0, left=left)),
        }
        return batch | self.kinds(ids, side) | self.lay_out([row.inputs for row in rows])

    def kinds(self, ids: Sequence[Sequence[int]], side: Literal["left", "right"]) -> dict[str, Tensor]:
        """The tokens' types, if the model takes them: (rows, tokens of the longest row), padded on `side`."""
        if not self.types:
            return {}
        types = self.processor.create_mm_token_type_ids([list(row) for row in ids])
        return {self.types: torch.tensor(pad_rows(types, 0, left=side == "left"))}

    def lay_out(self, pictures: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The model's inputs for several pictures, from its inputs for each one."""
        keys = dict.fromkeys(key for inputs in pictures for key in inputs)
        return {key: _laid_out([inputs[key] for inputs in pictures if key in inputs]) for key in keys}

    def entries(self, rows: Sequence[Row], chosen: Sequence[int]) -> dict[str, Tensor]:
        """The indices of the `chosen` rows along the first axis of each tensor of `join(rows)`, by its name."""
        index = torch.tensor(chosen)
        places = dict.fromkeys((*TEXT, self.types) if self.types else TEXT, index)
        for key in dict.fromkeys(key for row in rows for key in row.inputs):
            counts = [len(row.inputs.get(key, ())) for row in rows]
            pieces = torch.arange(sum(counts)).split(counts)
            if any(counts[row] for row in chosen):  # otherwise the model gets no pictures at all
                places[key] = torch.cat([pieces[row] for row in chosen])
        return places


def _laid_out(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors concatenated; if their second axes differ (tiles of a picture), they are padded with zeros."""
    if tensors[0].dim() > 1:
        most = max(tensor.shape[1] for tensor in tensors)
        tensors = [pad(each, (0, 0) * (each.dim() - 2) + (0, most - each.shape[1])) for each in tensors]
    return torch.cat(list(tensors))
