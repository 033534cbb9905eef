"""Another system text: what each family's template makes of it, in prompts and answers."""

import pytest
from helpers import MODEL
from jinja2 import TemplateError

from safeeraser import model as models
from safeeraser.benchmark.conversation import SYSTEM_TEXTS
from safeeraser.errors import BadInput
from safeeraser.generation import DECODERS, Asked
from safeeraser.generation.sampling import Generation

from .recorded import Recorded, picture

TEXT = "Answer in one short word."
SILENT = (
    "{% for message in messages if message['role'] != 'system' %}[{{ message['role'] }}]"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
STRICT = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + SILENT


def test_it_stands_where_the_template_of_the_family_sets_it(family):
    prepared = family.preprocessor
    chat = [
        {"role": "system", "content": [{"type": "text", "text": TEXT}]},
        {"role": "user", "content": [{"type": "text", "text": "What?"}]},
    ]
    expected = prepared.tokenizer.apply_chat_template(
        chat, chat_template=prepared.processor.chat_template, tokenize=False, add_generation_prompt=True
    )
    prompt, whole = prepared._texts(models.Turn(None, "What?", "That.", system=TEXT), None)
    assert prompt == expected and prompt.count(TEXT) == 1 and whole.startswith(prompt) and whole.endswith("That.")
    assert TEXT not in prepared._texts(models.Turn(None, "What?"), None)[0]
    row = prepared.encode(models.Turn(picture(family.rows[0]["picture"]), "What?", system=TEXT))
    assert row.input_ids.count(prepared.picture_token) == family.rows[0]["image_tokens"]


def test_in_llavas_own_wording_it_takes_the_place_of_the_text_that_is_there():
    prepared = models.load_preprocessor(str(MODEL))
    for who, own in SYSTEM_TEXTS.items():
        plain, _ = prepared._texts(models.Turn(None, "What?", who=who), None)
        assert prepared._texts(models.Turn(None, "What?", who=who, system=TEXT), None)[0] == plain.replace(own, TEXT)


@pytest.mark.parametrize("template", [SILENT, STRICT])
def test_a_template_without_one_is_refused(template):
    prepared = models.load_preprocessor(Recorded("qwen3_vl").path)
    prepared.processor.chat_template = template
    assert not prepared.takes_system
    says = "the chat template of model family qwen3-vl writes no system text"
    with pytest.raises(BadInput, match=says):
        prepared.encode_text(models.Turn(None, "What?", system=TEXT), None)
    assert prepared.encode_text(models.Turn(None, "What?"), None).input_ids


def test_what_else_is_wrong_with_a_template_is_not_taken_for_that():
    prepared = models.load_preprocessor(Recorded("qwen3_vl").path)
    prepared.processor.chat_template = "{{ raise_exception('not today') }}"
    with pytest.raises(TemplateError, match="not today"):
        prepared.encode_text(models.Turn(None, "What?"), None)


@pytest.mark.parametrize("name", ["gemma3", "qwen3_vl"])
def test_answers_follow_it_in_any_batch(name):
    """By the page's decoder and the plain path: questions under several texts share a batch."""
    family = Recorded(name)
    vlm = models.VLM(family.model, family.preprocessor)
    texts = (None, TEXT, "Answer in verse.")
    asked = [
        Asked(row["picture"], row["question"], str(number), system=texts[number % 3])
        for number, row in enumerate(family.rows[:9])
    ]
    found = {}
    for kind, size in ((vlm.decoder, 1), (vlm.decoder, 4), ("batched", 9)):
        decoder = DECODERS[kind](vlm, Generation(max_new_tokens=6), size, show=picture, size=lambda p: picture(p).size)
        found[kind, size] = dict(each for ended in decoder.answer(asked) for each in ended)
        for one, prompt in zip(asked, decoder.prompts(asked), strict=True):
            turn = models.Turn(picture(one.picture), one.question, system=one.system)
            assert prompt == vlm.encode(turn).input_ids
    first, *others = found.values()
    assert None not in first.values() and all(other == first for other in others)
