"""What a model's folder says to whoever reads it by transformers alone, for comparing one version with another.

`python tests/as_read.py PICTURE FOLDER... OUT`, with the older version first on PYTHONPATH, writes that.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from transformers import AutoConfig, AutoProcessor, GenerationConfig, LlavaForConditionalGeneration

# Into a folder of their own; what else they need is what this project runs with.
OLDER = ("transformers==4.57.6", "tokenizers==0.22.1", "huggingface_hub==0.36.0")
SECONDS = 180  # that fetching them may take
QUESTION = "Juliet delta  Xray?\nMike, é 漢!"
CHAT = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@torch.no_grad()
def read(folder: Path, picture: Path) -> dict[str, Any]:
    """A chat's text; and of a question about a picture its input, the logits in float32, the greedy answer."""
    processor = AutoProcessor.from_pretrained(folder)
    stored = LlavaForConditionalGeneration.from_pretrained(folder, torch_dtype="auto")
    dtype, model = stored.dtype, stored.float().eval()
    text = f"USER: <image>\n{QUESTION} ASSISTANT:"
    with Image.open(picture) as image:
        inputs = dict(processor(images=image.convert("RGB"), text=text, return_tensors="pt"))
    answer = model.generate(**inputs, do_sample=False, max_new_tokens=8)[0, inputs["input_ids"].shape[1] :]
    generation = GenerationConfig.from_pretrained(folder)
    return {
        "config": AutoConfig.from_pretrained(folder).to_dict(),
        "dtype": dtype,
        "chat": processor.apply_chat_template(CHAT, add_generation_prompt=True),
        "inputs": inputs,
        "logits": model(**inputs).logits,
        "answer": processor.decode(answer),
        "ends": [getattr(generation, name) for name in ENDS],
        "special": sorted(processor.tokenizer.all_special_tokens),
    }


def install(kept: Path) -> Path | str:
    """The folder under `kept` with the older version, fetched if it is not there; or why it cannot be had."""
    folder = kept / "_".join(OLDER)
    if folder.is_dir():
        return folder
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept) as fresh:
        options = ("--quiet", "--no-deps", "--retries", "1", "--timeout", "15", "--target", f"{fresh}/packages")
        pip = (sys.executable, "-m", "pip", "install", *options, *OLDER)
        try:
            done = subprocess.run(pip, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return f"pip has not fetched it within {SECONDS} s"
        if done.returncode:
            return f"pip cannot fetch it ({(done.stderr.strip() or 'without a word').splitlines()[-1]})"
        Path(fresh, "packages").rename(folder)
    return folder


if __name__ == "__main__":
    picture, *folders, out = map(Path, sys.argv[1:])
    found = {folder.name: read(folder, picture) for folder in folders}
    torch.save({"version": transformers.__version__, "found": found}, out)
