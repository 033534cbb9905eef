"""Every option of every command, and every key of the page of settings, as docs/options.md lists them.

  python scripts/options.py > docs/options.md

The commands are found: the scripts beside README.md, the modules of the package that can be run, and workflow/door.py.
Each is begun, and stopped where it would read its command line: its parser then tells its options, as `--help` would.
"""

import argparse
import os
import re
import runpy
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "config" / "forget_lora.yaml"
IS_RUN, READS_OPTIONS = '__name__ == "__main__"', ".parse_args("
KINDS = {Path: "PATH", int: "N", float: "X"}  # what stands for a value whose option does not say

OTHER = "Other keys"  # a section without a comment
INTRODUCTION = """\
# Every option

What can be set where, with its default. Made by `python scripts/options.py > docs/options.md` from the commands' own
help and the comments of [config/forget_lora.yaml](../config/forget_lora.yaml). What takes no value is off by default.
"""


class _Stopped(BaseException):
    """Raised where a command would read its command line."""

    def __init__(self, parser: argparse.ArgumentParser):
        self.parser = parser


def commands() -> dict[str, Path]:
    """What is called, such as `python -m safeeraser.report`, and its file."""
    files = [file for file in sorted(ROOT.glob("*.py"), reverse=True) if file.name != "setup.py"]
    scripts = {f"python {file.name}": file for file in files}
    found = {}
    for file in sorted((ROOT / "safeeraser").rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        if IS_RUN in text and (READS_OPTIONS in text or file.stem == "__main__"):
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
            found[f"python -m {module}"] = file
    return scripts | found | {"python workflow/door.py": ROOT / "workflow" / "door.py"}


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser that a command builds; forget.py has none, its keys are the page's."""
    read = argparse.ArgumentParser.parse_known_args

    def stop(parser, *given, **more):
        if parser.add_help:
            raise _Stopped(parser)
        return read(parser, *given, **more)  # which only takes out what must not stay on the command line

    words = command.split()[1:]
    places = [str((ROOT / words[0]).parent), *sys.path]
    with (
        patch.object(sys, "path", places),
        patch.object(argparse.ArgumentParser, "parse_known_args", stop),
        patch.object(sys, "argv", words[-1:]),
    ):
        try:
            if words[0] == "-m":
                runpy.run_module(words[1], run_name="__main__")
            else:
                runpy.run_path(str(ROOT / words[0]), run_name="__main__")
        except _Stopped as stopped:
            return stopped.parser
    raise SystemExit(f"{command}: reads no command line")


def actions_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of a command's actions (`merge`), by name; empty where it has none."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(groups[0].choices) if groups else {}


def table(head: str, rows: Iterable[tuple[str, str, str]]) -> list[str]:
    """A Markdown table of what can be set, its default, and what it means."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {head} | default | |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in cells), ""]


def options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str, str]]:
    """A row an option."""
    for action in parser._actions:
        if isinstance(action, (argparse._HelpAction, argparse._SubParsersAction)):
            continue
        told = parser._get_formatter()._expand_help(action) if action.help else ""
        told, _, default = re.fullmatch(r"(.*?)(\(?\bdefault: (.*?)\)?)?", told, re.DOTALL).groups()
        if not default and action.required and action.option_strings:
            default = "required"
        kind = KINDS.get(action.type, "WORD") if action.option_strings else action.dest.upper()
        value = action.metavar or kind
        words = [*action.option_strings[-1:], *[value] * (action.nargs if isinstance(action.nargs, int) else 1)]
        yield f"`{' '.join(words)}`", default or "", told.strip()


def keys(page: str) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """The sections of a page of settings, each with its comment and a row a key."""
    section, rows, above, groups, blank = "", [], [], [], True
    for line in page.splitlines():
        if comment := re.fullmatch(r"\s*# ?(.*)", line):
            if blank and rows:
                yield section, rows
                section, rows = "", []
            if blank or not rows:
                section = f"{section} {comment[1]}".strip()
            else:
                above.append(comment[1])
        elif key := re.fullmatch(r"( *)(?:- )?(\w+):(?: (.*?))??(?: # (.*))?", line):
            if blank and rows and section != OTHER and not key[1]:
                yield section, rows
                section, rows = OTHER, []
            depth = len(key[1]) // 2
            groups[depth:] = [key[2]]
            name = ".".join(groups[: depth + 1]).removeprefix("defaults.")
            if key[3]:
                rows.append((f"`{name}`", f"`{key[3]}`", " ".join([*above, key[4] or ""]).strip()))
            elif key[4]:
                section = f"{section} `{name}`: {key[4]}."
            above = []
        blank = not line.strip()
    yield section, rows


def comments(script: Path) -> list[str]:
    """What a bash script says of itself."""
    lines = script.read_text(encoding="utf-8").splitlines()[1:]
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return [line.removeprefix("#").removeprefix(" ") for line in lines[:end]]


def keys_told() -> Iterator[str]:
    """The keys of forget.py."""
    yield "## `forget.py`: its keys\n"
    for section, rows in keys(PAGE.read_text(encoding="utf-8")):
        yield from (f"{section}\n", *table("key", rows))


def options_told() -> Iterator[str]:
    """The options of every other command; what several have alike stands with the first of them."""
    first: dict[tuple[str, str, str], str] = {}
    for command in commands():
        if command == "python forget.py":
            continue
        parser, name = parser_of(command), command.removeprefix("python ") if " -m " not in command else command
        yield f"## `{name}`\n\n{' '.join((parser.description or '').partition(chr(10) * 2)[0].split())}\n"
        for action, one in {"": parser, **actions_of(parser)}.items():
            rows = list(options(one))
            known = [row for row in rows if first.setdefault(row, name) != name]
            if action:
                yield f"`{action}`: {one.description}.\n"
            if own := [row for row in rows if row not in known]:
                yield from table("option", own)
            for other in dict.fromkeys(map(first.get, known)):
                yield f"As for `{other}`: {', '.join(row[0] for row in known if first[row] == other)}.\n"


def scripts_told() -> Iterator[str]:
    """What the bash scripts say of themselves."""
    yield "## Scripts\n"
    for script in sorted((ROOT / "scripts").rglob("*.bash")):
        if script.read_text(encoding="utf-8").startswith("#!"):
            yield from ("```", *comments(script), "```", "")


def main() -> None:
    """Print the page."""
    print("\n".join([INTRODUCTION, *keys_told(), *options_told(), *scripts_told()]).rstrip())


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)
    main()
