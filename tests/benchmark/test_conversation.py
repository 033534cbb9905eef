"""The text of the prompt, the chat template that writes it for servers, and padding on either side."""

import pytest
from helpers import llama_tokenizer
from jinja2 import TemplateError

from safeeraser.benchmark.conversation import CHAT_TEMPLATE, pad, prompt

SYSTEM = (
    "A chat between a curious {0} and an artificial intelligence assistant. The assistant gives helpful, detailed, and "
    "polite answers to the {0}'s questions."
)
USER = SYSTEM.format("user")
TEXT = {"type": "text", "text": "What is it?"}
ASKED = ("user", [{"type": "image"}, TEXT])

llama = pytest.fixture(llama_tokenizer, scope="module", name="llama")


def rendered(tokenizer, *turns, **more):
    chat = [{"role": role, "content": content} for role, content in turns]
    options = {"tokenize": False, "add_generation_prompt": True, **more}
    return tokenizer.apply_chat_template(chat, chat_template=CHAT_TEMPLATE, **options)


def test_the_prompt_is_vicunas_and_rows_are_padded_on_the_side_asked_for():
    for who in ("human", "user"):
        assert prompt("What is it?", who) == f"{SYSTEM.format(who)} USER: <image>\nWhat is it? ASSISTANT:"
    assert prompt("What is it?", "user", picture=False) == f"{USER} USER: What is it? ASSISTANT:"
    assert pad([[1], [2, 3, 4], [5, 6]], 0) == [[1, 0, 0], [2, 3, 4], [5, 6, 0]]
    assert pad([[1], [2, 3, 4], [5, 6]], 7, left=True) == [[7, 7, 1], [2, 3, 4], [7, 5, 6]]


@pytest.mark.parametrize(
    ("turns", "text"),
    [
        ([("user", "<image>\nWhat is it?")], f"{USER} USER: <image>\nWhat is it? ASSISTANT:"),
        ([("user", [TEXT, {"type": "image_url"}])], f"{USER} USER: <image>\nWhat is it? ASSISTANT:"),
        ([("system", "Be brief."), ASKED], "Be brief. USER: <image>\nWhat is it? ASSISTANT:"),
        (
            [ASKED, ("assistant", "A cup."), ("user", "Whose?")],
            f"{USER} USER: <image>\nWhat is it? ASSISTANT: A cup.</s>USER: Whose? ASSISTANT:",
        ),
    ],
)
def test_the_chat_template_writes_the_prompt(llama, turns, text):
    assert rendered(llama, *turns) == text
    whole = rendered(llama, *turns, ("assistant", "Mine."), add_generation_prompt=False)
    assert whole == f"{text} Mine.</s>"
    with pytest.raises(TemplateError, match="a role must be 'user' or 'assistant'"):
        rendered(llama, *turns, ("tool", "a"))
