"""The parsers of all commands: each command is started, and stopped where it would read its command line."""

import argparse
import runpy
import sys
from pathlib import Path
from unittest.mock import patch

from .pages import ROOT


class _Stopped(BaseException):
    """Raised, with the parser, where a command would read its command line."""


def commands() -> dict[str, Path]:
    """Each command, such as `python -m safeeraser.report`, with its file."""
    files = [file for file in sorted(ROOT.glob("*.py"), reverse=True) if file.name != "setup.py"]
    scripts = {f"python {file.name}": file for file in files}
    found = {}
    for file in sorted((ROOT / "safeeraser").rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        if '__name__ == "__main__"' in text and (".parse_args(" in text or file.stem == "__main__"):
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
            found[f"python -m {module}"] = file
    return scripts | found | {"python workflow/door.py": ROOT / "workflow" / "door.py"}


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser that a command builds. forget.py has none, because its config file has its keys."""
    read = argparse.ArgumentParser.parse_known_args

    def stop(parser, *given, **more):
        if parser.add_help:
            raise _Stopped(parser)
        return read(parser, *given, **more)  # it only removes words that must not stay on the command line

    words = command.split()[1:]
    places = [str((ROOT / words[0]).parent), *sys.path]
    with (
        patch.object(sys, "path", places),
        patch.object(argparse.ArgumentParser, "parse_known_args", stop),
        patch.object(sys, "argv", words[-1:]),
    ):
        try:
            run, place = (runpy.run_module, words[1]) if words[0] == "-m" else (runpy.run_path, str(ROOT / words[0]))
            run(place, run_name="__main__")
        except _Stopped as stopped:
            return stopped.args[0]
    raise SystemExit(f"{command}: reads no command line")


def actions_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of a command's actions (such as `merge`) by name; empty if it has none."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(groups[0].choices) if groups else {}
