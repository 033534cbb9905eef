"""Attacks at inference: changes to requests, adapter or model, made to test whether the unlearning still holds.

An attack is a function in a module of this folder, which `@attack()` registers under the function's name. Its texts
were written for this project; its docstring cites the work that its idea comes from. Modules here import torch only
within functions, because every command line loads the list of attacks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from numpy.random import Generator
from PIL import Image

from safeeraser.benchmark.files import read_object
from safeeraser.benchmark.pictures import find_picture, open_picture
from safeeraser.benchmark.records import DataFile
from safeeraser.benchmark.sources import code_of
from safeeraser.errors import BadInput
from safeeraser.infer.requests import Draw, Redrawn, Request, Selection, chance

if TYPE_CHECKING:
    from torch import Tensor

    from safeeraser.model.preprocess import Preprocessor
    from safeeraser.model.vlm import VLM

__all__ = ["ATTACKS", "BACKWARD", "Attack", "Known", "attack", "chance", "shown_picture"]

ATTACKS: dict[str, Attack] = {}
BACKWARD = 2  # cost of a gradient in forward passes: one forward, and only one backward because the weights are frozen


@dataclass(frozen=True)
class Attack:
    """An attack. One of `request`, `adapter` and `model` is set, to the function that changes it (see `attack`).

    Attributes:
        code: a hash of the attack's code and of the code in `infer` that it uses, by which a change is noticed. Code of
            the model and the benchmark is left out, because all requests share it.
        lacks: why the attack cannot be made on a model with this preprocessor; empty if it can.
        passes: the cost in addition to the responses, in forward passes of one prompt. Its arguments are the number of
            records asked about and the number of harmful questions in each.
    """

    name: str
    code: str
    request: Callable[[Request, Known], Request] | None = None
    adapter: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
    model: Callable[[VLM, Known, Sequence[Request]], tuple[VLM, list[Request]]] | None = None
    hides_picture: bool = False  # the picture asked about can no longer be seen
    needs_picture: bool = False  # it changes the picture, so it requires one
    learns: bool = False  # it reads held-out records, so there must be some
    informed: bool = False  # it reads the vanilla answers to the questions, so it may itself bring an answer in
    reads: str = ""  # a file next to the data file that it requires
    control: bool = False  # it asks for a refusal, not an answer: not an attack, but a control to compare with
    lacks: Callable[[Preprocessor], str] = lambda prepared: ""
    passes: Callable[[int, int], int] = lambda records, questions: 0

    def put(self, requests: list[Request], data: DataFile, selection: Selection, seed: int) -> list[Request]:
        """The requests, changed by the attack. Raises `BadInput` if they lack something that it changes or shows."""
        if self.needs_picture and any(request.picture is None for request in requests):
            raise BadInput(f"--attack {self.name}: changes the picture, so it cannot be put to a view without one")
        known = Known(data, selection, seed, self.name)
        return [self.request(request, known) for request in requests] if self.request else requests


@dataclass(frozen=True)
class Known:
    """The data that an attack may read, and its random numbers."""

    data: DataFile  # the complete file whose records are asked about
    selection: Selection
    seed: int  # of its random numbers, which also depend on its name, the record and, if it reads it, the question
    attack: str = ""

    @cached_property
    def held_out(self) -> DataFile:
        """The held-out records of the selected categories. Raises `BadInput` if there are none."""
        return self.selection.held_out(self.data)

    @cached_property
    def beside(self) -> dict[str, Any]:
        """The JSON object in the file that the attack `reads`. Raises `BadInput` if there is no such file."""
        return read_object(self.data.path.with_name(ATTACKS[self.attack].reads))

    @cached_property
    def first_words(self) -> dict[str, str]:
        """The first word that is most typical of the file's `harmful` questions compared with the harmless ones, and of
        the `harmless` ones compared with the harmful ones."""
        records = self.data.records
        harmful = [pair.question for record in records for pair in record.unsafe_pairs]
        harmless = [pair.Question for record in records for pair in record.unharm.values()]
        return {"harmful": _typical_word(harmful, harmless), "harmless": _typical_word(harmless, harmful)}

    def chance(self, request: Request) -> Generator:
        """The random generator for a question: it gives the same numbers for each of its responses."""
        return chance(self._key(request, *request.place[:-1]))

    def redraw(self, request: Request, draw: Draw, *inside: str | int) -> Request:
        """The request with the picture that `draw` makes: the same for equal record, picture and `inside`."""
        assert request.file  # `Attack.put` refuses views without a picture
        return replace(request, picture=Redrawn(request.file, self._key(request, *inside), draw))

    def _key(self, request: Request, *inside: str | int) -> str:
        return "/".join(map(str, (self.seed, self.attack, request.record, *inside)))


def _typical_word(questions: Sequence[str], others: Sequence[str]) -> str:
    """The first word whose share of `questions` most exceeds its share of `others`; empty if there are no questions."""
    ours, theirs = (Counter(question.split()[0] for question in each) for each in (questions, others))
    share = lambda word: ours[word] / len(questions) - theirs[word] / max(1, len(others))  # noqa: E731
    return max(sorted(ours), key=share, default="")


def attack(*, on: str, **facts: Any) -> Callable[[Callable], Callable]:
    """Register a function as an attack under the function's name.

    Args:
        on: the thing that the function returns, which also sets its arguments. `picture`: f(picture, random).
            `question`, or a `system` text: f(question, random). A complete `request`: f(request, known). `adapter`:
            f(parameters), by PEFT's names, before they are merged. `model`: f(vlm, known, requests), which returns the
            model and the requests.
        facts: other attributes of `Attack`.
    """

    def register(function: Callable) -> Callable:
        """Add the function to `ATTACKS`, and return it unchanged."""

        def put_words(request: Request, known: Known) -> Request:
            """The request, whose field `on` is now the function's result for its question."""
            return replace(request, **{on: function(request.question, known.chance(request))})

        kinds: dict[str, dict[str, Any]] = {
            "picture": {"request": lambda request, known: known.redraw(request, function), "needs_picture": True},
            "question": {"request": put_words},
            "system": {"request": put_words, "lacks": lambda prepared: prepared.no_system},
        }
        name, code = function.__name__, code_of((function.__module__, function.__name__), room="safeeraser.infer")
        ATTACKS[name] = Attack(name, code, **kinds.get(on, {on: function}), **facts)
        return function

    return register


def shown_picture(data: DataFile, index: int) -> Image.Image:
    """A record's harmful picture in RGB. Raises `BadInput` if it is missing or cannot be decoded."""
    name = data.records[index].image_path
    return open_picture(find_picture(name, data.path) or Path(name))


for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")  # registers its attacks
