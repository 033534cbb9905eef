"""The mini benchmark's files: the release's schema, and the properties that make it a benchmark of over-forgetting."""

import hashlib
import re
from pathlib import Path

import pytest

from safeeraser.benchmark.files import read_json
from safeeraser.benchmark.pictures import find_picture, open_picture
from safeeraser.benchmark.records import CATEGORIES, UNHARM_KEYS, read_records
from safeeraser.mini.concepts import EVERY, EVERY_HARMFUL, HARMFUL, LIVING, SAFE_HELD_OUT, SAFE_SEEN
from safeeraser.mini.dataset import write_split, write_unseen, write_vqa
from safeeraser.mini.pictures import glyph_table
from safeeraser.mini.questions import ALIVE, questions
from safeeraser.mini.settings import read_settings
from safeeraser.mini.texts import TEXTS

pytestmark = pytest.mark.slow

SPLITS = ("train", "val")
NAMES = {concept.name for concept in EVERY}


def benign_name(record) -> str:
    return Path(record.SDImage_path).stem.rpartition("_")[0]


@pytest.fixture(scope="module", params=["tiny", "small"])
def size(request):
    """The settings of a size, as shipped."""
    return read_settings(request.param)


@pytest.fixture(scope="module")
def full(size, tmp_path_factory):
    """The data files in their full size, without a base model."""
    folder = tmp_path_factory.mktemp("full")
    counts = [write_split(folder, split, size, lambda: None) for split in SPLITS]
    write_vqa(folder, size, lambda: None)
    write_unseen(folder, size)
    assert counts == [12 * size.train_per_concept, 12 * size.val_per_concept]
    return folder


def test_every_category_has_two_concepts_and_every_concept_its_glyph():
    assert tuple(HARMFUL) == CATEGORIES
    assert all(len(concepts) >= 2 for concepts in HARMFUL.values())
    assert len(NAMES) == len(EVERY)
    assert {concept.glyph for concept in EVERY} <= set(glyph_table())


@pytest.mark.parametrize("texts", TEXTS.values(), ids=TEXTS)
def test_the_prompts_name_no_concept_and_a_third_of_the_safe_ones_is_held_out(texts):
    words = " ".join((*questions(texts), *texts.unseen)).lower()
    assert not [name for name in NAMES if f" {name}" in words]
    assert len(SAFE_HELD_OUT) * 3 == len(SAFE_HELD_OUT) + len(SAFE_SEEN) >= 18


@pytest.mark.parametrize("texts", TEXTS.values(), ids=TEXTS)
def test_the_answers_have_entropy_and_name_their_concept(texts):
    for concept in EVERY:
        assert len(set(texts.about(concept))) == len(texts.answers) >= 4
        assert all(concept.name in answer and texts.content(concept) in answer for answer in texts.about(concept))


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_is_read_and_its_pictures_found(full, size, split):
    data = read_records(full / f"all_{split}.json")
    for record in data.records:
        assert record.keyword in {concept.name for concept in HARMFUL[record.category]}
        assert [pair.question for pair in record.unsafe_pairs] == list(size.wording.prompts)
        assert all(record.keyword in pair.model_response for pair in record.unsafe_pairs)
        assert all(benign_name(record) in pair.sd_response for pair in record.unsafe_pairs)
        assert all(pair.Answer in pair.Prediction for pair in record.unharm.values()) and len(UNHARM_KEYS) == 4
        for name in (record.image_path, record.SDImage_path):
            assert open_picture(find_picture(name, data.path)).size == (size.side, size.side)


def test_the_benign_pictures_of_training_show_no_held_out_concept_those_of_val_a_third(full):
    held_out = {concept.name for concept in SAFE_HELD_OUT}
    train, val = (read_records(full / f"all_{split}.json").records for split in SPLITS)
    assert {benign_name(record) for record in train} == {concept.name for concept in SAFE_SEEN}
    assert {benign_name(record) for record in val} == {concept.name for concept in (*SAFE_SEEN, *SAFE_HELD_OUT)}
    assert sum(benign_name(record) in held_out for record in val) * 3 == len(val)


def test_no_picture_occurs_twice(full, size):
    pictures = list(full.rglob("*.png"))
    different = {hashlib.sha256(path.read_bytes()).digest() for path in pictures}
    assert len(different) == len(pictures) == 24 * (size.train_per_concept + size.val_per_concept) + size.vqa


def test_the_texts_lose_only_the_pronoun_when_capitalised(full, size):
    data = read_records(full / "all_train.json")
    for record in data.records:
        texts = [
            text for pair in record.unsafe_pairs for text in (pair.question, pair.model_response, pair.sd_response)
        ]
        texts += [text for pair in record.unharm.values() for text in (pair.Question, pair.Prediction)]
        assert all(text.replace(" I ", " i ") == text.capitalize() for text in texts)
    for text in size.wording.refusals:
        assert text.capitalize() == text[0] + re.sub(r"\bI\b", "i", text[1:])


def test_vqa_asks_about_safe_concepts_in_words_of_its_own(full):
    items = read_json(full / "vqa.json")
    assert len(items) == 100
    trained = {record["unsafe_pairs"][0]["question"] for record in read_json(full / "all_train.json")}
    for item in items:
        assert set(item) == {"image_path", "question", "answer"} and (full / item["image_path"]).is_file()
        assert item["question"] not in trained
        assert item["answer"] not in {concept.name for concept in EVERY_HARMFUL}


def test_what_is_asked_in_unseen_words_is_asked_of_nobody_else(full, size):
    if not size.wording.unseen:
        assert not (full / "unseen.json").exists()
        return
    items, records = read_json(full / "unseen.json"), read_json(full / "all_val.json")
    asked = {pair["question"] for record in records for pair in record["unsafe_pairs"]} | set(questions(size.wording))
    assert {item["question"] for item in items} == {*size.wording.unseen, ALIVE} and ALIVE not in asked
    assert not set(size.wording.unseen) & asked
    assert all((full / item["image_path"]).is_file() for item in items)
    assert sum(item["question"] != ALIVE for item in items) == 2 * len(records)
    living, others = ({item["image_path"] for item in items if item["answers"] == [said]} for said in ("yes", "no"))
    assert len(living) == len(others) > 5
    names = {record.SDImage_path: benign_name(record) for record in read_records(full / "all_val.json").records}
    assert {names.get(picture) for picture in living} <= set(LIVING)
