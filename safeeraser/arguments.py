"""Command lines whose mistakes are one line on stderr, like any other bad input."""

import argparse
import json
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from safeeraser.errors import BadInput, nearest


class Arguments(argparse.ArgumentParser):
    """An `ArgumentParser` that raises `BadInput`, and never repeats a value: it may be an API key."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def parse_args(self, args=None, namespace=None):
        """As argparse does it, but an unknown option is answered with the nearest known one."""
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            option = next((word.split("=")[0] for word in rest if word.startswith("--")), None)
            known = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
            raise BadInput(
                f"unknown option '{option}'; {nearest(option, known)}" if option else "stray words; see --help"
            )
        return parsed

    def error(self, message: str) -> NoReturn:
        """What argparse finds wrong, without its usage page."""
        raise BadInput(f"{message} (see --help)")


def one_of(what: str, known: Iterable[str]) -> Callable[[str], str]:
    """An argument type that accepts the `known` names. Unlike argparse's `choices` it names the nearest one."""

    def check(name: str) -> str:
        if name not in known:
            raise BadInput(f"unknown {what} '{name}'; {nearest(name, known)}")
        return name

    return check


def count(text: str) -> int:
    """An argument type: a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number of at least 1")
    return int(text)


def several(what: str, known: Iterable[str] | None = None) -> Callable[[str], tuple[str, ...]]:
    """An argument type: words with commas between, each of them `known` if that is given."""

    def split(text: str) -> tuple[str, ...]:
        words = tuple(word.strip() for word in text.split(","))
        if not all(words):
            raise argparse.ArgumentTypeError(f"must name each {what}, with commas between")
        return tuple(dict.fromkeys(map(one_of(what, known), words) if known else words))

    return split


def json_object(text: str) -> dict[str, Any]:
    """An argument type: a JSON object."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("must be a JSON object")
    return value


def share(text: str) -> float:
    """An argument type: a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError("must be a number from 0 to 1")
    return value
