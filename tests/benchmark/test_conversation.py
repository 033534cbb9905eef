"""The prompt's text, the answer mask token by token, and what shortening and padding may touch."""

import pytest
from helpers import MODEL, llama_tokenizer
from jinja2 import TemplateError
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from safeeraser.benchmark.conversation import CHAT_TEMPLATE, IGNORE, Encoded, encode, expand_image, pad, prompt
from safeeraser.errors import BadInput

HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the human's questions."
)
USER = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)


@pytest.fixture(scope="module")
def words():
    """A tokenizer with one token a word or sign, `<s>` first; the unknown word is 3."""
    known = ["<s>", "</s>", "<image>", "<unk>", "USER", ":", "ASSISTANT", "what", "is", "it", "a", "cup", "."]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return fast


@pytest.fixture(scope="module")
def llama():
    return llama_tokenizer()


def targets(encoded):
    """The targets in order, after a check that each stands at its own token."""
    assert len(encoded.input_ids) == len(encoded.labels)
    for token, label in zip(encoded.input_ids, encoded.labels, strict=True):
        assert label in (IGNORE, token)
    return [label for label in encoded.labels if label != IGNORE]


def test_the_prompt_is_vicunas(words):
    assert prompt("What is it?", "human") == f"{HUMAN} USER: <image>\nWhat is it? ASSISTANT:"
    assert prompt("What is it?", "user") == f"{USER} USER: <image>\nWhat is it? ASSISTANT:"


def test_mask_by_hand_on_whole_words(words):
    encoded = encode(words, "what is it", "a cup.", who="user")
    # <s>, the system text, USER : <image> what is it ASSISTANT : | a cup .
    system = words(USER, add_special_tokens=False)["input_ids"]
    head = [0, *system, 4, 5, 2, 7, 8, 9, 6, 5]
    assert encoded.input_ids == [*head, 10, 11, 12]
    assert encoded.labels == [IGNORE] * len(head) + [10, 11, 12]


def test_mask_by_hand_on_the_llama_2_vocabulary(llama):
    encoded = encode(llama, "What is it?", "It is a cup.", who="human")
    tokens = llama.convert_ids_to_tokens(encoded.input_ids)
    first = encoded.labels.index(next(label for label in encoded.labels if label != IGNORE))
    # The colon of ASSISTANT: is the last token masked, and nothing behind it is.
    assert tokens[first - 5 : first] == ["▁A", "SS", "IST", "ANT", ":"]
    assert tokens[first:] == ["▁It", "▁is", "▁a", "▁cup", "."]
    assert encoded.labels == [IGNORE] * first + [739, 338, 263, 18002, 29889]
    assert encoded.input_ids[0] == 1 and encoded.input_ids.count(32000) == 1
    # What LLaVA's users know as the beginning of every prompt: "USER:", "▁", the picture, "▁", newline.
    at = encoded.input_ids.index(32000)
    assert encoded.input_ids[at - 4 : at + 3] == [3148, 1001, 29901, 29871, 32000, 29871, 13]
    assert llama.decode(encoded.input_ids[1:first]).replace(" ", "") == prompt("What is it?", "human").replace(" ", "")


@pytest.mark.parametrize(
    ("answer", "tokens"),
    [
        ("I", ["▁I"]),
        (": yes", ["▁:", "▁yes"]),
        ("ASSISTANT: x", ["▁A", "SS", "IST", "ANT", ":", "▁x"]),
        ("12", ["▁", "1", "2"]),
        ("好", ["▁", "好"]),
        ("🙂!", ["▁", "<0xF0>", "<0x9F>", "<0x99>", "<0x82>", "!"]),
        ("two\nlines", ["▁two", "<0x0A>", "lines"]),
    ],
)
def test_answers_whose_first_token_is_easily_lost(llama, answer, tokens):
    encoded = encode(llama, "Why?", answer, who="user")
    assert llama.convert_ids_to_tokens(targets(encoded)) == tokens
    assert encoded.labels[-len(tokens) :] == encoded.input_ids[-len(tokens) :]


