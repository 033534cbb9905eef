"""Pages of settings that build on others, and which code made a result."""

import subprocess

import pytest
from helpers import refusal

from safeeraser.benchmark import origin
from safeeraser.benchmark.pages import read_page


@pytest.fixture
def group(tmp_path):
    """A folder of three pages, each on the one before."""
    folder = tmp_path / "group"
    folder.mkdir()
    (folder / "first.yaml").write_text("one: 1\ntwo: 1\nmany: {a: 1, b: 1}\n")
    (folder / "second.yaml").write_text("defaults: [first, _self_]\ntwo: 2\nmany: {a: 2}\n")
    (folder / "third.yaml").write_text("defaults: [second, _self_]\nthree: 3\n")
    return folder


def test_a_page_has_its_own_keys_on_those_that_it_builds_on(group):
    """A key is taken whole: what stands in it is not mixed."""
    assert read_page(group / "third.yaml", group) == {"one": 1, "two": 2, "many": {"a": 2}, "three": 3}


@pytest.mark.parametrize(
    ("text", "says"), [("defaults: [secnd, _self_]\n", "no page 'secnd'"), ("", "holds no keys"), ("]\n", "not YAML (")]
)
def test_a_page_that_is_wrong_is_named_in_a_line(group, tmp_path, text, says):
    (tmp_path / "own.yaml").write_text(text)
    said = refusal(read_page, tmp_path / "own.yaml", group)
    assert said.startswith(f"{tmp_path / 'own.yaml'}: ") and says in said and "\n" not in said


def test_the_commit_of_a_checkout(tmp_path, monkeypatch):
    def git(*words):
        given = ["git", "-C", tmp_path, "-c", "user.name=n", "-c", "user.email=e@example.org", *words]
        return subprocess.run(given, check=True, capture_output=True, text=True).stdout.strip()

    code, inside = tmp_path / "safeeraser" / "code.py", tmp_path / "venv" / "site-packages" / "safeeraser"
    for folder in (code.parent, inside):
        folder.mkdir(parents=True)
    git("init", "-q")
    code.write_text("one")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    monkeypatch.setattr(origin, "PACKAGE", code.parent)
    (tmp_path / "results.json").write_text("{}")  # a file of results beside it changes nothing
    assert origin.git_commit() == git("rev-parse", "HEAD")
    code.write_text("two")
    assert origin.git_commit() == git("rev-parse", "HEAD") + "-dirty"
    monkeypatch.setattr(origin, "PACKAGE", inside)
    assert origin.git_commit() is None, "what is installed within somebody's checkout is not of it"
