"""Config files: what their keys may be, and how they are read. A file in config/ may list under `defaults` the files
that it builds on."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, TypeAdapter, ValidationError

from safeeraser.benchmark.files import read_text
from safeeraser.errors import BadInput, nearest

Page = TypeVar("Page", bound=BaseModel)


class Keys(BaseModel):
    """Keys of a config file. An unknown key is refused, and values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


def one_of(kind: str, known: Collection[str]) -> AfterValidator:
    """A check that a name, or each of several, is known. Its error message calls an unknown name a `kind`."""

    def check(value: Any) -> Any:
        for name in one_as_list(value):
            if name not in known:
                raise ValueError(f"no {kind} '{name}'; {nearest(name, known)}")
        return value

    return AfterValidator(check)


def one_as_list(value: Any) -> Any:
    """The value; a single word becomes a list of one word."""
    return [value] if isinstance(value, str) else value


def read_keys(file: Path) -> dict[str, Any]:
    """The keys of a YAML file. Raises `BadInput` if it cannot be read, is not YAML, or holds no keys."""
    try:
        keys: Any = yaml.safe_load(read_text(file))
    except yaml.YAMLError as error:
        raise BadInput(f"{file}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(keys, dict):
        raise BadInput(f"{file}: holds no keys")
    return keys


def read_page(file: Path, group: Path) -> dict[str, Any]:
    """The keys of a config file, laid over the keys of the files in the folder `group` that it builds on.

    Raises:
        BadInput: one of these files is missing, or holds no keys.
    """
    page = read_keys(file)
    for other in page.pop("defaults", []):
        if other == "_self_":
            continue
        if not (base := group / f"{other}.yaml").is_file():
            known = sorted(each.stem for each in group.glob("*.yaml"))
            raise BadInput(f"{file}: defaults: no file '{other}'; {nearest(str(other), known)}")
        page = read_page(base, group) | page
    return page


def checked(kind: Any, value: Any, where: object, words: Callable[[str], str] = str.lower) -> Any:
    """A value converted to `kind`, a type that pydantic knows.

    Raises:
        BadInput: names `where` the value is from, the key of the first fault, and pydantic's message (through `words`).
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        parts = str(where), ".".join(map(str, first["loc"])), words(first["msg"])
        raise BadInput(": ".join(filter(None, parts))) from None


def check_keys(kind: type[Page], part: type[BaseModel], keys: dict[str, Any], file: Path) -> Page:
    """The keys of a config file as an instance of `kind`, whose nested groups of keys are instances of `part`.

    Raises `BadInput` naming the file and the first key that is wrong, missing or unknown.
    """
    try:
        return kind.model_validate(keys)
    except ValidationError as error:
        # A mistyped key is unknown and leaves another missing; the unknown one says more.
        first = min(error.errors(include_url=False), key=lambda fault: fault["type"] != "extra_forbidden")
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            known = (part if len(first["loc"]) > 1 else kind).model_fields
            raise BadInput(f"{file}: no key '{key}'; {nearest(str(first['loc'][-1]), known)}") from None
        raise BadInput(f"{file}: {key}: {first['msg'].removeprefix('Value error, ')}") from None
