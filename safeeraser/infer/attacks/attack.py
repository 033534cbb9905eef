"""What an attack is. One is a function in this folder, made known by a decorator; its name is the function's."""

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from PIL import Image

from safeeraser.benchmark.files import sha256
from safeeraser.benchmark.pictures import open_picture

ATTACKS: dict[str, "Attack"] = {}


@dataclass(frozen=True)
class Attack:
    """What is done to a picture, to a question, or to both, before the model is asked.

    Attributes:
        picture: makes the picture that is shown of the one asked about and, where it is drawn into it, the question.
        prompt: makes the text that is put of the question.
        code: the hash of the file it stands in, which tells it from what it was before a change.
        draws_question: whether `picture` reads the question.
        hides_picture: whether nothing of the picture asked about is left to see.
    """

    name: str
    code: str
    picture: Callable[[Image.Image, str, Generator], Image.Image] | None = None
    prompt: Callable[[str, Generator], str] | None = None
    draws_question: bool = False
    hides_picture: bool = False

    @property
    def needs_picture(self) -> bool:
        """Whether there is nothing to attack where no picture is shown."""
        return self.picture is not None


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
    code = sha256(inspect.getfile(attack))[:12]
    ATTACKS[attack.__name__] = Attack(attack.__name__, code, **more)


def on_picture(attack: Callable[[Image.Image, Generator], Image.Image]) -> Callable:
    """Make known an attack that changes the picture alone: `attack(picture, random)` gives the one shown."""
    _know(attack, picture=lambda picture, _, random: attack(picture, random))
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
        )
        return attack

    return register
