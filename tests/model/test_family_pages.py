"""The pages of config/model_family/: that each composes, and that what it names is in the model of its numbers."""

from functools import cache
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from transformers import AutoConfig, AutoModelForImageTextToText

from safeeraser.benchmark.family import families
from safeeraser.benchmark.files import CONFIG
from safeeraser.unlearn.page import from_keys

FOLDER = CONFIG / "model_family"
PAGES = sorted(families())
KEYS = {
    *("name", "model_type", "model_path", "vision_tower", "projector", "language_model", "lora_targets"),
    *("end_of_turn", "chat", "decoder", "lmms_eval", "license", "architecture"),
}
OF_A_SIZE = {"name", "model_path", "license", "architecture"}  # what a size says of itself; all else is its base's
# But for a model in its family's parts that talks in words of its own, and names its page itself.
OWN_WORDS = {"llava-mini-small": {"chat", "end_of_turn"}}
# Parameters in billions as published: a head that is tied by mistake, or is not, is off by more than a hundredth.
PUBLISHED = {
    "gemma-3-4b": 4.30,
    "idefics3-8b": 8.46,
    "internvl3-1b-hf": 0.938,
    "internvl3-2b-hf": 2.09,
    "internvl3-8b-hf": 7.94,
    "llava-1.5-13b": 13.35,
    "llava-1.5-7b": 7.06,
    "llava-next-mistral-7b": 7.57,
    "llava-next-vicuna-7b": 7.06,
    "qwen2.5-vl-3b": 3.75,
    "qwen2.5-vl-7b": 8.29,
    "qwen3-vl-2b": 2.13,
    "qwen3-vl-4b": 4.44,
    "qwen3-vl-8b": 8.77,
    "smolvlm-256m": 0.256,
    "smolvlm-500m": 0.507,
}


def raw(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


@cache
def page(name: str) -> dict[str, Any]:
    return OmegaConf.to_container(from_keys({"model_family": name}).model_family)


def outline(family: dict[str, Any]) -> torch.nn.Module:
    with torch.device("meta"):
        config = AutoConfig.for_model(family["model_type"], **family["architecture"])
        return AutoModelForImageTextToText.from_config(config)


def missing(model: torch.nn.Module, family: dict[str, Any]) -> list[str]:
    """What a page names and its model lacks; a LoRA target is looked for in every layer."""
    modules = dict(model.named_modules())
    parts = [family["vision_tower"], *family["projector"], family["language_model"]]
    gone = [part for part in parts if f"model.{part}" not in modules]
    for number, layer in enumerate(model.get_submodule(f"model.{family['language_model']}.layers")):
        linear = {name.rpartition(".")[2] for name, part in layer.named_modules() if type(part) is torch.nn.Linear}
        gone += [f"{number}.{target}" for target in family["lora_targets"] if target not in linear]
    return gone


SIZES = [name for name in PAGES if "defaults" in raw(name)]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_composes(name):
    """All keys are there, in the group's own place, and its name is what it is chosen by."""
    whole, plain = from_keys({"model_family": name}), from_keys({})
    assert set(page(name)) == KEYS and set(whole) == set(plain)
    assert page(name)["name"] == name.removeprefix("llava-" if name.startswith("llava-mini") else "")
    assert page(name)["decoder"] in ("continuous", "batched") and page(name)["chat"] in (None, "vicuna_v1")
    assert isinstance(page(name)["projector"], list)


@pytest.mark.parametrize("name", SIZES)
def test_a_size_shares_its_base(name):
    base, own, words = raw(name)["defaults"][0], set(raw(name)) - {"defaults"}, OWN_WORDS.get(name, set())
    assert own <= OF_A_SIZE | words and raw(name)["defaults"][1:] == ["_self_"]
    assert all(page(name)[key] == page(base)[key] for key in KEYS - OF_A_SIZE - words)
    assert page(base)["model_path"] is None and page(base)["architecture"] is None
    assert page(name)["model_path"]
    lines = (FOLDER / f"{name}.yaml").read_text().partition("architecture:")[0].splitlines()
    assert len(lines) < 10


def test_each_family_has_one_base():
    """A folder's model_type leads to one page."""
    types = [page(name)["model_type"] for name in PAGES if name not in SIZES]
    assert len(types) == len(set(types)) == 8
    assert {raw(name)["defaults"][0] for name in SIZES} == set(PAGES) - set(SIZES)


@pytest.mark.parametrize("name", [name for name in PAGES if page(name)["architecture"]])
def test_what_a_page_names_is_in_its_model(name):
    model = outline(page(name))
    assert not missing(model, page(name))
    billions = sum(weight.numel() for weight in model.parameters()) / 1e9
    assert billions == pytest.approx(PUBLISHED[name], rel=0.005)


def test_a_mistyped_name_is_seen():
    right = page("smolvlm-256m")
    model = outline(right)
    assert missing(model, right | {"projector": ["conector"]}) == ["conector"]
    assert missing(model, right | {"vision_tower": "visual"}) == ["visual"]
    assert missing(model, right | {"lora_targets": ["q_proj", "qkv"]}) == [f"{number}.qkv" for number in range(30)]
