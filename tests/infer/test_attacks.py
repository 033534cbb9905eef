"""Attacks: what each does to picture and question, that chance is told by the seed alone, and a run under one."""

import base64
import hashlib
import json
import re

import numpy as np
import pytest
from helpers import MODEL, VAL, record, refused, run, write_dataset
from PIL import Image

from safeeraser.benchmark.records import read_records
from safeeraser.benchmark.responses import VIEWS
from safeeraser.infer.attacks import ATTACKS, chance, pictures, prompts, typography
from safeeraser.infer.attacks.prompts import FORMS, SUFFIXES
from safeeraser.infer.requests import Selection, build_requests, show
from safeeraser.model import load_preprocessor

QUESTION = "What is {this} thing for, and why?"
OF_PICTURE = [name for name, attack in ATTACKS.items() if attack.picture and not attack.draws_question]
OF_WORDS = [name for name, attack in ATTACKS.items() if not attack.picture]
DRAWN = [name for name, attack in ATTACKS.items() if attack.draws_question]
GIVEN = ("--model_path", MODEL, "--eval_file", VAL, "--dtype", "float32", "--max_new_tokens", 6)


@pytest.fixture
def picture():
    """A picture with something in it, not square."""
    values = np.add.outer(np.arange(90) * 2, np.arange(60) * 3)[..., None] + np.array([0, 40, 80])
    return Image.fromarray((values % 256).astype(np.uint8))


def attacked(name, picture, question=QUESTION, key="k"):
    """The picture (None where the attack leaves it) and the words that an attack makes."""
    attack = ATTACKS[name]
    shown = attack.picture and attack.picture(picture, question, chance(key))
    return shown, attack.prompt(question, chance(key)) if attack.prompt else question


def difference(one, two):
    return np.abs(np.asarray(one, np.float32) - np.asarray(two, np.float32)).mean()


def test_the_attacks_there_are():
    assert OF_PICTURE == ["blur", "crop", "flip", "jpeg", "noise"]
    assert OF_WORDS == ["role_play", "refusal_suppression", "answer_prefix", "suffix", "paraphrase", "base64"]
    assert DRAWN == ["figstep", "typography"]


@pytest.mark.parametrize("name", ATTACKS)
def test_each_says_whose_idea_it_is(name):
    (function,) = [vars(module)[name] for module in (pictures, prompts, typography) if name in vars(module)]
    assert re.search(r"arXiv \d{4}\.\d{5}|Krizhevsky", function.__doc__)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_same_key_gives_the_same_and_what_is_given_stays(name, picture):
    before = picture.tobytes()
    shown, words = attacked(name, picture)
    again, same_words = attacked(name, picture)
    assert words == same_words and picture.tobytes() == before
    if shown:
        assert shown.mode == "RGB" and shown.tobytes() == again.tobytes() != before


@pytest.mark.parametrize("name", ["crop", "noise"])
def test_another_key_draws_another_picture(name, picture):
    drawn = {attacked(name, picture, key=key)[0].tobytes() for key in "abcdefgh"}
    assert len(drawn) == 8


@pytest.mark.parametrize(("name", "kinds"), [("suffix", len(SUFFIXES)), ("paraphrase", len(FORMS))])
def test_another_key_draws_other_words_out_of_the_list(name, kinds):
    assert len({attacked(name, None, key=str(key))[1] for key in range(200)}) == kinds


def test_pictures_are_changed_as_named(picture):
    flipped, _ = attacked("flip", picture)
    assert (np.asarray(flipped) == np.asarray(picture)[:, ::-1]).all()
    noise = difference(attacked("noise", Image.new("RGB", (80, 80), (128, 128, 128)))[0], 128 * np.ones((80, 80, 3)))
    assert noise == pytest.approx(255 * 0.18 * np.sqrt(2 / np.pi), rel=0.02), "the mean of |x| of a Gaussian"
    spot = Image.new("RGB", (224, 224))
    spot.putpixel((112, 112), (255, 255, 255))
    spread = np.asarray(attacked("blur", spot)[0], np.float32)[..., 0]
    assert spread.max() < 8 and spread[112, 112] == spread.max() and spread[112, 130] == 0
    assert attacked("crop", picture)[0].size == picture.size
    assert 1 < difference(attacked("jpeg", picture)[0], picture) < 40


def test_a_crop_is_a_window_of_seven_tenths():
    ramp = Image.fromarray(np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 100, 0).repeat(3, 2))
    for key in "abcd":
        columns = np.asarray(attacked("crop", ramp, key=key)[0])[50, :, 0]
        assert 138 <= int(columns[-1]) - int(columns[0]) <= 141


def test_the_words_keep_the_question():
    for name in set(OF_WORDS) - {"base64"}:
        words = attacked(name, None)[1]
        assert QUESTION in words and len(words) > len(QUESTION)
    (coded,) = re.findall(r"[A-Za-z0-9+/=]{20,}", attacked("base64", None)[1])
    assert base64.b64decode(coded).decode() == QUESTION


