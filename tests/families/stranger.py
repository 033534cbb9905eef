"""A model of a family without a config file in config/model_family/: Aya Vision's classes with random weights."""

from pathlib import Path

import torch
from transformers import AutoTokenizer, AyaVisionConfig, AyaVisionForConditionalGeneration, AyaVisionProcessor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from .recorded import DATA

BOS, END, USER, MODEL, REPEATED = "<s>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|IMG_PATCH|>"
START = "<|START_OF_TURN_TOKEN|>"
TOKENS = (START, END, USER, MODEL, "<|START_OF_IMG|>", "<|END_OF_IMG|>", REPEATED, "TILE", "TILE_GLOBAL")
SIDE = 56  # side of a tile in pixels; a tile takes 2 x 2 tokens
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    f"{{{{ '{START}' + ('{USER}' if message['role'] == 'user' else '{MODEL}') }}}}"
    "{% for part in message['content'] %}{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    f"{{{{ '{END}' }}}}{{% endfor %}}{{% if add_generation_prompt %}}{{{{ '{START}{MODEL}' }}}}{{% endif %}}"
)


def write_model(folder: Path) -> Path:
    """Write a folder like the hub's, with two layers per part. The token marking a picture is not the repeated one."""
    tokenizer = AutoTokenizer.from_pretrained(DATA / "llava_next" / "model", eos_token=END)
    tokenizer.add_tokens(list(TOKENS), special_tokens=True)
    text = {
        "model_type": "cohere2",
        **{"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
        **{"num_key_value_heads": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 2048},
        **{"layer_types": ["sliding_attention", "full_attention"], "logit_scale": 1.0, "initializer_range": 0.2},
        **{f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")},
    }
    vision = {
        "model_type": "siglip_vision_model",
        **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"image_size": SIDE, "patch_size": 14, "vision_use_head": False},
    }
    repeated = tokenizer.convert_tokens_to_ids(REPEATED)
    torch.manual_seed(1)
    config = AyaVisionConfig(text_config=text, vision_config=vision, image_token_index=repeated)
    AyaVisionForConditionalGeneration(config).save_pretrained(folder)
    pictures = GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE}, max_patches=4)
    AyaVisionProcessor(pictures, tokenizer, patch_size=28, img_size=SIDE, chat_template=TEMPLATE).save_pretrained(
        folder
    )
    return folder
