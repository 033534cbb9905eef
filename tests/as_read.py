"""Read model folders with transformers alone, so that the results of two of its versions can be compared.

`python tests/as_read.py PICTURE FOLDER... OUT`, with the older version first on PYTHONPATH, writes its results to OUT.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from transformers import AutoProcessor, GenerationConfig, LlavaForConditionalGeneration

QUESTION = "Juliet delta  Xray?\nMike, é 漢!"
CHAT = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]


@torch.no_grad()
def read(folder: Path, picture: Path) -> dict[str, Any]:
    """The text of a chat, special tokens, and a picture question's input, float32 logits and greedy answer."""
    processor = AutoProcessor.from_pretrained(folder)
    stored = LlavaForConditionalGeneration.from_pretrained(folder, torch_dtype="auto")
    dtype, model = stored.dtype, stored.float().eval()
    text = f"USER: <image>\n{QUESTION} ASSISTANT:"
    with Image.open(picture) as image:
        inputs = dict(processor(images=image.convert("RGB"), text=text, return_tensors="pt"))
    answer = model.generate(**inputs, do_sample=False, max_new_tokens=8)[0, inputs["input_ids"].shape[1] :]
    generation = GenerationConfig.from_pretrained(folder)
    return {
        "dtype": dtype,
        "chat": processor.apply_chat_template(CHAT, add_generation_prompt=True),
        "inputs": inputs,
        "logits": model(**inputs).logits,
        "answer": processor.decode(answer),
        "ends": [getattr(generation, f"{name}_token_id") for name in ("bos", "eos", "pad")],
        "special": sorted(processor.tokenizer.all_special_tokens),
    }


if __name__ == "__main__":
    picture, *folders, out = map(Path, sys.argv[1:])
    found = {folder.name: read(folder, picture) for folder in folders}
    torch.save({"version": transformers.__version__, "found": found}, out)
