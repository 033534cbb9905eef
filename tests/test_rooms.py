"""Which rooms (folders of the package) may import from which."""

import ast
from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import safeeraser

HOUSE = Path(safeeraser.__file__).parent
# A command that is named after its output. It imports from rooms above, and no file imports it.
NAMES = (HOUSE / "benchmark" / "answers.py",)


@cache
def modules(file: Path) -> set[tuple[str, ...]]:
    """The modules and names of this package that a file imports, at any place in its code but for type checkers."""
    names, tree = set(), ast.parse(file.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not isinstance(node, ast.If)]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {tuple(name.split(".")[1:]) for name in names if name.startswith("safeeraser.")}


def imported(file: Path) -> set[str]:
    """The rooms that a file imports from."""
    return {name[0] for name in modules(file) if (HOUSE / name[0]).is_dir()}


@pytest.mark.parametrize(
    "room, others",
    [
        ("benchmark", set()),
        ("judge", {"benchmark"}),
        ("score", {"judge", "benchmark"}),
        *((room, {"benchmark"}) for room in ("model", "report", "specificity")),
        ("generation", {"model", "benchmark"}),
        *((room, {"generation", "model", "benchmark"}) for room in ("unlearn", "infer")),
    ],
)
def test_a_room_imports_from_no_room_above_it(room, others):
    for file in (HOUSE / room).rglob("*.py"):
        if file not in NAMES:
            assert imported(file) <= others | {room}, file
    assert not [file for file in HOUSE.rglob("*.py") if "benchmark.answers import" in file.read_text(encoding="utf-8")]


@pytest.mark.parametrize("place", ["", *(file.parent.name for file in HOUSE.glob("*/__init__.py"))])
def test_folders_and_files_do_not_import_each_other_in_a_circle(place):
    below: dict[str, set[str]] = {}
    for file in (HOUSE / place).rglob("*.py"):
        names = {name[1:] if place else name for name in modules(file) if place in ("", name[0]) and file not in NAMES}
        mine = file.relative_to(HOUSE / place).with_suffix("").parts[0]
        below.setdefault(mine, set()).update({name[0] for name in names if name} - {mine})
    assert len(list(TopologicalSorter(below).static_order())) >= len(below) > 1


@pytest.mark.parametrize("room", ["selftest", "leaderboard"])
def test_nothing_stands_on_a_room_above_all(room):
    for file in HOUSE.rglob("*.py"):
        if file.parent != HOUSE / room:
            assert room not in imported(file), file


def test_what_a_module_says_that_it_exports_is_there():
    named = [file for file in HOUSE.rglob("*.py") if "\n__all__ = " in file.read_text(encoding="utf-8")]
    assert len(named) > 1
    for file in named:
        module = import_module(".".join(file.parent.relative_to(HOUSE.parent).parts))
        assert [name for name in module.__all__ if not hasattr(module, name)] == [], file
