"""The base model's tokenizer: exact, without `<unk>`, and at one with the conversation's offsets and masks."""

import string

import pytest

from safeeraser.benchmark.conversation import IGNORE, IMAGE, SYSTEM_TEXTS, prompt
from safeeraser.mini.questions import answers, questions
from safeeraser.mini.texts import TINY
from safeeraser.mini.tokenizer import build_tokenizer
from safeeraser.model import Turn

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def both_forms(texts):
    return [form for text in texts for form in (text, text.capitalize())]


def test_every_text_in_both_forms_is_words_and_comes_back_exactly(tokenizer):
    single = [letter for letter in string.ascii_letters if letter not in "mt"]  # those of "I'm" and "can't"
    fallen_apart = set(tokenizer.convert_tokens_to_ids(single))
    for text in both_forms(answers(TINY)):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id and tokenizer.unk_token_id not in ids
        assert not fallen_apart & set(ids)
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_unknown_words_fall_apart_into_characters(tokenizer):
    text = "Zebra-crossings? 42% of $7 {quizzical} ~ `words`."
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("who", list(SYSTEM_TEXTS))
def test_the_targets_are_the_answer(tokenizer, preprocessor, who):
    for question, answer in zip(both_forms(questions(TINY)) * 99, both_forms(answers(TINY)), strict=False):
        encoded = preprocessor.encode_text(Turn(None, question, answer, who), IMAGE, end_of_answer=True)
        targets = [label for label in encoded.labels if label != IGNORE]
        assert targets[-1] == tokenizer.eos_token_id and tokenizer.unk_token_id not in encoded.input_ids
        assert tokenizer.decode(targets, skip_special_tokens=True) == answer
        head = tokenizer(prompt(question, who))["input_ids"]
        assert encoded.input_ids[: len(head)] == head and set(encoded.labels[: len(head)]) == {IGNORE}