def test_a_question_drawn_is_not_put(picture):
    for name in DRAWN:
        shown, words = attacked(name, picture)
        other, _ = attacked(name, picture, question="Another?")
        assert shown.tobytes() != other.tobytes() and "this" not in words.replace("this picture", "")
        dark = (np.asarray(shown)[picture.height // 12 :] < 60).all(2)
        assert dark.any(), "something is written"


def test_figstep_hides_the_picture_and_typography_keeps_it(picture):
    plain = Image.new("RGB", picture.size, (9, 99, 9))
    assert attacked("figstep", picture)[0].tobytes() == attacked("figstep", plain)[0].tobytes()
    assert ATTACKS["figstep"].hides_picture and not ATTACKS["typography"].hides_picture
    below, _ = attacked("typography", picture)
    assert below.size == (120, 120) and below.crop((30, 0, 90, 90)).tobytes() == picture.tobytes()
    assert (np.asarray(below)[90:, 0] == 255).all(), "black on white"


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("size", [(480, 640), (500, 500), (900, 300)])
def test_what_is_drawn_reaches_the_vision_tower_whole(name, size):
    """CLIP scales the shorter side and cuts the middle square out: a page that is not square would lose lines."""
    shown, _ = attacked(name, Image.new("RGB", size, (200, 30, 30)))
    processor = load_preprocessor(str(MODEL)).processor.image_processor
    seen = processor(shown, return_tensors="pt", do_normalize=False)["pixel_values"][0]
    whole = np.asarray(shown.resize(seen.shape[1:], Image.Resampling.BICUBIC)).transpose(2, 0, 1) / 255
    assert np.abs(seen.numpy() - whole).max() < 0.01


@pytest.mark.parametrize("length", [3, 40, 400, 3000])
@pytest.mark.parametrize("size", [(24, 24), (336, 336), (900, 300)])
def test_a_question_of_any_length_stays_in_its_box(length, size):
    shown, _ = attacked("figstep", Image.new("RGB", size), question=("words " * length)[:length])
    values = np.asarray(shown)
    assert shown.size == (max(size), max(size)) and (values[0] == 255).all() and (values[:, 0] == 255).all(), (
        "a margin is left"
    )
    if length < 400:
        assert (values[:, -1] == 255).all() and (values[-1] == 255).all()


@pytest.fixture
def data(tmp_path):
    return read_records(write_dataset(tmp_path, record(0), record(1, "Sex")))


def requests(data, name, *views, seed=7):
    return build_requests(data, Selection(views), ATTACKS[name], seed)


def test_a_picture_is_attacked_once_for_all_that_is_asked_of_it(data):
    for name in OF_PICTURE:
        forget = requests(data, name, "forget", "retain")
        assert len({request.picture for request in forget}) == 2, "one a record"
        assert [request.question for request in forget[:12:3]] == [f"Secret {n}?" for n in range(4)]
    drawn = requests(data, "typography", "forget")
    assert len({request.picture for request in drawn}) == 8, "one a question"
    assert len({request.question for request in drawn}) == 1


def test_chance_is_told_by_seed_record_and_question_alone(data):
    first, other = (
        {r.key: show(r.picture).tobytes() for r in requests(data, "noise", "forget", "decoupled", seed=seed)}
        for seed in (7, 8)
    )
    assert all(first[key] != other[key] for key in first)
    alone = {r.key: show(r.picture).tobytes() for r in requests(data, "noise", "decoupled")}
    assert alone.items() <= first.items()
    words = [r.question for r in requests(data, "suffix", "forget")]
    assert words[0] == words[1] == words[2], "the samples of a question are asked alike"
    assert len({text.partition("?")[2] for text in words}) > 1


def test_there_is_nothing_to_attack_where_no_picture_is(tmp_path):
    says = "--attack blur: changes the picture, so it cannot be put to a view without one"
    given = ("--output_file", tmp_path / "p.json", "--attack", "blur", "--only", "image_free")
    refused(tmp_path, "ckpt_infer", *GIVEN, *given, says=says)
    refused(
        tmp_path, "ckpt_infer", *GIVEN, *given, "--attack", "blr", says="unknown attack 'blr'; did you mean 'blur'?"
    )


def responses(out):
    """Every response by its place."""
    fields = {field for view in VIEWS.values() for field in view.fields}
    found = {}
    for number, value in enumerate(json.loads(out.read_text("utf-8"))):
        places = [*value["unsafe_pairs"], *(value[key] for key in value if key.startswith("UnharmPair"))]
        for place, holder in enumerate(places):
            found |= {(number, place, field): holder[field] for field in fields & holder.keys()}
    return found


@pytest.mark.parametrize("name", ["noise", "typography", "suffix"])
def test_an_attacked_run_goes_on_and_leaves_the_data_alone(tmp_path, name):
    before = hashlib.sha256(VAL.read_bytes()).hexdigest()
    given = (*GIVEN, "--attack", name, "--only", "forget,retain", "--limit", 1)
    whole, out = tmp_path / "whole.json", tmp_path / "p.json"
    assert run("ckpt_infer", *given, "--output_file", whole, "--batch_size", 16).returncode == 0
    settings = json.loads(whole.with_suffix(".run.json").read_text())["settings"]
    assert settings["attack"] == name
    said = "as it was"
    lines = [{"settings": settings}, {"key": "1/unsafe_pairs/2/model_response3", "response": said}]
    partial = tmp_path / "p.json.partial.jsonl"
    partial.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run("ckpt_infer", *given, "--output_file", out, "--batch_size", 3).returncode == 0
    assert responses(out) == responses(whole) | {(1, 2, "model_response3"): said}
    assert hashlib.sha256(VAL.read_bytes()).hexdigest() == before
    plain = tmp_path / "plain.json"
    assert run("ckpt_infer", *GIVEN, *given[-4:], "--output_file", plain).returncode == 0
    assert responses(plain) != responses(whole)
    kept = [[pair["question"] for pair in value["unsafe_pairs"]] for value in json.loads(whole.read_text("utf-8"))]
    assert kept == [
        [pair["question"] for pair in value["unsafe_pairs"]] for value in json.loads(VAL.read_text("utf-8"))
    ]
