"""The pages of the documents, and their commands."""

import re
import runpy
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / folder / "README.md" for folder in ("dataset", "benchmarks", "safeeraser", "tests")),
]
PROGRAMS = ("accelerate", "bash", "export", "pip", "python", "vllm")


class Command(NamedTuple):
    """A command on a page: the variables before it, its words, and whether it is a shortened one within the text."""

    page: str
    variables: dict[str, str]
    words: list[str]
    short: bool


def load(script: str) -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(ROOT / script)))


def unfenced(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    """A page's text without blocks, tables, headings and link targets, and with an X for each span in backquotes."""
    text = re.sub(r"^(?: {4}|\||#).*$", "\n", unfenced(page), flags=re.MULTILINE)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"`[^`]*`", "X", text).replace("*", "")


def blocks(page: Path) -> list[str]:
    """The lines of a page's indented blocks; a line that ends in a backslash is joined to the next."""
    text = re.sub(r"\\\n *", "", unfenced(page))
    return [line.strip() for line in re.findall(r"^ {4}(.*)$", text, re.MULTILINE)]


def spans(page: Path) -> list[str]:
    """The spans in backquotes in a page's text."""
    text = re.sub(r"^ {4}.*$", "", unfenced(page), flags=re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def commands() -> list[Command]:
    """All commands of all pages, once each."""
    found = {}
    for page in PAGES:
        for short, lines in ((False, blocks(page)), (True, spans(page))):
            for command in filter(None, (_command(page, line, short) for line in lines)):
                found.setdefault((shlex.join(command.words), str(command.variables), short), command)
    return list(found.values())


def _command(page: Path, line: str, short: bool) -> Command | None:
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # a text with an apostrophe in it
        return None
    variables = {}
    while words and re.match(r"[A-Z_]+=", words[0]):
        name, _, variables[name] = words.pop(0).partition("=")
    if not words or words[0] not in PROGRAMS or (short and len(words) < 2):
        return None
    return Command(str(page.relative_to(ROOT)), variables, words, short)
