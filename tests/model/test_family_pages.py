"""The pages of config/model_family/: what each names is in the model of its numbers, which has the published size."""

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForImageTextToText

from safeeraser import model as models
from safeeraser.benchmark.files import CONFIG
from safeeraser.generation import DECODERS

PAGES = models.families()
# Parameters in billions as published: a head that is tied by mistake, or is not, is off by more than a hundredth.
PUBLISHED = {
    **{"gemma-3-4b": 4.30, "idefics3-8b": 8.46, "internvl3-1b-hf": 0.938, "internvl3-2b-hf": 2.09, "qwen3-vl-8b": 8.77},
    **{"internvl3-8b-hf": 7.94, "llava-1.5-13b": 13.35, "llava-1.5-7b": 7.06, "llava-next-mistral-7b": 7.57},
    **{"llava-next-vicuna-7b": 7.06, "qwen2.5-vl-3b": 3.75, "qwen2.5-vl-7b": 8.29, "qwen3-vl-2b": 2.13},
    **{"qwen3-vl-4b": 4.44, "smolvlm-256m": 0.256, "smolvlm-500m": 0.507},
}


def test_each_family_has_one_base_with_which_its_sizes_share_all_but_their_names():
    own = {name: yaml.safe_load((CONFIG / "model_family" / f"{name}.yaml").read_text()) for name in PAGES}
    bases = {name for name, page in own.items() if "defaults" not in page}
    assert len({PAGES[name].model_type for name in bases}) == len(bases) == 8
    for name in PAGES.keys() - bases:
        base, *rest = own[name].pop("defaults")
        assert base in bases and rest == ["_self_"] and PAGES[name].model_path and not PAGES[base].model_path
        # But for a model in its family's parts that talks in words of its own, and names its page itself.
        words = {"chat", "end_of_turn"} if name == "llava-mini-small" else set()
        assert own[name].keys() <= {"name", "model_path", "license", "architecture"} | words, name
    assert {page.decoder for page in PAGES.values()} == set(DECODERS)
    assert PUBLISHED.keys() == {name for name, page in PAGES.items() if page.architecture}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_what_a_page_names_is_in_its_model(name):
    page = PAGES[name]
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(page.model_type, **page.architecture))
    models.check_parts(model, page)
    for layer in model.get_submodule(f"model.{page.language_model}.layers"):
        linear = {name.rpartition(".")[2] for name, part in layer.named_modules() if type(part) is torch.nn.Linear}
        assert set(page.lora_targets) <= linear
    assert sum(weight.numel() for weight in model.parameters()) / 1e9 == pytest.approx(PUBLISHED[name], rel=0.005)
