"""Attacks at inference: what is done to a request, or to the model, before it is asked, to see whether it still holds.

An attack is a function in a file of this folder, made known by `@attack()` under its own name. Its texts are this
project's; its docstring names the work whose idea it takes. A file here loads torch, if at all, within its functions,
since attacks are known wherever a command line is read.
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
BACKWARD = 2  # passes that a gradient takes, in forward ones: one there and, the weights being frozen, one back


@dataclass(frozen=True)
class Attack:
    """What is done to a request, to the adapter or to the model; its function is the one of these three that is there,
    see `attack`.

    Attributes:
        code: the hash of its own code and of what it uses of `infer`, so a change of it is noticed.
            What lies below, the model and the benchmark, is no part of it: it is the same for all that is asked.
        lacks: why it cannot be made on a model with this preprocessor; nothing where it can.
        passes: what it takes beside the responses, in forward passes of one prompt, by how many records are asked and
            how many harmful questions each of them has.
    """

    name: str
    code: str
    request: Callable[[Request, Known], Request] | None = None
    adapter: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
    model: Callable[[VLM, Known, Sequence[Request]], tuple[VLM, list[Request]]] | None = None
    hides_picture: bool = False  # nothing of the picture asked about is left to see
    needs_picture: bool = False  # there is nothing to attack where no picture is shown
    learns: bool = False  # it reads records that are held out, and so needs some
    informed: bool = False  # it reads the vanilla answers to what is asked: what comes of it may be its own doing
    reads: str = ""  # a file beside the data file, without which it cannot be made
    control: bool = False  # it asks for a refusal, not an answer: no attack, but what one is held against
    lacks: Callable[[Preprocessor], str] = lambda prepared: ""
    passes: Callable[[int, int], int] = lambda records, questions: 0

    def put(self, requests: list[Request], data: DataFile, selection: Selection, seed: int) -> list[Request]:
        """The requests as the attack puts them. Raises `BadInput` where they lack what it changes or shows."""
        if self.needs_picture and any(request.picture is None for request in requests):
            raise BadInput(f"--attack {self.name}: changes the picture, so it cannot be put to a view without one")
        known = Known(data, selection, seed, self.name)
        return [self.request(request, known) for request in requests] if self.request else requests


@dataclass(frozen=True)
class Known:
    """What an attack may read, and the chance that it draws by."""

    data: DataFile  # whose records are asked about, whole
    selection: Selection
    seed: int  # of its chance, which else depends on its name, the record and, where it is read, the question
    attack: str = ""

    @cached_property
    def held_out(self) -> DataFile:
        """The records that are not asked about, of the categories chosen. Raises `BadInput` if there are none."""
        return self.selection.held_out(self.data)

    @cached_property
    def beside(self) -> dict[str, Any]:
        """The object in the file that the attack `reads`. Raises `BadInput` if there is no such file."""
        return read_object(self.data.path.with_name(ATTACKS[self.attack].reads))

    @cached_property
    def first_words(self) -> dict[str, str]:
        """The first word that is most typical of the file's `harmless` questions, beside the harmful ones, and of the
        `harmful` ones beside the harmless."""
        records = self.data.records
        harmful = [pair.question for record in records for pair in record.unsafe_pairs]
        harmless = [pair.Question for record in records for pair in record.unharm.values()]
        return {"harmful": _typical_word(harmful, harmless), "harmless": _typical_word(harmless, harmful)}

    def chance(self, request: Request) -> Generator:
        """What is drawn for a question: the same for each of its responses."""
        return chance(self._key(request, *request.place[:-1]))

    def redraw(self, request: Request, draw: Draw, *inside: str | int) -> Request:
        """The request with the picture that `draw` makes: the same for all that share record, picture and `inside`."""
        assert request.file  # a view without a picture is refused before
        return replace(request, picture=Redrawn(request.file, self._key(request, *inside), draw))

    def _key(self, request: Request, *inside: str | int) -> str:
        return "/".join(map(str, (self.seed, self.attack, request.record, *inside)))


def _typical_word(questions: Sequence[str], others: Sequence[str]) -> str:
    """The word with which the largest share of some questions begins, less that of others; empty if there are none."""
    ours, theirs = (Counter(question.split()[0] for question in each) for each in (questions, others))
    share = lambda word: ours[word] / len(questions) - theirs[word] / max(1, len(others))  # noqa: E731
    return max(sorted(ours), key=share, default="")


def attack(*, on: str, **facts: Any) -> Callable[[Callable], Callable]:
    """Make a function known as an attack of its name.

    Args:
        on: what the function makes: of a request its `picture`, as f(picture, random); its `question` or its `system`
            text, as f(question, random); or all of it, the `request`, as f(request, known). Of the `adapter` its
            parameters, by PEFT's names and before they are merged, as f(parameters). Of the `model` that answers, and
            the requests that are put to it, both, as f(vlm, known, requests).
        facts: other attributes of `Attack`.
    """

    def register(function: Callable) -> Callable:
        """Enter the function among the attacks, and return it as it is."""

        def put_words(request: Request, known: Known) -> Request:
            """The request with what the function makes of its question in the field `on`."""
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
    """A record's harmful picture in RGB. Raises `BadInput` if it is not there or cannot be decoded."""
    name = data.records[index].image_path
    return open_picture(find_picture(name, data.path) or Path(name))


for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")  # which makes its attacks known