def test_a_question_that_quotes_the_marker_is_masked(llama):
    encoded = encode(llama, "Say ASSISTANT: no", "Yes", who="user")
    assert llama.convert_ids_to_tokens(targets(encoded)) == ["▁Yes"]


def test_the_end_of_the_answer_is_the_last_target_and_changes_nothing_else(llama):
    without = encode(llama, "Why?", "It is a cup.", who="user")
    with_end = encode(llama, "Why?", "It is a cup.", who="user", end_of_answer=True)
    assert with_end == Encoded([*without.input_ids, 2], [*without.labels, 2])
    assert 2 not in without.input_ids


def test_max_length_shortens_the_answer_alone(llama):
    whole = encode(llama, "What is it?", "It is a cup.", who="human", end_of_answer=True)
    length = len(whole.input_ids)
    for limit in range(length - 5, length + 2):
        short = encode(llama, "What is it?", "It is a cup.", who="human", end_of_answer=True, max_length=limit)
        assert short == Encoded(whole.input_ids[:limit], whole.labels[:limit])
        assert len(targets(short)) == min(6, 6 - (length - limit))


def test_a_prompt_is_never_shortened(llama):
    head = len(llama(prompt("What is it?", "human"))["input_ids"])
    for limit in (head, head - 1, 10, 1):
        with pytest.raises(BadInput, match=f"leaves no room for its answer in max_length={limit}"):
            encode(llama, "What is it?", "It is a cup.", who="human", max_length=limit)
    assert len(targets(encode(llama, "What is it?", "It is a cup.", who="human", max_length=head + 1))) == 1


@pytest.mark.parametrize(("question", "answer"), [("what <image>", "a"), ("what", "<image> a")])
def test_a_text_cannot_bring_a_picture_of_its_own(words, question, answer):
    with pytest.raises(BadInput, match="the text itself contains '<image>'"):
        encode(words, question, answer, who="user")


def test_the_picture_is_expanded_without_moving_a_target():
    encoded = Encoded([1, 5, 9, 6, 7, 8], [IGNORE, IGNORE, IGNORE, IGNORE, 7, 8])
    assert expand_image(encoded, 9, 3) == Encoded(
        [1, 5, 9, 9, 9, 6, 7, 8], [IGNORE, IGNORE, IGNORE, IGNORE, IGNORE, IGNORE, 7, 8]
    )
    assert expand_image(encoded, 9, 1) == encoded


def test_expanding_comes_after_shortening_so_no_image_token_is_lost(llama):
    limit = len(llama(prompt("What is it?", "user"))["input_ids"]) + 2
    encoded = expand_image(encode(llama, "What is it?", "It is a cup.", who="user", max_length=limit), 32000, 576)
    assert encoded.input_ids.count(32000) == 576 and len(encoded.input_ids) == limit + 575
    assert llama.convert_ids_to_tokens(targets(encoded)) == ["▁It", "▁is"]


def test_rows_are_padded_to_the_longest_on_the_side_asked_for():
    assert pad([[1], [2, 3, 4], [5, 6]], 0) == [[1, 0, 0], [2, 3, 4], [5, 6, 0]]
    assert pad([[1], [2, 3, 4], [5, 6]], 0, left=True) == [[0, 0, 1], [2, 3, 4], [0, 5, 6]]


def test_a_tokenizer_loaded_from_a_model_folder_masks_the_same_way():
    """The recorded model's own tokenizer works with another pre-tokenizer (Metaspace); the rule is the same."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    encoded = encode(tokenizer, "Sierra romeo?", "Uniform sierra.", who="human")
    assert tokenizer.decode(targets(encoded)).strip() == "Uniform sierra."
    assert tokenizer.decode(encoded.input_ids[: -len(targets(encoded))]).endswith("ASSISTANT:")


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
