"""What is wrong with a page, as one line: the first key that pydantic complains about, in the page's own words."""

from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from safeeraser.errors import nearest

Model = type[BaseModel]


def first_wrong(error: ValidationError, of: Model) -> str:
    """The first fault of a page that was checked against `of`, and for a name that is not known the nearest that is."""
    # A mistyped key is unknown and leaves another missing; the unknown one tells more.
    first: ErrorDetails = min(error.errors(include_url=False), key=lambda found: found["type"] != "extra_forbidden")
    key, models = _place(first["loc"], of)
    if first["type"] == "extra_forbidden":
        known = [field.alias or name for model in models for name, field in model.model_fields.items()]
        return f"no key '{'.'.join(key)}'; {nearest(key[-1], known)}"
    if first["type"] == "union_tag_invalid":
        by, tag = first["ctx"]["discriminator"].strip("'"), first["ctx"]["tag"]
        known = [name for model in models for name in get_args(model.model_fields[by].annotation)]
        return f"{'.'.join([*key, by])}={tag}: no {key[-1] if by == 'name' else by} '{tag}'; {nearest(tag, known)}"
    given = f"{'.'.join(key)}={first['input']}: " if key else ""  # what does not go together names its keys itself
    return given + first["msg"].removeprefix("Value error, ")


def _place(loc: tuple[int | str, ...], of: Model) -> tuple[list[str], list[Model]]:
    """A place in a page by its keys, and what may stand there. pydantic puts between them by which name it chose among
    several models; that is no key."""
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
            free = any(get_origin(field.annotation) is dict for field in fields)  # whose keys are free
            continue
        models, free = (chosen if chosen and not free else models), False
    return key, models


def _names(model: Model) -> list[str]:
    """By what a model is chosen among others: the values that its fields of one value have."""
    annotations = [field.annotation for field in model.model_fields.values()]
    return [
        value for each in annotations for value in get_args(each) if len(get_args(each)) == 1 and type(value) is str
    ]


def _models_in(kind: Any) -> Iterator[Model]:
    """What has keys among the alternatives of a type."""
    if hasattr(kind, "model_fields"):
        yield kind
    for each in get_args(kind):
        yield from _models_in(each)
