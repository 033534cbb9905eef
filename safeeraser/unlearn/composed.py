"""A composed config, checked once: what it is short for taken up, and one line about the first key that is wrong."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from safeeraser.benchmark.family import AUTO
from safeeraser.benchmark.methods import PD
from safeeraser.errors import BadInput, nearest
from safeeraser.model import family_of
from safeeraser.unlearn.settings import Settings


def read_settings(config: DictConfig) -> Settings:
    """Check a composed config. Raises `BadInput` naming the first key that is wrong, missing or unknown."""
    config = config.copy()
    OmegaConf.set_struct(config, False)
    try:
        if OmegaConf.select(config, "model_family.name") == AUTO:
            OmegaConf.update(config, "model_family", family_of(config.model_path).model_dump(), merge=False)
        _take_up(config)
        return Settings.model_validate(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        if row := re.search(r"Interpolation key '(tables\..+\.methods)\.(.+)\.\w+' not found", reason):
            raise BadInput(
                f"config: {row[1]} has no row for {row[2]}: set lr=RATE and max_train_steps=STEPS, or add the row; "
                f"{nearest(row[2], OmegaConf.select(config, row[1]))}"
            ) from None
        raise BadInput(f"config: {reason}") from None
    except ValidationError as error:
        # A mistyped key is unknown and leaves another missing; the unknown one tells more.
        first = min(error.errors(include_url=False), key=lambda found: found["type"] != "extra_forbidden")
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            *inside, last = first["loc"]
            raise BadInput(f"config: no key '{key}'; {nearest(str(last), _keys_in(inside))}") from None
        given = f"{key}={first['input']}: " if key else ""  # what does not go together names its keys itself
        raise BadInput(f"config: {given}{first['msg'].removeprefix('Value error, ')}") from None


def _take_up(config: DictConfig) -> None:
    """Give the method the weights that `pd` and `retain` are short for, numbers or duals: what its results are called
    tells of it.

    Raises:
        BadInput: it has prompt decouple already, or no retain term.
    """
    method, pd, retain = config.get("forget_loss"), config.get("pd"), config.get("retain")
    terms = method.get("terms") if isinstance(method, DictConfig) else None
    if not isinstance(terms, DictConfig):
        return  # what is no method, as what is no weight, is told of by the checks
    by_name = method.pop("pd", None)  # of a method asked for as NAME+pd
    pd = by_name if pd is None else pd
    if isinstance(pd, int | float | DictConfig):
        if "decoupled" in terms:
            raise BadInput(
                f"config: pd={pd}: {method.name} has prompt decouple as it is; forget_loss.terms.decoupled.weight "
                "weighs it otherwise"
            )
        terms.decoupled = {"loss": "nll", "views": ["decoupled"], "weight": pd}
        method.name, method.title = f"{method.name}{PD}", f"{method.get('title') or method.name}{PD.upper()}"
    if isinstance(retain, int | float | DictConfig):
        if "retain" not in terms:
            raise BadInput(f"config: retain={retain}: {method.name} has no term retain, but {', '.join(terms)}")
        terms.retain.weight = retain


def _keys_in(place: list[str | int]) -> Iterable[str]:
    """The keys known at a place of the page."""
    kind: Any = Settings
    for part in place:
        # A dictionary's keys are free; what it holds has the type that its annotation ends in.
        kind = kind.model_fields[part].annotation if hasattr(kind, "model_fields") else get_args(kind)[-1]
    return [field.alias or name for name, field in next(_models_in(kind)).model_fields.items()]


def _models_in(kind: Any) -> Iterator[Any]:
    """What has keys among the alternatives of a type."""
    if hasattr(kind, "model_fields"):
        yield kind
    for each in get_args(kind):
        yield from _models_in(each)
