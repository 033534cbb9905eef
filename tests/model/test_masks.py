"""The answer mask of the release's wording token by token, and what shortening may touch."""

import pytest
from helpers import MODEL, llama_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

from safeeraser.benchmark.conversation import IGNORE, IMAGE, prompt
from safeeraser.benchmark.family import page_of_type
from safeeraser.errors import BadInput
from safeeraser.model import Preprocessor, Row, Turn

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


def encode(tokenizer, question, answer, *, who, place=IMAGE, **how):
    """A conversation about a picture that `place` stands for in the text."""
    processor = LlavaProcessor(CLIPImageProcessorPil(), tokenizer, 14, "default", num_additional_image_tokens=1)
    image_token = tokenizer.convert_tokens_to_ids(IMAGE)
    preprocessor = Preprocessor(processor, page_of_type("llava"), 4096, image_token, "")
    return preprocessor.encode_text(Turn(None, question, answer, who), place, **how)


def targets(encoded):
    """The targets in order, after a check that each stands at its own token."""
    assert len(encoded.input_ids) == len(encoded.labels)
    for token, label in zip(encoded.input_ids, encoded.labels, strict=True):
        assert label in (IGNORE, token)
    return [label for label in encoded.labels if label != IGNORE]


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
    assert with_end == Row([*without.input_ids, 2], [*without.labels, 2])
    assert 2 not in without.input_ids


def test_max_length_shortens_the_answer_alone(llama):
    whole = encode(llama, "What is it?", "It is a cup.", who="human", end_of_answer=True)
    length = len(whole.input_ids)
    for limit in range(length - 5, length + 2):
        short = encode(llama, "What is it?", "It is a cup.", who="human", end_of_answer=True, max_length=limit)
        assert short == Row(whole.input_ids[:limit], whole.labels[:limit])
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


def test_the_picture_is_expanded_without_moving_a_target(llama):
    one, three = (encode(llama, "What is it?", "A cup.", who="user", place=IMAGE * n) for n in (1, 3))
    at = one.input_ids.index(32000)
    assert three.input_ids == [*one.input_ids[:at], 32000, 32000, *one.input_ids[at:]]
    assert three.labels == [IGNORE, IGNORE, *one.labels] and targets(three) == targets(one)


def test_expanding_comes_after_shortening_so_no_image_token_is_lost(llama):
    limit = len(llama(prompt("What is it?", "user"))["input_ids"]) + 2
    encoded = encode(llama, "What is it?", "It is a cup.", who="user", max_length=limit, place=IMAGE * 576)
    assert encoded.input_ids.count(32000) == 576 and len(encoded.input_ids) == limit + 575
    assert llama.convert_ids_to_tokens(targets(encoded)) == ["▁It", "▁is"]


def test_a_tokenizer_loaded_from_a_model_folder_masks_the_same_way():
    """The recorded model's own tokenizer works with another pre-tokenizer (Metaspace); the rule is the same."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    encoded = encode(tokenizer, "Sierra romeo?", "Uniform sierra.", who="human")
    assert tokenizer.decode(targets(encoded)).strip() == "Uniform sierra."
    assert tokenizer.decode(encoded.input_ids[: -len(targets(encoded))]).endswith("ASSISTANT:")
