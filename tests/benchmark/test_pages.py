"""Pages of settings that build on others, model families as pages, and which code made a result."""

import re
import subprocess

import pytest

from safeeraser.benchmark import origin
from safeeraser.benchmark.family import families, page_for, page_of_type
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
    """A key is taken whole: what stands in it is not mixed."""
    assert read_page(group / "third.yaml", group) == {"one": 1, "two": 2, "many": {"a": 2}, "three": 3}


@pytest.mark.parametrize(
    ("text", "says"), [("defaults: [secnd, _self_]\n", "no page 'secnd'"), ("", "holds no keys"), ("]\n", "not YAML (")]
)
def test_a_page_that_is_wrong_is_named_in_a_line(group, tmp_path, text, says):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(BadInput, match=re.escape(says)) as error:
        read_page(tmp_path / "own.yaml", group)
    assert str(error.value).startswith(f"{tmp_path / 'own.yaml'}: ") and "\n" not in str(error.value)


def test_a_parameter_belongs_to_a_part_of_its_family():
    """A projector may lie within the vision tower; a copy that PEFT keeps is of the part that it copies."""
    llava, qwen = page_of_type("llava"), page_of_type("qwen3_vl")
    parts = {
        "base_model.model.model.language_model.layers.0.mlp.up_proj.lora_A.default.weight": "LoRA",
        "model.multi_modal_projector.linear_1.weight": "projector",
        "model.vision_tower.vision_model.embeddings.weight": "vision_tower",
        "model.language_model.layers.1.mlp.up_proj.weight": "language_model",
        "lm_head.weight": "head",
    }
    assert {name: llava.part_of(name) for name in parts} == parts
    assert qwen.part_of(f"model.{qwen.projector[0]}.norm.weight") == "projector"
    assert llava.in_layers("model.language_model.layers.1.mlp") and not llava.in_layers("model.language_model.norm")
    of_size = next(family for family in families().values() if family.model_path)
    assert page_for(of_size.model_path) == of_size and page_for("none/such") is None
    with pytest.raises(BadInput, match="a 'bert' model, for which config/model_family has no page"):
        page_of_type("bert")


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
