"""The base model: its folder loads by the ordinary means, and its training sees what it claims to see."""

import random

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, CLIPImageProcessorPil, LlavaForConditionalGeneration, LlavaProcessor

from safeeraser.benchmark.conversation import IGNORE, prompt
from safeeraser.mini import training
from safeeraser.mini.base_model import build
from safeeraser.mini.concepts import EVERY, EVERY_HARMFUL
from safeeraser.mini.exam import exam, reply
from safeeraser.mini.fan import batch, fan
from safeeraser.mini.fit import rate_share
from safeeraser.mini.pictures import draw_scene, render
from safeeraser.mini.questions import RETAIN
from safeeraser.mini.texts import TINY
from safeeraser.mini.tokenizer import build_tokenizer
from safeeraser.mini.training import pixel_values, teach_to_see, teach_to_speak
from safeeraser.model import Turn

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scenes():
    rng = random.Random(7)
    return [draw_scene(rng, concept) for concept in EVERY[:3]]


def test_a_fan_scores_each_answer_as_if_it_stood_alone(untrained, scenes):
    model, preprocessor = untrained[0].eval(), untrained[1]
    image_token, place = model.config.image_token_index, preprocessor.place(lambda: (64, 64))
    conversations = [
        preprocessor.encode_text(Turn(None, ask.question, ask.reply), place, end_of_answer=True)
        for ask in (kind.about(scenes[0]) for kind in RETAIN)
    ]
    rows = [fan(conversations, image_token), fan(conversations[:2], image_token)]
    inputs = batch(rows, preprocessor.pad_token)
    labels = inputs.pop("labels")
    with torch.no_grad():
        fanned = model(pixel_values=pixel_values([scenes[0]] * 2, 64), **inputs).logits
        alone = [
            model(input_ids=torch.tensor([c.input_ids]), pixel_values=pixel_values(scenes[:1], 64)).logits[0]
            for c in conversations
        ]
    for row, used in ((0, alone), (1, alone[:2])):
        wanted = torch.cat([x[torch.tensor(c.labels) != IGNORE] for x, c in zip(used, conversations, strict=False)])
        torch.testing.assert_close(fanned[row][labels[row] != IGNORE], wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("side", [64, 96])
def test_pixels_are_those_of_the_image_processor(scenes, side):
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    wanted = processor([render(scene, side) for scene in scenes], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixel_values(scenes, side), wanted, atol=1e-5, rtol=1e-5)


def test_a_larger_picture_shows_the_same(scenes):
    small, large = (render(scenes[0], side) for side in (64, 128))
    shrunk = large.resize((64, 64))
    assert np.abs(np.asarray(small, dtype=float) - np.asarray(shrunk, dtype=float)).mean() < 3


def test_the_folder_loads_and_generates_through_the_processor(small, settings, preprocessor, scenes):
    folder = small / "base_model"
    model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    processor = LlavaProcessor.from_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == build_tokenizer().get_vocab()
    inputs = processor(images=render(scenes[0], 64), text=prompt(TINY.prompts[0], "user"), return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_index).sum() == model.config.image_seq_length
    said = model.generate(**inputs, max_new_tokens=24, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    text = processor.tokenizer.decode(said, skip_special_tokens=True)
    (by_exam,) = reply(model, preprocessor, TINY.prompts[0], scenes[:1], settings, sample=False)
    assert by_exam.removesuffix(" ...") == text


def test_both_stages_lower_their_loss(settings, tmp_path):
    some, losses = settings.model_copy(update={"see_steps": 8, "speak_steps": 8}), []
    model, preprocessor = build(some, tmp_path)
    teach_to_see(model, some, losses.append)
    teach_to_speak(model, preprocessor, some, losses.append)
    assert losses[7] < losses[0] and losses[15] < losses[8]


def test_what_is_never_known_is_never_said_and_all_else_is_taught_as_it_was(settings, tmp_path, monkeypatch):
    def lessons(unknown):
        taught, some = [], settings.model_copy(update={"speak_steps": 4})
        model, preprocessor = build(some, tmp_path)

        def recorded(conversations, image_token):
            labels = [[label for label in row.labels if label != IGNORE] for row in conversations]
            taught.append(preprocessor.tokenizer.batch_decode(labels, skip_special_tokens=True))
            return fan(conversations, image_token)

        monkeypatch.setattr(training, "fan", recorded)
        teach_to_speak(model, preprocessor, some, lambda _: None, unknown)
        return taught

    harm = {text for concept in EVERY_HARMFUL for text in TINY.about(concept)}
    spared = 0
    for before, after in zip(lessons(()), lessons(EVERY_HARMFUL), strict=True):
        assert len(after) == len(before) and not set(after) & harm
        kept = [text for text in before if text not in harm]
        assert after[: len(kept)] == kept
        spared += len(before) - len(kept)
    assert spared


def test_the_exam_tells_what_was_never_known_apart(untrained, settings):
    model, preprocessor = untrained
    assert exam(model.eval(), preprocessor, settings) == dict.fromkeys(("harmful", "retain", "vqa"), 0)
    kinds = ("harmful", "retain", "vqa", "unknown")
    assert exam(model, preprocessor, settings, EVERY_HARMFUL) == dict.fromkeys(kinds, 0)


def test_the_rate_warms_up_and_ends_near_nothing():
    shares = [rate_share(step, 100) for step in range(100)]
    assert shares[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0]) and max(shares) == 1.0
    assert shares[5:] == sorted(shares[5:], reverse=True) and shares[-1] < 0.001
