"""The release's wording of a conversation, and padding of token ids to rows of one length.

LLaVA-1.5 uses Vicuna v1: `{system} USER: <image>\\n{question} ASSISTANT: {answer}`, one space between the parts.
"""

from collections.abc import Sequence

IGNORE = -100  # the label of a token that is not a target, as everywhere in transformers
IMAGE = "<image>"

# The release trains with the first text and infers with the second (config/recipe/official.yaml).
SYSTEM_TEXTS = {
    who: (
        f"A chat between a curious {who} and an artificial intelligence assistant. "
        f"The assistant gives helpful, detailed, and polite answers to the {who}'s questions."
    )
    for who in ("human", "user")
}

# The text of `prompt` as a template, for servers and evaluation harnesses that take only templates. In Vicuna v1 each
# part ends with its separator: an answer with `</s>`, any other part with a space. A leading system message replaces
# the default text. Pictures come before the text that they are sent with, as in the training of LLaVA-1.5.
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


def prompt(question: str, who: str, *, picture: bool = True) -> str:
    """The text up to and including `ASSISTANT:`, with the system text of `who` (`human` or `user`)."""
    shown = f"{IMAGE}\n" if picture else ""
    return f"{SYSTEM_TEXTS[who]} USER: {shown}{question} ASSISTANT:"


def pad(rows: Sequence[Sequence[int]], value: int, *, left: bool = False) -> list[list[int]]:
    """Pad rows of token ids with `value` to the longest row, on the right unless `left`."""
    longest = max(map(len, rows))
    filled = [[value] * (longest - len(row)) for row in rows]
    return [[*fill, *row] if left else [*row, *fill] for row, fill in zip(rows, filled, strict=True)]
