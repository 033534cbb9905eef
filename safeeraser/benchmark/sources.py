"""The code on which a function's result depends: its own and the code that it uses, without comments and docstrings.

Sources are parsed, not imported, so that nothing is loaded.
"""

import ast
import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

Place = tuple[str, str]  # a module, and a name in it


def code_of(*places: Place, room: str) -> str:
    """The hash of some functions and of everything in the package `room` that they use."""
    used = used_by(*places, room=room)
    return hashlib.sha256("\n".join(used[place] for place in sorted(used)).encode()).hexdigest()[:12]


def used_by(*places: Place, room: str) -> dict[Place, str]:
    """The code of the given places and of all functions, classes and constants of `room` that they use."""
    used: dict[Place, str] = {}
    seen: set[Place] = set()
    left = list(places)
    while left:
        module, name = place = left.pop()
        if place in seen or not f"{module}.".startswith(f"{room}."):
            continue
        seen.add(place)
        code, uses = _bound(module).get(name, ("", []))
        left += uses
        if code:
            used[place] = code
    return used


def bare(source: str) -> ast.Module:
    """A module's syntax tree without docstrings; comments are no part of a syntax tree."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


@cache
def files_code(*files: Path) -> str:
    """The code in some files as one text: any change in it may change a result, other changes are in comments alone."""
    return "\n".join(ast.unparse(bare(file.read_text(encoding="utf-8"))) for file in files)


@cache
def _bound(module: str) -> dict[str, tuple[str, list[Place]]]:
    """The names that a module binds, each with its code (empty for an import) and the places that it uses."""
    spec = find_spec(module)
    assert spec and spec.origin
    bound: dict[str, tuple[str, list[Place]]] = {}
    for statement in bare(Path(spec.origin).read_text(encoding="utf-8")).body:
        match statement:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                names = [name]
            case ast.Assign(targets=targets):
                names = [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
            case ast.ImportFrom(module=str(source), names=imported):
                bound |= {alias.asname or alias.name: ("", [(source, alias.name)]) for alias in imported}
                continue
            case _:
                continue
        bound |= dict.fromkeys(names, (ast.unparse(statement), _uses(statement, module)))
    return bound


def _uses(statement: ast.stmt, module: str) -> list[Place]:
    """The names that a statement of a module uses, and the names that it imports itself."""
    places: list[Place] = []
    for part in ast.walk(statement):
        match part:
            case ast.Name(id=name):
                places.append((module, name))
            case ast.ImportFrom(module=str(source), names=imported):
                places += [(source, alias.name) for alias in imported]
    return places
