"""The pages of config/model_family/: what each names is in the model of its numbers, which has the published size."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from safeeraser import model as models

PAGES = models.families()
# Parameters in billions as published: a head that is tied by mistake, or is not, is off by more than a hundredth.
PUBLISHED = {
    **{"gemma-3-4b": 4.30, "idefics3-8b": 8.46, "internvl3-1b-hf": 0.938, "internvl3-2b-hf": 2.09, "qwen3-vl-8b": 8.77},
    **{"internvl3-8b-hf": 7.94, "llava-1.5-13b": 13.35, "llava-1.5-7b": 7.06, "llava-next-mistral-7b": 7.57},
    **{"llava-next-vicuna-7b": 7.06, "qwen2.5-vl-3b": 3.75, "qwen2.5-vl-7b": 8.29, "qwen3-vl-2b": 2.13},
    **{"qwen3-vl-4b": 4.44, "smolvlm-256m": 0.256, "smolvlm-500m": 0.507},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if page.architecture])
def test_what_a_page_names_is_in_its_model(name):
    page = PAGES[name]
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(page.model_type, **page.architecture))
    models.check_parts(model, page)
    for layer in model.get_submodule(f"model.{page.language_model}.layers"):
        linear = {name.rpartition(".")[2] for name, part in layer.named_modules() if type(part) is torch.nn.Linear}
        assert set(page.lora_targets) <= linear
    assert sum(weight.numel() for weight in model.parameters()) / 1e9 == pytest.approx(PUBLISHED[name], rel=0.005)
