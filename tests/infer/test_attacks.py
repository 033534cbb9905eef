"""Attacks: what each does to picture and question, that chance is told by the seed alone, and a run under one."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pkgutil import iter_modules

import numpy as np
import pytest
from helpers import MODEL, ROOT, VAL, record, refused, run, write_dataset
from PIL import Image

from safeeraser.benchmark.records import read_records
from safeeraser.benchmark.responses import VIEWS
from safeeraser.errors import BadInput
from safeeraser.infer import attacks
from safeeraser.infer.attacks import ATTACKS, chance
from safeeraser.infer.attacks.prompts import FORMS, SUFFIXES
from safeeraser.infer.requests import Selection, build_requests, show
from safeeraser.model import load_preprocessor

QUESTION = "What is {this} thing for, and why?"
OF_PICTURE = [name for name, attack in ATTACKS.items() if attack.picture and not attack.draws_question]
OF_WORDS = [name for name, attack in ATTACKS.items() if attack.prompt and not attack.picture]
DRAWN = [name for name, attack in ATTACKS.items() if attack.draws_question]
FAMILIES = ROOT / "tests" / "data" / "families"
BEFORE = "pictures:"  # what is said of a family's processor
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
    assert [name for name, attack in ATTACKS.items() if attack.system] == ["system_text", "told"]
    assert [name for name, attack in ATTACKS.items() if attack.context] == ["in_context_1", "in_context_4"]
    assert [name for name, attack in ATTACKS.items() if attack.adapter] == ["clipped", "pruned"]
    assert [name for name, attack in ATTACKS.items() if attack.model] == ["pgd", "refusal_direction", "soft_prompt"]
    learn = ["in_context_1", "in_context_4", "refusal_direction", "soft_prompt"]
    assert [name for name, attack in ATTACKS.items() if attack.learns] == learn
    assert [name for name, attack in ATTACKS.items() if attack.control] == ["told"]


def test_a_dry_run_is_told_what_attacks_take_beside_responses():
    free = {name for name, attack in ATTACKS.items() if attack.passes(60, 4) == 0}
    assert set(ATTACKS) - free == {"pgd", "refusal_direction", "soft_prompt"}
    for name, grows in (("pgd", True), ("refusal_direction", False), ("soft_prompt", False)):
        few, many = (ATTACKS[name].passes(records, 4) for records in (1, 60))
        assert many == (60 * few if grows else few)
    assert ATTACKS["pgd"].passes(1, 4) == 4 * 21 * 2, "forward and back, of each question at each step"


def test_what_attacks_there_are_is_known_without_torch():
    code = "import sys, safeeraser.infer.command_line; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ATTACKS)
def test_each_says_whose_idea_it_is(name):
    modules = (import_module(f"{attacks.__name__}.{each.name}") for each in iter_modules(attacks.__path__))
    (function,) = [vars(module)[name] for module in modules if name in vars(module)]
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


# Answered questions before the question.


def of_keywords(folder, *keywords):
    """Records of one category, each of a keyword, their questions and answers told apart by number."""
    values = [record(number, keyword=keyword) for number, keyword in enumerate(keywords)]
    for number, value in enumerate(values):
        for n, each in enumerate(value["unsafe_pairs"]):
            each |= {"question": f"Secret {number}.{n}?", "model_response": f"Harm {number}.{n}."}
    return values, lambda: read_records(write_dataset(folder, *values))


@pytest.fixture
def keywords(tmp_path):
    """Two keywords held out, one of them asked about again, and a third."""
    return of_keywords(tmp_path, "one", "two", "one", "three")[1]()


def put(data, name, skip, *views, seed=7, categories=()):
    return build_requests(data, Selection(views, categories, skip=skip), ATTACKS[name], seed)


@pytest.mark.parametrize(("name", "count"), [("in_context_1", 1), ("in_context_4", 4)])
def test_held_out_questions_of_other_keywords_stand_before(keywords, name, count):
    plain = build_requests(keywords, Selection(("forget", "retain"), skip=2))
    seen = set()
    for request, own in zip(put(keywords, name, 2, "forget", "retain"), plain, strict=True):
        *before, last = request.question.split("\n\n")
        shown = [
            re.fullmatch(r"Question: Secret (\d\.\d)\?\nAnswer: Harm (\d\.\d)\.", each).groups() for each in before
        ]
        assert len(shown) == len(set(shown)) == count and all(one == two for one, two in shown)
        assert last == f"Question: {own.question}\nAnswer:" and request.picture == own.picture
        seen |= {(request.record, int(number[0])) for number, _ in shown}
    assert seen == {(2, 1), (3, 0), (3, 1)}, "never the record's own keyword"


def test_samples_are_shown_the_same_and_seeds_others(keywords):
    first = put(keywords, "in_context_1", 2, "forget")
    assert [r.question for r in put(keywords, "in_context_1", 2, "forget")] == [r.question for r in first]
    assert len({r.question for r in first[:3]}) == 1 and len({r.question for r in first}) == 8
    assert [r.question for r in put(keywords, "in_context_1", 2, "forget", seed=8)] != [r.question for r in first]


def test_too_few_held_out_are_told(tmp_path):
    """A blank answer shows nothing."""
    values, read = of_keywords(tmp_path, "one", "two", "one")
    values[1]["unsafe_pairs"][3]["model_response"] = " "
    says = "--attack in_context_4: shows 4 answers to questions of another keyword than the record's, and 3 are held "
    says += r"out for .*all_train\.json: record 2; a larger --skip holds more out"
    with pytest.raises(BadInput, match=says):
        put(read(), "in_context_4", 2, "forget")


def test_other_categories_are_held_out_too(tmp_path):
    """Where one alone is asked about, whose records all may be of one keyword."""
    values = [record(n, category, keyword=category) for n, category in enumerate(["Sex", "Sex", "Weapon", "Weapon"])]
    values[2]["unsafe_pairs"] = [{"question": "Why so?", "model_response": "So."}]
    data = read_records(write_dataset(tmp_path, *values))
    asked = put(data, "in_context_1", 1, "forget", categories=("Sex",))
    assert {r.record for r in asked} == {1} and all("Question: Why so?\nAnswer: So.\n\n" in r.question for r in asked)


# System texts.


def test_a_system_text_is_put_with_the_question_as_it_is(data):
    plain = build_requests(data, Selection(("forget",)))
    texts = set()
    for name in ("system_text", "told"):
        under = requests(data, name, "forget")
        assert [(r.picture, r.question) for r in under] == [(r.picture, r.question) for r in plain]
        (text,) = {r.system for r in under}
        texts.add(text)
    assert len(texts) == 2 and None not in texts


def test_a_family_whose_template_has_none_is_refused(tmp_path):
    """Before its weights are looked for."""
    folder = tmp_path / "model"
    shutil.copytree(FAMILIES / "qwen3_vl" / "model", folder)
    for file in folder.glob("chat_template*"):
        file.write_text("{% for message in messages if message['role'] != 'system' %}{{ message['role'] }}{% endfor %}")
    (folder / "model.safetensors").unlink()
    given = ("--model_path", folder, "--eval_file", VAL, "--output_file", tmp_path / "p.json", "--dtype", "float32")
    says = "--attack told: the chat template of model family qwen3-vl writes no system text"
    refused(tmp_path, "ckpt_infer", *given, "--attack", "told", says=says, before=BEFORE)


@pytest.mark.parametrize("family", ["llava_next", "qwen2_5_vl", "smolvlm"])
def test_pictures_in_tiles_are_not_for_pgd(tmp_path, family):
    given = ("--model_path", FAMILIES / family / "model", "--eval_file", VAL, "--output_file", tmp_path / "p.json")
    says = "cuts pictures into tiles or patches; pgd knows those alone that make one square of a fixed size of each"
    refused(tmp_path, "ckpt_infer", *given, "--dtype", "float32", "--attack", "pgd", says=says, before=BEFORE)


def responses(out):
    """Every response by its place."""
    fields = {field for view in VIEWS.values() for field in view.fields}
    found = {}
    for number, value in enumerate(json.loads(out.read_text("utf-8"))):
        places = [*value["unsafe_pairs"], *(value[key] for key in value if key.startswith("UnharmPair"))]
        for place, holder in enumerate(places):
            found |= {(number, place, field): holder[field] for field in fields & holder.keys()}
    return found


@pytest.mark.parametrize("name", ["noise", "typography", "suffix", "told"])
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
