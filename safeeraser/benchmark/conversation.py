"""The conversation a record becomes: prompt text, answer mask, image tokens.

LLaVA-1.5 speaks Vicuna v1: `{system} USER: <image>\\n{question} ASSISTANT: {answer}`, one space between the parts.
The model is trained on the answer's tokens alone. This file works on text and lists of token ids; it needs no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from safeeraser.errors import BadInput

IGNORE = -100  # the label of a token that is not a target, as everywhere in transformers
IMAGE = "<image>"

# The release trains with the first and infers with the second (config/recipe/official.yaml).
SYSTEM_TEXTS = {
    who: (
        f"A chat between a curious {who} and an artificial intelligence assistant. "
        f"The assistant gives helpful, detailed, and polite answers to the {who}'s questions."
    )
    for who in ("human", "user")
}

# What `prompt` writes, for servers and evaluation harnesses that know only templates: Vicuna v1, in which each part
# ends with its separator, an answer with `</s>` and anything else with a space. A leading system message replaces the
# default text. Pictures come before the text they are sent with, as LLaVA-1.5 was trained.
CHAT_TEMPLATE = (
    "{% if not messages or messages[0]['role'] != 'system' %}"
    '{{ "' + SYSTEM_TEXTS["user"] + ' " }}'
    "{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'USER: ' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'ASSISTANT: ' }}"
    "{% elif message['role'] != 'system' or not loop.first %}"
    "{{ raise_exception(\"a role must be 'user' or 'assistant', or 'system' in the first message alone\") }}"
    "{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] in ('image', 'image_url') %}{{ '<image>\\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    "{{ eos_token if message['role'] == 'assistant' else ' ' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


@dataclass(frozen=True)
class Encoded:
    """Token ids and labels of one conversation, of equal length; `IGNORE` where a token is no target."""

    input_ids: list[int]
    labels: list[int]


def prompt(question: str, who: str, *, picture: bool = True) -> str:
    """The text up to and including `ASSISTANT:`, with the system text of `who` (`human` or `user`)."""
    shown = f"{IMAGE}\n" if picture else ""
    return f"{SYSTEM_TEXTS[who]} USER: {shown}{question} ASSISTANT:"


def encode(
    tokenizer: Any, question: str, answer: str, *, who: str, end_of_answer: bool = False, max_length: int = 512
) -> Encoded:
    """Tokenize a conversation and mask everything up to and including `ASSISTANT:`.

    Args:
        tokenizer: a fast transformers tokenizer (its offsets tell which token belongs to the answer).
        end_of_answer: let `</s>` be the last target.
        max_length: tokens at most, the picture counted as one. A longer answer is shortened; the prompt never is.

    Raises:
        BadInput: the text names a picture of its own, or the prompt alone fills `max_length`, leaving no target.
    """
    if IMAGE in question or IMAGE in answer:
        raise BadInput(f"the text itself contains '{IMAGE}', which stands for the picture")
    head = prompt(question, who)
    tokens = tokenizer(f"{head} {answer}", return_offsets_mapping=True)
    ids = list(tokens["input_ids"])
    # A token belongs to the answer if it starts behind the colon; the space before the answer counts as its own.
    labels = [
        token if start >= len(head) and end > start else IGNORE
        for token, (start, end) in zip(ids, tokens["offset_mapping"], strict=True)
    ]
    if end_of_answer:
        ids.append(tokenizer.eos_token_id)
        labels.append(tokenizer.eos_token_id)
    ids, labels = ids[:max_length], labels[:max_length]
    if all(label == IGNORE for label in labels):
        raise BadInput(f"a prompt of {len(ids)} tokens leaves no room for its answer in max_length={max_length}")
    return Encoded(ids, labels)


def expand_image(encoded: Encoded, image_token: int, count: int) -> Encoded:
    """Put `count` image tokens where the text holds one, as transformers 5 wants them; none of them is a target."""
    ids, labels = [], []
    for token, label in zip(encoded.input_ids, encoded.labels, strict=True):
        repeat = count if token == image_token else 1
        ids.extend([token] * repeat)
        labels.extend([label] * repeat)
    return Encoded(ids, labels)


def pad(rows: Sequence[Sequence[int]], value: int, *, left: bool = False) -> list[list[int]]:
    """Pad rows of token ids with `value` to the longest, on the right unless `left`."""
    longest = max(map(len, rows))
    filled = [[value] * (longest - len(row)) for row in rows]
    return [[*fill, *row] if left else [*row, *fill] for row, fill in zip(rows, filled, strict=True)]
