"""Attacks on pictures, words and system text, and by examples: each changes a request by seed and record alone."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import record, write_dataset, write_json
from PIL import Image

from safeeraser.benchmark.records import read_records
from safeeraser.errors import BadInput
from safeeraser.infer.attacks import ATTACKS, chance
from safeeraser.infer.requests import Request, Selection, build_requests, show

QUESTION = "What is {this} thing for, and why?"


@pytest.fixture
def picture():
    """A picture that is neither plain nor square."""
    values = np.add.outer(np.arange(90) * 2, np.arange(60) * 3)[..., None] + np.array([0, 40, 80])
    return Image.fromarray((values % 256).astype(np.uint8))


def attacked(name, seed=7, question=QUESTION):
    request = Request(0, ("unsafe_pairs", 0, "own"), Path("own.png"), question)
    return ATTACKS[name].put([request], None, Selection(), seed)[0]


def shown(name, picture, seed=7, question=QUESTION):
    redrawn = attacked(name, seed, question).picture
    return redrawn.draw(picture, chance(redrawn.key))


def test_flip_and_jpeg_are_what_their_names_say(picture):
    assert (np.asarray(shown("flip", picture)) == np.asarray(picture)[:, ::-1]).all()
    stored = io.BytesIO()
    picture.save(stored, "JPEG", quality=15)
    assert shown("jpeg", picture).tobytes() == Image.open(stored).tobytes()


def test_noise_has_a_standard_deviation_of_18_in_a_hundred():
    grey = Image.new("RGB", (80, 80), (128, 128, 128))
    values = np.asarray(shown("noise", grey)).astype(float) - 128
    assert np.abs(values).mean() == pytest.approx(255 * 0.18 * np.sqrt(2 / np.pi), rel=0.02), "the mean of |x|"
    assert len({shown("noise", grey, seed).tobytes() for seed in range(4)}) == 4


def test_blur_spreads_a_point_by_three_pixels_of_224():
    for side in (224, 448):
        spot = Image.new("RGB", (side, side))
        spot.paste((255, 255, 255), (side // 2 - 4, side // 2 - 4, side // 2 + 5, side // 2 + 5))
        profile = np.asarray(shown("blur", spot), float)[..., 0].sum(axis=0)
        variance = (profile * (np.arange(side) - side // 2) ** 2).sum() / profile.sum()
        assert variance == pytest.approx((3 * side / 224) ** 2 + (9**2 - 1) / 12, rel=0.1)


def test_the_same_seed_draws_the_same_picture_and_leaves_the_given_one(picture):
    before = picture.tobytes()
    for name in (name for name, attack in ATTACKS.items() if attack.needs_picture and attack.request):
        first, again = shown(name, picture), shown(name, picture)
        assert first.mode == "RGB" and first.tobytes() == again.tobytes() != before == picture.tobytes(), name


def test_figstep_shows_a_page_and_typography_a_caption_of_the_question(picture):
    plain = Image.new("RGB", picture.size, (9, 99, 9))
    page, caption = (shown(name, picture) for name in ("figstep", "typography"))
    assert page.tobytes() == shown("figstep", plain).tobytes() and page.size == (90, 90)
    assert caption.size == (120, 120) and caption.crop((30, 0, 90, 90)).tobytes() == picture.tobytes()
    below = np.asarray(caption)[90:]
    assert (below[:, 0] == 255).all() and (below < 60).all(2).any(), "black on white"
    for name in ("figstep", "typography"):
        assert shown(name, picture, question="Another?").tobytes() != shown(name, picture).tobytes()
        assert "{this}" not in attacked(name).question


def test_words_are_put_around_the_question():
    wraps = {"role_play": 1, "refusal_suppression": 1, "answer_prefix": 1, "suffix": 6, "paraphrase": 5}
    for name, forms in wraps.items():
        drawn = {attacked(name, seed).question for seed in range(200)}
        assert len(drawn) == forms and all(QUESTION in each and each != QUESTION for each in drawn)
    (coded,) = re.findall(r"[A-Za-z0-9+/=]{20,}", attacked("base64").question)
    assert base64.b64decode(coded).decode() == QUESTION


@pytest.fixture
def data(tmp_path):
    return read_records(write_dataset(tmp_path, record(0), record(1, "Sex")))


def put(data, name, *views, seed=7, **chosen):
    return build_requests(data, Selection(views, **chosen), ATTACKS[name], seed)


def test_a_picture_is_attacked_once_for_all_its_questions_and_by_seed_and_record_alone(data):
    both = {seed: put(data, "noise", "forget", "decoupled", seed=seed) for seed in (7, 8)}
    pixels = {seed: {r.key: show(r.picture).tobytes() for r in asked} for seed, asked in both.items()}
    assert all(pixels[7][key] != pixels[8][key] for key in pixels[7])
    alone = {r.key: show(r.picture).tobytes() for r in put(data, "noise", "decoupled")}
    assert alone.items() <= pixels[7].items() and len(set(alone.values())) == 2
    assert len({r.picture for r in both[7]}) == 4 and {r.file for r in both[7]} == {r.picture.path for r in both[7]}
    assert [r.question for r in both[7][:16:4]] == [f"Secret {n}?" for n in range(4)]
    captions = put(data, "typography", "forget")
    assert len({r.picture for r in captions}) == 8 and len({r.question for r in captions}) == 1


def test_samples_are_asked_alike_and_a_system_text_stands_beside_the_question_as_it_is(data):
    asked = [r.question for r in put(data, "suffix", "forget")]
    assert asked[0] == asked[1] == asked[2] and len({text.partition("?")[2] for text in asked}) > 1
    assert asked != [r.question for r in put(data, "suffix", "forget", seed=8)]
    plain = [(r.picture, r.question) for r in build_requests(data, Selection(("forget",)))]
    for name in ("system_text", "told"):
        under = put(data, name, "forget")
        assert [(r.picture, r.question) for r in under] == plain and all(r.system for r in under)


def test_one_word_goes_with_answers_on_the_harmful_picture_and_with_refusals_elsewhere(data):
    """Harmful questions begin with Secret, harmless ones with What."""
    asked = {r.place: r.question for r in put(data, "one_word", "forget", "decoupled", "retain") if r.record == 0}
    assert asked["unsafe_pairs", 2, "model_response3"] == "What: Secret 2?"
    assert asked["unsafe_pairs", 2, "sd_response"] == "Secret: Secret 2?"
    assert asked["UnharmPair_text1", "Prediction"] == "Secret: What text1?"


def test_a_question_is_reworded_from_a_file_beside_the_data(data):
    with pytest.raises(BadInput, match=r"rewordings\.json"):
        put(data, "reworded_1", "forget")
    wordings = {f"Secret {n}?": [f"First {n}?", f"Second {n}?"] for n in range(4)}
    write_json(data.path.with_name("rewordings.json"), wordings)
    asked = [r.question for r in put(data, "reworded_2", "forget", "retain")]
    assert asked[3] == "Second 1?" and "What text1?" in asked and len(set(asked)) == 8
    with pytest.raises(BadInput, match=r"reworded_3: .*rewordings\.json has no wording 3 .*record 0, unsafe_pairs\.0"):
        put(data, "reworded_3", "decoupled")


@pytest.mark.parametrize(("name", "count"), [("in_context_1", 1), ("in_context_4", 4)])
def test_answered_questions_of_other_keywords_stand_before_the_question(tmp_path, name, count):
    """The examples come from all categories, and their answers are not blank."""
    values = [record(number, keyword=keyword) for number, keyword in enumerate(("one", "two", "one", "three"))]
    for number, value in enumerate(values):
        for n, each in enumerate(value["unsafe_pairs"]):
            each |= {
                "question": f"Secret {number}.{n}?",
                "model_response": f"Harm {number}.{n}." if number + n else " ",
            }
    values[1]["category"] = "Sex"
    data = read_records(write_dataset(tmp_path, *values))
    chosen = {"skip": 1, "categories": ("Weapon",)}
    plain = build_requests(data, Selection(("forget", "retain"), **chosen))
    asked, seen = put(data, name, "forget", "retain", **chosen), set()
    shape = r"Question: Secret (\d\.\d)\?\nAnswer: Harm (\d\.\d)\."
    for request, own in zip(asked, plain, strict=True):
        *before, last = request.question.split("\n\n")
        numbers = [re.fullmatch(shape, each).groups() for each in before]
        assert len(numbers) == len(set(numbers)) == count and all(one == two for one, two in numbers)
        assert last == f"Question: {own.question}\nAnswer:" and request.picture == own.picture
        seen |= {(request.record, int(number[0])) for number, _ in numbers}
    assert seen == {(2, 1), (3, 0), (3, 1)}, "never the record's own keyword"
    of_forget = [r.question for r in asked if r.place[0] == "unsafe_pairs"]
    assert of_forget[0] == of_forget[1] == of_forget[2] and len(set(of_forget)) == 8
    assert [r.question for r in put(data, name, "forget", seed=8, **chosen)] != of_forget
    few = read_records(write_dataset(tmp_path, values[0], values[2]))
    with pytest.raises(BadInput, match=rf"shows {count} answers .* 0 are held out .*record 1; a larger --skip"):
        put(few, name, "forget", skip=1)
