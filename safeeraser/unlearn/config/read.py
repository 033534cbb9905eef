"""Check a composed config: expand its shorthand keys, and report the first key that is wrong in one line."""

import re
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from safeeraser.benchmark.family import AUTO
from safeeraser.benchmark.methods import PD
from safeeraser.errors import BadInput, nearest
from safeeraser.model.load import family_of
from safeeraser.unlearn.config.compose import groups, plain_page
from safeeraser.unlearn.config.settings import Settings
from safeeraser.unlearn.config.trainer_arguments import with_checked_trainer

Model = type[BaseModel]


def read_settings(config: DictConfig) -> Settings:
    """Check a composed config. Raises `BadInput` naming the first key that is wrong, missing or unknown."""
    config = config.copy()
    OmegaConf.set_struct(config, False)
    try:
        for key, value in plain_page(config).items():
            if isinstance(value, str):
                # In a value such as `${forget_loss}_${lr}`, a group means the name of its choice.
                config[key] = re.sub(rf"\$\{{({'|'.join(groups())})\}}", r"${\1.name}", value)
        if OmegaConf.select(config, "model_family.name") == AUTO:
            OmegaConf.update(config, "model_family", family_of(config.model_path).model_dump(), merge=False)
        _take_up(config)
        settings = Settings.model_validate(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
        return with_checked_trainer(settings)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        if row := re.search(r"Interpolation key '(tables\..+\.methods)\.(.+)\.(\w+)' not found", reason):
            lacks = f"no {row[3]} in the row" if row[2] in OmegaConf.select(config, row[1]) else "no row"
            raise BadInput(
                f"config: {row[1]} has {lacks} for {row[2]}: set lr=RATE and max_train_steps=STEPS, or add "
                f"'{row[2]}: {{max_train_steps: 400, lr: 1.0e-3}}' there, in the file that --config-name names"
            ) from None
        raise BadInput(f"config: {reason}") from None
    except ValidationError as error:
        raise BadInput(f"config: {first_wrong(error, Settings)}") from None


def _take_up(config: DictConfig) -> None:
    """Give the method the term weights that `pd` and `retain` are short for: numbers, duals or ramps. `pd` also changes
    the method's name. Raises `BadInput` if the method already has prompt decouple, or has no retain term."""
    method, pd, retain = config.get("forget_loss"), config.get("pd"), config.get("retain")
    terms = method.get("terms") if isinstance(method, DictConfig) else None
    if not isinstance(terms, DictConfig):
        return  # validation reports a bad method or weight later
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


def first_wrong(error: ValidationError, of: Model) -> str:
    """Describe the first fault of a config checked against `of`. For an unknown name, suggest the nearest known one."""
    # A mistyped key is unknown and leaves another missing; naming the unknown one helps more.
    first: ErrorDetails = min(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
    key, models = _place(first["loc"], of)
    if first["type"] == "extra_forbidden":
        known = [field.alias or name for model in models for name, field in model.model_fields.items()]
        return f"no key '{'.'.join(key)}'; {nearest(key[-1], known)}"
    if first["type"] == "union_tag_invalid":
        by, tag = first["ctx"]["discriminator"].strip("'"), first["ctx"]["tag"]
        known = [name for model in models for name in get_args(model.model_fields[by].annotation)]
        return f"{'.'.join([*key, by])}={tag}: no {key[-1] if by == 'name' else by} '{tag}'; {nearest(tag, known)}"
    if first["type"] == "union_tag_not_found":
        return f"{'.'.join([*key, first['ctx']['discriminator'].strip(chr(39))])}: Field required"
    if first["type"] == "missing":
        return f"no value for {'.'.join(key)}"
    given = f"{'.'.join(key)}={first['input']}: " if key else ""  # an error about several keys names them itself
    return given + first["msg"].removeprefix("Value error, ")


def _place(loc: tuple[int | str, ...], of: Model) -> tuple[list[str], list[Model]]:
    """The keys that lead to a place in a config, and the models allowed there. pydantic's `loc` also has the tag by
    which it chose among several models; the tag is no key and is left out."""
    key: list[str] = []
    models, free = [of], False
    for part in map(str, loc):
        fields = [
            field for model in models for name, field in model.model_fields.items() if part in (name, field.alias)
        ]
        chosen = [model for model in models if part in _names(model)]
        if free or fields or not chosen:
            key.append(part)
        if fields and not free:
            models = [model for field in fields for model in _models_in(field.annotation)] or models
            free = any(get_origin(field.annotation) is dict for field in fields)  # a dict's keys are free
            continue
        models, free = (chosen if chosen and not free else models), False
    return key, models


def _names(model: Model) -> list[str]:
    """The tags by which pydantic chooses a model among several: the values of its fields that allow only one."""
    annotations = [field.annotation for field in model.model_fields.values()]
    return [
        value for each in annotations for value in get_args(each) if len(get_args(each)) == 1 and type(value) is str
    ]


def _models_in(kind: Any) -> Iterator[Model]:
    """The models among the alternatives of a type."""
    if hasattr(kind, "model_fields"):
        yield kind
    for each in get_args(kind):
        yield from _models_in(each)
