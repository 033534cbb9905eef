"""The protocol of relearning: how an audited model is trained on, and on what (config/relearn.yaml says each key)."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from safeeraser.benchmark.files import CONFIG
from safeeraser.benchmark.pages import read_keys
from safeeraser.errors import BadInput, nearest
from safeeraser.unlearn.views import VIEWS

PAGE = CONFIG / "relearn.yaml"
TRAIN, HELD_OUT = "train", "held_out"  # what `data` says beside the path of a file
ANSWERED = [view for view in VIEWS if view != "refusal"]  # a refusal is drawn from a file, not brought back

Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1)]


class _Keys(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Attacker(_Keys):
    """What a model is trained on."""

    view: str
    data: str = Field(min_length=1)
    pictures: bool = True
    seeds: Seeds | None = None

    @field_validator("view")
    @classmethod
    def _known_view(cls, name: str) -> str:
        if name not in ANSWERED:
            raise ValueError(f"no view '{name}'; {nearest(name, ANSWERED)}")
        return name


class Protocol(_Keys):
    """How a model is trained on: alike whatever it is, so that what comes back can be compared."""

    rank: int = Field(ge=1)
    alpha: float = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)
    lr: float = Field(gt=0)
    items: int = Field(ge=1)
    steps: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    seeds: Seeds
    gradient_checkpointing: bool
    attackers: dict[Annotated[str, Field(pattern=r"^[\w-]+$")], Attacker] = Field(min_length=1)

    @field_validator("steps")
    @classmethod
    def _rising(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        if list(steps) != sorted(set(steps)):
            raise ValueError("must rise from each to the next")
        return steps

    def seeds_of(self, attacker: str) -> tuple[int, ...]:
        """The seeds by which an attacker is run."""
        return self.attackers[attacker].seeds or self.seeds

    @property
    def told(self) -> dict[str, Any]:
        """All keys, as JSON holds them: what an audit writes down, and is compared by when it goes on."""
        return self.model_dump(mode="json")


def read_protocol(path: Path | None = None) -> Protocol:
    """The protocol of config/relearn.yaml, with the keys that a file has in the place of its own.

    Raises:
        BadInput: naming the file and the first key that is wrong, missing or unknown.
    """
    keys = read_keys(PAGE) | (read_keys(path) if path else {})
    try:
        return Protocol.model_validate(keys)
    except ValidationError as error:
        # A mistyped key is unknown and leaves another missing; the unknown one tells more.
        first = min(error.errors(include_url=False), key=lambda found: found["type"] != "extra_forbidden")
        key, file = ".".join(map(str, first["loc"])), path or PAGE
        if first["type"] == "extra_forbidden":
            known = Attacker.model_fields if len(first["loc"]) > 1 else Protocol.model_fields
            raise BadInput(f"{file}: no key '{key}'; {nearest(str(first['loc'][-1]), known)}") from None
        raise BadInput(f"{file}: {key}: {first['msg'].removeprefix('Value error, ')}") from None
