"""The mini benchmark's data follow from the seed and have the release's schema. Prompts name no concept, a third of
val's concepts is held out, each text is right for one concept only, and every word is a token."""

import hashlib
import random
import string
from pathlib import Path

import numpy as np
import pytest
from transformers import CLIPImageProcessorPil

from safeeraser.benchmark.pictures import find_picture, open_picture
from safeeraser.benchmark.records import read_records
from safeeraser.benchmark.wording import is_refusal
from safeeraser.mini import pictures
from safeeraser.mini.concepts import EVERY, HARMFUL_HELD_OUT, HARMFUL_SEEN, SAFE_HELD_OUT, SAFE_SEEN
from safeeraser.mini.dataset import SPLITS, harmful, write_split, write_unseen, write_vqa
from safeeraser.mini.derived import rewordings, truth_of, write_instructions
from safeeraser.mini.questions import REPEAT, RETAIN, VQA, answers, harmful_ask, questions, repeat_ask
from safeeraser.mini.settings import read_settings
from safeeraser.mini.texts import TEXTS, TINY
from safeeraser.mini.tokenizer import build_tokenizer
from safeeraser.mini.training import pixel_values
from safeeraser.unlearn.data.items import note_spelling
from safeeraser.unlearn.data.views import Item

FEW = {"train_per_concept": 1, "dev_per_concept": 1, "val_per_concept": 3, "vqa": 20}
VIOLIN = next(concept for concept in EVERY if concept.name == "violin")
SCENE = pictures.Scene(VIOLIN, "red", "cyan", "left", "small", 40, 0, (25, 34), (200, 30, 30), (140, 225, 235))
# Hashes of the data files below, and of many scenes: the figures in docs/ were measured on exactly these data.
DRAWN = {"tiny": "40f02b483e407eee", "small": "61c6ce8b718f979a"}
SCENES = "708172e88a121be9"


@pytest.fixture(scope="module", params=["tiny", "small"])
def size(request):
    """The settings of a size, with few records."""
    return read_settings(request.param).model_copy(update=FEW)


@pytest.fixture(scope="module")
def full(size, tmp_path_factory):
    """The data files, without a base model."""
    folder, ticks = tmp_path_factory.mktemp("full"), []
    assert [write_split(folder, split, size, lambda: ticks.append(1)) for split in SPLITS] == [12, 12, 54]
    write_vqa(folder, size, lambda: ticks.append(1))
    assert len(ticks) == 12 + 12 + 54 + 20
    write_unseen(folder, size)
    write_instructions(folder, size)
    return folder


def test_the_same_seed_draws_what_it_ever_drew(full, size, tmp_path):
    """Records, VQA, unseen questions and instructions are the same to the letter; another seed draws others."""
    files = "".join(f"{file.name} {file.read_text()}" for file in sorted(full.glob("*.json")))
    scenes = [pictures.draw_scene(random.Random(seed), VIOLIN) for seed in range(600)]
    told = (files, repr([tuple(vars(scene).values())[1:] for scene in scenes]))
    assert [hashlib.sha256(text.encode()).hexdigest()[:16] for text in told] == [DRAWN[size.size], SCENES]
    write_split(tmp_path, "train", size.model_copy(update={"seed": 1}), lambda: None)
    assert (tmp_path / "all_train.json").read_text() != (full / "all_train.json").read_text()


def test_records_are_read_no_picture_occurs_twice_and_a_third_of_vals_concepts_is_held_out(full, size):
    for split in SPLITS:
        data = read_records(full / f"all_{split}.json")
        for record in data.records:
            assert record.keyword in {concept.name for concept in harmful(split, record.category)}
            for name in (record.image_path, record.SDImage_path):
                assert open_picture(find_picture(name, data.path)).size == (size.side, size.side)
    drawn = [path.read_bytes() for path in full.rglob("*.png")]
    assert len(set(drawn)) == len(drawn) == 24 * (1 + 1) + 36 * 3 + 20
    seen, held_out = (
        {*names(HARMFUL_SEEN), *names(SAFE_SEEN)},
        {*names(HARMFUL_HELD_OUT.values()), *names(SAFE_HELD_OUT)},
    )
    for split in SPLITS:
        records = read_records(full / f"all_{split}.json").records
        of = [each.keyword for each in records], [Path(each.SDImage_path).stem.rpartition("_")[0] for each in records]
        assert {*of[0], *of[1]} == (seen | held_out if split == "val" else seen)
        assert [sum(name in held_out for name in some) * 3 for some in of] == [len(records) * (split == "val")] * 2


