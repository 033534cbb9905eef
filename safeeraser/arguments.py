"""Parsers of command lines that report a mistake as one line on stderr, like any other bad input."""

import argparse
import json
import re
import sys
from argparse import _ActionsContainer as Container
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, get_args

from safeeraser.errors import BadInput, nearest


class Arguments(argparse.ArgumentParser):
    """An `ArgumentParser` that raises `BadInput`. It repeats no stray words, no value of an unknown option, and
    none in place of a number: each could be a key."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def parse_args(self, args=None, namespace=None):
        """Parse as argparse does, but answer an unknown option with the nearest known one."""
        if not self._subparsers:
            # First, because argparse would report a required option that is only mistyped as missing.
            self._refuse_unknown(sys.argv[1:] if args is None else args)
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            self._refuse_unknown(rest)
            raise BadInput("stray words; see --help")
        return parsed

    def keywords(self, given: Mapping[str, Any]) -> argparse.Namespace:
        """The namespace that `parse_args` makes of a command line with the same content as `given`.

        Lists become words with commas between, dicts JSON. A value that no word can express is taken as it is.
        """
        words, others = [], {}
        for key, value in given.items():
            if isinstance(value, dict):
                value = json.dumps(value)
            elif isinstance(value, (list, tuple)) and value:
                value = ",".join(map(str, value))
            if value is True:
                words.append(f"--{key}")
            elif isinstance(value, (str, int, float, Path)) and value is not False:
                words.append(f"--{key}={value}")
            else:
                self._refuse_unknown([f"--{key}"])
                others[key] = value
        parsed = self.parse_args(words)
        vars(parsed).update(others)
        return parsed

    def _refuse_unknown(self, words: Iterable[str]) -> None:
        known = {name: action for action in self._actions for name in action.option_strings if name.startswith("--")}
        for option in (word.split("=")[0] for word in words if word[:2] == "--" != word):
            if option not in known:
                # If it begins no known name, it may be a placeholder: `--adapter` for `--checkpoint_path ADAPTER`.
                takes = [name for name, action in known.items() if option == f"--{action.metavar}".lower()]
                meant = option if any(name.startswith(option) for name in known) else (*takes, option)[0]
                raise BadInput(f"unknown option '{option}'; {nearest(meant, known)}")

    def error(self, message: str) -> NoReturn:
        """Raise `BadInput` with argparse's message; argparse itself would print its usage, and repeat a wrong value."""
        message = re.sub(r"(invalid \w+ value): .*", r"\1", message)
        raise BadInput(f"{message} (see --help)")


def option(default: Any = MISSING, *, help: str, group: str = "", **how: Any) -> Any:
    """A dataclass field that a command line offers as `--NAME`, with its help and its group.

    Args:
        default: without one the option is required.
        how: further arguments of `add_argument`. A field whose default is False is a flag. A field annotated as a path
            or a number, or None, is parsed as one unless `type` is given.
    """
    if default is False:
        how = {"action": "store_true"} | how
    made = {"default_factory": default.copy} if isinstance(default, dict) else {"default": default}
    return field(**made, metadata={"help": help, "group": group, **how})


def add_options(
    parser: Container,
    *kinds: type,
    but: Iterable[str] = (),
    says: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Give a command line the options that dataclasses declare with `option`, in their order.

    Args:
        but: fields that this command line does not have.
        says: the help text of each group, by the group's title.
    """
    groups: dict[str, Container] = {"": parser} | {entry.title: entry for entry in parser._action_groups if entry.title}
    for entry in (
        entry for kind in kinds for entry in fields(kind) if "help" in entry.metadata and entry.name not in but
    ):
        parsed = [kind for kind in (Path, int, float) if kind in (entry.type, *get_args(entry.type))]
        how: dict[str, Any] = {**({"type": parsed[0]} if parsed else {}), **entry.metadata}
        if (title := how.pop("group")) not in groups:
            groups[title] = parser.add_argument_group(title, says.get(title))
        default = entry.default if entry.default_factory is MISSING else entry.default_factory()
        given = {"required": True} if default is MISSING else {"default": default}
        groups[title].add_argument(f"--{entry.name}", **given, **how)


def options_in(kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The parsed options for which a dataclass has a field, as keyword arguments to make it."""
    return {entry.name: given[entry.name] for entry in fields(kind) if entry.name in given}


def one_of(what: str, known: Iterable[str]) -> Callable[[str], str]:
    """An argument type that accepts the `known` names. Unlike argparse's `choices` it suggests the nearest one."""

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


def count_or(word: str) -> Callable[[str], int | None]:
    """An argument type: a whole number of at least 1, or `word`, which becomes None."""

    def parse(text: str) -> int | None:
        try:
            return None if text == word else count(text)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{error}, or {word}") from None

    return parse


def several(what: str, known: Iterable[str] | None = None) -> Callable[[str], tuple[str, ...]]:
    """An argument type: words with commas between; if `known` is given, each word must be in it."""

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
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("must be a JSON object")
    return value


def without_credentials(url: str | None) -> str | None:
    """The address as files may hold it: without name and password, and without the part from a question mark on."""
    return url and re.sub(r"(?<=://)[^/]*@|\?.*", "", url)


def share(text: str) -> float:
    """An argument type: a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError("must be a number from 0 to 1")
    return value
