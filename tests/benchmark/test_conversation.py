"""The prompt's text, the chat template that writes it, and what padding may touch."""

import pytest
from helpers import llama_tokenizer
from jinja2 import TemplateError

from safeeraser.benchmark.conversation import CHAT_TEMPLATE, pad, prompt

HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the human's questions."
)
USER = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)


@pytest.fixture(scope="module")
def llama():
    return llama_tokenizer()


def test_the_prompt_is_vicunas():
    assert prompt("What is it?", "human") == f"{HUMAN} USER: <image>\nWhat is it? ASSISTANT:"
    assert prompt("What is it?", "user") == f"{USER} USER: <image>\nWhat is it? ASSISTANT:"


def test_rows_are_padded_to_the_longest_on_the_side_asked_for():
    assert pad([[1], [2, 3, 4], [5, 6]], 0) == [[1, 0, 0], [2, 3, 4], [5, 6, 0]]
    assert pad([[1], [2, 3, 4], [5, 6]], 0, left=True) == [[0, 0, 1], [2, 3, 4], [0, 5, 6]]


def rendered(tokenizer, *turns, **more):
    """A chat as a server would write it; `turns` are pairs of role and content."""
    chat = [{"role": role, "content": content} for role, content in turns]
    options = {"tokenize": False, "add_generation_prompt": True, **more}
    return tokenizer.apply_chat_template(chat, chat_template=CHAT_TEMPLATE, **options)


TEXT = {"type": "text", "text": "What is it?"}


@pytest.mark.parametrize(
    "content",
    [
        "<image>\nWhat is it?",
        [{"type": "image"}, TEXT],
        [TEXT, {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}],
    ],
)
def test_the_chat_template_writes_the_prompt(llama, content):
    assert rendered(llama, ("user", content)) == prompt("What is it?", "user")


def test_the_chat_template_without_a_picture(llama):
    for content in ("What is it?", [TEXT]):
        assert rendered(llama, ("user", content)) == f"{USER} USER: What is it? ASSISTANT:"


@pytest.mark.parametrize("system", ["Be brief.", [{"type": "text", "text": "Be brief."}]])
def test_a_system_message_takes_the_place_of_the_default_text(llama, system):
    said = rendered(llama, ("system", system), ("user", [{"type": "image"}, TEXT]))
    assert said == "Be brief. USER: <image>\nWhat is it? ASSISTANT:"


def test_several_turns_are_separated_as_vicuna_does(llama):
    turns = (("user", [{"type": "image"}, TEXT]), ("assistant", "A cup."), ("user", "Whose?"))
    head = f"{USER} USER: <image>\nWhat is it? ASSISTANT: A cup.</s>USER: Whose?"
    assert rendered(llama, *turns) == f"{head} ASSISTANT:"
    whole = rendered(llama, *turns, ("assistant", [{"type": "text", "text": "Mine."}]), add_generation_prompt=False)
    assert whole == f"{head} ASSISTANT: Mine.</s>"


@pytest.mark.parametrize("turns", [[("user", "a"), ("system", "b")], [("tool", "a")]])
def test_the_chat_template_refuses_other_roles(llama, turns):
    with pytest.raises(TemplateError, match="a role must be 'user' or 'assistant'"):
        rendered(llama, *turns)