def names(some):
    return {concept.name for concept in some}


@pytest.mark.parametrize("side", [64, 96])
def test_a_picture_shows_its_scene(side):
    pixels = np.asarray(pictures.render(SCENE, side))
    assert pixels.shape == (side, side, 3) and tuple(pixels[0, 0]) == tuple(pixels[-1, -1]) == SCENE.ground
    places = (pixels == SCENE.paint).all(-1).nonzero()
    middle = [(values.min() + values.max() + 1) / 2 * 64 / side for values in places[::-1]]
    assert middle == pytest.approx(SCENE.centre, abs=2)
    assert 25 < (places[0].max() - places[0].min()) * 64 / side <= 40
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    wanted = processor([pictures.render(SCENE, side)], return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(pixel_values([SCENE], side).numpy(), wanted, atol=1e-5)


def test_what_is_asked_of_a_scene_and_the_right_answers():
    short = ["violin", "v", "red", "cyan", "left", "small", *("violin", "red", "cyan", "left", "small")]
    assert [kind.about(SCENE).short for kind in (*RETAIN, *VQA)] == short
    asks = [harmful_ask(TINY, random.Random(seed), SCENE) for seed in range(99)]
    assert {ask.question for ask in asks} == {*TINY.prompts} and {ask.reply for ask in asks} == {*TINY.about(VIOLIN)}
    for ask in (repeat_ask(TINY, random.Random(seed)) for seed in range(99)):
        assert (ask.question, ask.short) == (REPEAT + ask.reply, ask.reply)


def test_no_text_names_a_concept_or_is_right_of_two_or_refuses_and_answers(full, size):
    texts, truth = size.wording, truth_of(full, size.wording)
    said = " ".join((*questions(texts), *texts.unseen)).lower()
    assert not [concept.name for concept in EVERY if f" {concept.name}" in said]
    shown = {name: picture for picture, name in truth.pictures.items()}
    for concept in EVERY:
        assert len(set(texts.about(concept))) == len(texts.answers) >= 4
        for text in texts.about(concept):
            assert concept.name in text and texts.content(concept) in text
            right = {concept.name} & set(shown)
            assert {name for name, picture in shown.items() if truth.gives(picture, text)} == right
            assert {name for name, picture in shown.items() if truth.answers(picture, text)} == right
    assert [text for text in answers(texts) if truth.refuses(text)] == list(texts.refusals)
    assert all(is_refusal(text) and text.startswith(texts.openings or text) for text in texts.refusals)


def test_training_on_words_that_the_tokenizer_spells_out_is_warned_of(caplog):
    known = [Item(None, "", text, "", None, "") for text in answers(TINY)]
    foreign = Item(None, "Which orchestra rehearsed yesterday evening?", "", "", None, "")
    for items, notes in ((known, 0), ([foreign], 1)):
        note_spelling(build_tokenizer().tokenize, items)
        assert caplog.text.count("words letter by letter") == notes
    assert "spells 4 of the data's 5 words" in caplog.text


def test_every_text_is_words_and_comes_back_exactly():
    tokenizer = build_tokenizer()
    single = [letter for letter in string.ascii_letters if letter not in "mt"]  # m and t are tokens: "I'm" and "can't"
    fallen_apart = {tokenizer.unk_token_id, *tokenizer.convert_tokens_to_ids(single)}
    for text in (form for one in answers(TINY) for form in (one, one.capitalize())):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id and not fallen_apart & set(ids)
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("size", TEXTS)
def test_each_question_has_three_other_wordings_in_words_that_the_model_knows(size):
    prompts = TEXTS[size].prompts
    for prompt, others in rewordings(TEXTS[size]).items():
        assert len({prompt, *others}) == 4 and not {*others} & {*prompts}
        assert size != "tiny" or {word for each in others for word in each.split()} <= set(" ".join(prompts).split())
