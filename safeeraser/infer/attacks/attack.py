"""What an attack is. One is a function in this folder, made known by a decorator; its name is the function's.

What reads models is given them, and loads torch no sooner: attacks are known wherever a command line is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.random import Generator
from PIL import Image

from safeeraser.benchmark.pictures import find_picture, open_picture
from safeeraser.benchmark.records import DataFile
from safeeraser.benchmark.sources import code_of

if TYPE_CHECKING:
    from torch import Tensor

    from safeeraser.infer.requests import Request
    from safeeraser.model import VLM, Preprocessor

ATTACKS: dict[str, Attack] = {}
ROOM = "safeeraser.infer"
PUT = tuple((f"{ROOM}.requests", name) for name in ("attacked", "in_context"))  # what puts an attack to a request
BACKWARD = 2  # passes that a gradient takes, in forward ones: one there and, the weights being frozen, one back


@dataclass(frozen=True)
class Attack:
    """What is done to a picture, to a question, to both or to the model itself, before it is asked.

    Attributes:
        picture: makes the picture that is shown of the one asked about and, where it is drawn into it, the question.
        prompt: makes the text that is put of the question.
        system: makes the system text that it is put under.
        context: makes the text that is put of the question and of `shown` others with their vanilla answers.
        adapter: makes the adapter's parameters, by PEFT's names, of those that are stored.
        model: makes the model that answers, and the requests as they are put to it; see `Known`.
        code: the hash of its own code and of what it uses of `infer`, which tells it from what it was before a change.
            What lies below, the model and the benchmark, is no part of it: it is the same for all that is asked.
        draws_question: whether `picture` reads the question.
        hides_picture: whether nothing of the picture asked about is left to see.
        needs_picture: whether there is nothing to attack where no picture is shown.
        learns: whether it reads records that are held out, and so needs some.
        informed: whether it reads the vanilla answers to what is asked, so that what comes of it may be its own doing.
        control: whether it asks for a refusal instead of an answer: no attack, but what one is held against.
        lacks: why it cannot be made on a model with this preprocessor; nothing where it can.
        passes: what it takes beside the responses, in forward passes of one prompt, by how many records are asked and
            how many harmful questions each of them has.
    """

    name: str
    code: str
    picture: Callable[[Image.Image, str, Generator], Image.Image] | None = None
    prompt: Callable[[str, Generator], str] | None = None
    system: Callable[[str, Generator], str] | None = None
    context: Callable[[str, Sequence[Example]], str] | None = None
    shown: int = 0
    adapter: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
    model: Callable[[VLM, Known, Sequence[Request]], tuple[VLM, list[Request]]] | None = None
    draws_question: bool = False
    hides_picture: bool = False
    needs_picture: bool = False
    learns: bool = False
    control: bool = False
    informed: bool = False
    lacks: Callable[[Preprocessor], str] = lambda prepared: ""
    passes: Callable[[int, int], int] = lambda records, questions: 0


@dataclass(frozen=True)
class Example:
    """A harmful question with the vanilla model's answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class Known:
    """What an attack on the model may read.

    Attributes:
        data: the data file whose records are asked about, whole.
        held_out: its records that are not.
        seed: of the attack's chance.
    """

    data: DataFile
    held_out: DataFile
    seed: int


def shown_picture(data: DataFile, index: int) -> Image.Image:
    """A record's harmful picture in RGB. Raises `BadInput` if it is not there or cannot be decoded."""
    name = data.records[index].image_path
    return open_picture(find_picture(name, data.path) or Path(name))


def examples(data: DataFile, but: str | None = None) -> list[Example]:
    """The harmful questions that have a vanilla answer, of all records but those of one keyword."""
    return [
        Example(pair.question, pair.model_response)
        for record in data.records
        if record.keyword != but
        for pair in record.unsafe_pairs
        if pair.model_response.strip()
    ]


@dataclass(frozen=True)
class Attacked:
    """A picture as it is shown: the file at `path`, and what an attack makes of it."""

    path: Path
    attack: Attack
    key: str  # what its chance depends on
    question: str = ""  # that is drawn into it

    def open(self) -> Image.Image:
        """The attacked picture in RGB. Raises `BadInput` if the file cannot be decoded."""
        picture = open_picture(self.path)
        return self.attack.picture(picture, self.question, chance(self.key)) if self.attack.picture else picture


def chance(key: str) -> Generator:
    """The numbers that an attack draws: the same for the same key."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))


def _know(attack: Callable, **more: Any) -> None:
    code = code_of((attack.__module__, attack.__name__), *PUT, room=ROOM)
    ATTACKS[attack.__name__] = Attack(attack.__name__, code, **more)


def on_picture(attack: Callable[[Image.Image, Generator], Image.Image]) -> Callable:
    """Make known an attack that changes the picture alone: `attack(picture, random)` gives the one shown."""
    _know(attack, picture=lambda picture, _, random: attack(picture, random), needs_picture=True)
    return attack


def on_prompt(attack: Callable[[str, Generator], str]) -> Callable:
    """Make known an attack that changes the words alone: `attack(question, random)` gives those put."""
    _know(attack, prompt=attack)
    return attack


def in_picture(prompt: str, *, hides_picture: bool = False) -> Callable:
    """Make known an attack that draws the question into the picture, and asks `prompt` instead.

    `attack(picture, question)` gives the picture shown.
    """

    def register(attack: Callable[[Image.Image, str], Image.Image]) -> Callable:
        _know(
            attack,
            picture=lambda picture, question, _: attack(picture, question),
            prompt=lambda question, random: prompt,
            draws_question=True,
            hides_picture=hides_picture,
            needs_picture=True,
        )
        return attack

    return register


def on_system(*, control: bool = False) -> Callable:
    """Make known an attack that puts the question under another system text: `attack(question, random)` gives it."""

    def register(attack: Callable[[str, Generator], str]) -> Callable:
        _know(
            attack,
            system=attack,
            control=control,
            lacks=lambda prepared: "" if prepared.takes_system else prepared.no_system,
        )
        return attack

    return register


def in_context(shown: int) -> Callable:
    """Make known an attack that shows `shown` other questions with their vanilla answers before the question.

    `attack(question, examples)` gives the text put.
    """

    def register(attack: Callable[[str, Sequence[Example]], str]) -> Callable:
        _know(attack, context=attack, shown=shown, learns=True)
        return attack

    return register


def on_adapter(attack: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Callable:
    """Make known an attack that changes the adapter alone, before it is merged: `attack(parameters)` gives the new."""
    _know(attack, adapter=attack)
    return attack


def on_model(**more: Any) -> Callable:
    """Make known an attack on the model, or by its gradients: `attack(vlm, known, requests)` gives the model that
    answers and the requests as they are put to it. `more`: attributes of `Attack`."""

    def register(attack: Callable) -> Callable:
        _know(attack, model=attack, **more)
        return attack

    return register
