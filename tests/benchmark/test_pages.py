"""Pages of settings that build on others, and what is told of those that are wrong."""

import re

import pytest

from safeeraser.benchmark.pages import read_page
from safeeraser.errors import BadInput


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
    assert read_page(group / "first.yaml", group) == {"one": 1, "two": 1, "many": {"a": 1, "b": 1}}
    # A key is taken whole: what stands in it is not mixed.
    assert read_page(group / "third.yaml", group) == {"one": 1, "two": 2, "many": {"a": 2}, "three": 3}


def test_a_page_elsewhere_builds_on_those_of_the_group(group, tmp_path):
    (tmp_path / "first.yaml").write_text("defaults: [first, _self_]\none: mine\n")
    assert read_page(tmp_path / "first.yaml", group) == {"one": "mine", "two": 1, "many": {"a": 1, "b": 1}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("defaults: [secnd, _self_]\n", "defaults: no page 'secnd'; did you mean 'second'?"),
        ("- one\n", "holds no keys"),
        ("", "holds no keys"),
        ("]\n", "not YAML ("),
        (None, "no such file"),
    ],
)
def test_a_page_that_is_wrong_is_named_in_a_line(group, tmp_path, text, says):
    file = tmp_path / "own.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(BadInput, match=re.escape(f"{file}: {says}")) as error:
        read_page(file, group)
    assert "\n" not in str(error.value)
