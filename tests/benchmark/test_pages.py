"""Config files that build on others, the commit of a checkout, and hashes of code without comments and docstrings."""

import subprocess
import sys

import pytest
from helpers import read_beside, refusal

from safeeraser.benchmark import origin, sources
from safeeraser.benchmark.pages import read_page
from safeeraser.benchmark.sources import code_of, used_by
from safeeraser.infer.attacks import ATTACKS


@pytest.fixture
def group(tmp_path):
    """A folder of three config files; each builds on the one before."""
    folder = tmp_path / "group"
    folder.mkdir()
    (folder / "first.yaml").write_text("one: 1\ntwo: 1\nmany: {a: 1, b: 1}\n")
    (folder / "second.yaml").write_text("defaults: [first, _self_]\ntwo: 2\nmany: {a: 2}\n")
    (folder / "third.yaml").write_text("defaults: [second, _self_]\nthree: 3\n")
    return folder


def test_a_page_has_its_own_keys_on_those_that_it_builds_on(group):
    """A key's value is replaced as one; keys within the two values are not merged."""
    assert read_page(group / "third.yaml", group) == {"one": 1, "two": 2, "many": {"a": 2}, "three": 3}


@pytest.mark.parametrize(
    ("text", "says"), [("defaults: [secnd, _self_]\n", "no file 'secnd'"), ("", "holds no keys"), ("]\n", "not YAML (")]
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
    (tmp_path / "results.json").write_text("{}")  # a file of results outside the package changes nothing
    assert origin.git_commit() == git("rev-parse", "HEAD")
    code.write_text("two")
    assert origin.git_commit() == git("rev-parse", "HEAD") + "-dirty"
    monkeypatch.setattr(origin, "PACKAGE", inside)
    assert origin.git_commit() is None, "what is installed within somebody's checkout is not of it"


FILES = read_beside(__file__, "sources.yaml")
CHANGES = [("Says", "Tells", ""), ("why", "how", ""), ("x + ", "x - ", "one"), ("= 1", "= 2", "one two")]
CHANGES += [("return LIMIT", "return -LIMIT", "two"), ('"a", "b"', '"a", "c"', "one")]


@pytest.mark.parametrize(("old", "new", "others"), CHANGES)
def test_its_code_is_another_where_it_or_what_it_uses_does_something_else(tmp_path, monkeypatch, old, new, others):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lately", raising=False)  # left by the previous case
    (tmp_path / "lately").mkdir()
    codes = []
    for change in (("", ""), (old, new)):
        sources._bound.cache_clear()
        for name, text in FILES.items():
            (tmp_path / "lately" / f"{name}.py").write_text(text.replace(*change))
        codes.append({name: code_of(("lately.mine", name), room="lately") for name in ("one", "two")})
    assert {name for name in codes[0] if codes[0][name] != codes[1][name]} == {*others.split()}


def test_a_change_of_one_prompt_is_one_attacks_and_of_the_likelihood_that_of_all_that_go_by_it():
    assert len({attack.code for attack in ATTACKS.values()}) == len(ATTACKS)
    used = used_by(("safeeraser.infer.attacks.gradients", "pgd"), room="safeeraser.infer")
    assert {("safeeraser.infer.checkpoint", "nll"), ("safeeraser.infer.attacks", "Known")} < used.keys()
