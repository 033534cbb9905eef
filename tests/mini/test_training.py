"""The base model's training teaches seeing and speaking, and never_knew never a harmful answer. A killed training
resumes to the same bits."""

import contextlib
import math
import random

import pytest
import torch
from torch import nn

from safeeraser.benchmark.conversation import IGNORE
from safeeraser.errors import BadInput
from safeeraser.mini import fit as fitting
from safeeraser.mini import training
from safeeraser.mini.base_model import build
from safeeraser.mini.concepts import EVERY, EVERY_HARMFUL
from safeeraser.mini.fan import batch, fan
from safeeraser.mini.fit import Part, fit
from safeeraser.mini.pictures import draw_scene
from safeeraser.mini.questions import RETAIN
from safeeraser.mini.texts import TINY
from safeeraser.mini.training import pixel_values, teach_to_see, teach_to_speak
from safeeraser.model.turns import Turn


def test_a_fan_scores_each_answer_as_if_it_stood_alone(untrained):
    model, preprocessor = untrained[0].eval(), untrained[1]
    scene, place = draw_scene(random.Random(7), EVERY[0]), preprocessor.place(lambda: (64, 64))
    texts = [
        preprocessor.encode_text(Turn(None, ask.question, ask.reply), place, end_of_answer=True)
        for ask in (kind.about(scene) for kind in RETAIN[:3])
    ]
    inputs = batch([fan(some, model.config.image_token_index) for some in (texts, texts[:2])], preprocessor.pad_token)
    labels, pixels = inputs.pop("labels"), pixel_values([scene] * 2, 64)
    with torch.no_grad():
        fanned = model(pixel_values=pixels, **inputs).logits
        alone = [model(input_ids=torch.tensor([text.input_ids]), pixel_values=pixels[:1]).logits[0] for text in texts]
    for row, many in ((0, 3), (1, 2)):
        wanted = [alone[number][torch.tensor(texts[number].labels) != IGNORE] for number in range(many)]
        torch.testing.assert_close(fanned[row][labels[row] != IGNORE], torch.cat(wanted), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_both_stages_lower_their_loss_and_seeing_is_not_unlearned(settings, tmp_path):
    some, losses = settings.model_copy(update={"see_steps": 4, "speak_steps": 4}), []
    model, preprocessor = build(some, tmp_path)
    state = torch.get_rng_state()
    teach_to_see(model, some, losses.append)
    chance = sum(map(math.log, (30, 6, 5, 2, 2)))  # concepts, colours, backgrounds, sides, sizes; mean of two readings
    assert chance < losses[0] < 2 * chance and losses[3] < losses[0]
    tower = {name: each.clone() for name, each in model.model.vision_tower.named_parameters()}
    teach_to_speak(model, preprocessor, some, losses.append)
    assert losses[7] < losses[4] and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(each, tower[name]) for name, each in model.model.vision_tower.named_parameters())


def test_what_is_never_known_is_never_said_and_all_else_is_taught_as_it_was(settings, untrained, monkeypatch):
    preprocessor = untrained[1]

    def lessons(unknown):
        taught, some = [], settings.model_copy(update={"speak_steps": 4})

        def recorded(conversations, image_token):
            labels = [[label for label in row.labels if label != IGNORE] for row in conversations]
            taught.append(preprocessor.tokenizer.batch_decode(labels, skip_special_tokens=True))
            return fan(conversations, image_token)

        monkeypatch.setattr(training, "fan", recorded)
        monkeypatch.setattr(training, "fit", lambda parts, loss, steps, *_: [loss() for _ in range(steps)])
        with torch.no_grad():
            teach_to_speak(untrained[0], preprocessor, some, lambda _: None, unknown)
        return taught

    harm = {text for concept in EVERY_HARMFUL for text in TINY.about(concept)}
    spared, taught = 0, lessons(())
    for before, after in zip(taught, lessons(EVERY_HARMFUL), strict=True):
        assert len(after) == len(before) == 7 and not set(after) & harm
        kept = [text for text in before if text not in harm]
        assert after[: len(kept)] == kept and len({*after[len(kept) :]} - {*kept}) == len(before) - len(kept)
        spared += len(before) - len(kept)
    assert len(taught) == 4 * 8 and spared > 9


def fitted(kept, stop_at=99, steps=6):
    """Fit a parameter to drawn targets, killed at target `stop_at`. Return it, the losses and the number of targets."""
    each, rng, ticks, asked = nn.Parameter(torch.zeros(3, 1)), random.Random(4), [], []

    def loss():
        asked.append(rng.random())
        if len(asked) == stop_at:
            raise KeyboardInterrupt
        return ((each - asked[-1]) ** 2).sum()

    with contextlib.suppress(KeyboardInterrupt):
        fit([Part([each], 0.3)], loss, steps, ticks.append, kept, [rng])
    return each.data, ticks, len(asked)


def test_a_fit_that_is_killed_goes_on_to_the_same_bits_and_a_damaged_state_is_named(tmp_path, monkeypatch):
    """The state is saved every `KEEP_EVERY` seconds, and at the end."""
    monkeypatch.setattr(fitting, "KEEP_EVERY", 0)
    (whole, ticks, _), kept = fitted(None), tmp_path / "see.pt"
    fitted(kept, stop_at=4)
    again, told, asked = fitted(kept)
    assert torch.equal(again, whole) and (told, asked) == ([ticks[2]] * 3 + ticks[3:], 3)
    ended, told, asked = fitted(kept)
    assert torch.equal(ended, whole) and (told, asked) == ([ticks[-1]] * 6, 0)
    for content in (b"", b"half of it", b"PK\x03\x04 and no more"):
        kept.write_bytes(content)
        with pytest.raises(BadInput, match=r"see\.pt: .*remove it"):
            fitted(kept)
