"""Attacks on the model itself, on each family: they do what they say, and answers follow them in any batch."""

import pytest
import torch
from helpers import RECORDED, TRAIN

from safeeraser import model as models
from safeeraser.benchmark.records import read_records
from safeeraser.generation import DECODERS, Asked
from safeeraser.generation.sampling import Generation
from safeeraser.infer.attacks import ATTACKS, Known, pgd, refusal_direction, soft_prompt
from safeeraser.infer.attacks.attack import shown_picture
from safeeraser.infer.likelihood import nll
from safeeraser.infer.requests import Selection, build_requests, show, size_of

SQUARE = {"gemma3"}  # the families of which every picture is one square


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(soft_prompt, "STEPS", 10)
    monkeypatch.setattr(pgd, "STEPS", 2)
    monkeypatch.setattr(refusal_direction, "PROMPTS", 3)
    monkeypatch.setattr(refusal_direction, "TRIED", 1)
    monkeypatch.chdir(RECORDED)


@pytest.fixture
def known():
    data = read_records(TRAIN)
    return Known(data, Selection(categories=("Sex",), skip=1).held_out(data), 7)


def attacked(family, name, known):
    selection = Selection(("forget", "decoupled"), ("Sex", "Weapon"), skip=1, limit=1)
    requests = build_requests(known.data, selection, ATTACKS[name], known.seed)
    return ATTACKS[name].model(models.VLM(family.load(), family.preprocessor), known, requests)


def answered(vlm, requests):
    """The responses, which are the same by either path and in any batch."""
    asked = [Asked(each.picture, each.question, each.key) for each in requests[::3]]
    found = []
    for kind, size in ((vlm.decoder, 1), (vlm.decoder, 5), ("batched", 7)):
        decoder = DECODERS[kind](vlm, Generation(max_new_tokens=5), size, show=show, size=size_of)
        found.append(dict(each for ended in decoder.answer(asked) for each in ended))
    assert found[0] == found[1] == found[2] and None not in found[0].values()
    return found[0]


def test_no_layer_writes_in_the_refusal_direction(family, known):
    vlm, requests = attacked(family, "refusal_direction", known)
    layers = models.language_layers(vlm.model, vlm.family)
    kept = []
    for layer in layers:
        layer.register_forward_hook(lambda _, given, made: kept.append(made))
    with torch.no_grad():
        turn = models.Turn(shown_picture(known.data, 0), "Alpha bravo?")
        vlm.model(**vlm.join([vlm.encode(turn)]))
    assert len(kept) == len(layers)
    plain = models.VLM(family.model, family.preprocessor)
    directions = refusal_direction._directions(plain, *refusal_direction._prompts(plain, known))
    left = {
        layer: max((each @ direction).abs().max().item() for each in kept) for layer, direction in directions.items()
    }
    assert min(left.values()) < 1e-5
    answered(vlm, requests)


def test_a_soft_prompt_makes_answers_likelier(family, known):
    vlm, requests = attacked(family, "soft_prompt", known)
    plain = models.VLM(family.model, family.preprocessor)
    pairs = known.held_out.records[0].unsafe_pairs
    before = requests[0].question[: requests[0].question.rindex("|> ") + 3]
    picture, losses = shown_picture(known.held_out, 0), {}
    with torch.no_grad():
        for name, each, words in (("with", vlm, before), ("without", plain, "")):
            turns = [models.Turn(picture, words + pair.question, pair.model_response) for pair in pairs]
            losses[name] = sum(nll(each, each.encode(turn)).item() for turn in turns)
        row = plain.encode(models.Turn(picture, "Alpha bravo?"))
        assert torch.equal(vlm.model(**vlm.join([row])).logits, plain.model(**plain.join([row])).logits)
    assert losses["with"] < losses["without"]
    assert len(plain.preprocessor.tokenizer) < len(vlm.preprocessor.tokenizer)
    answered(vlm, requests)


def test_pgd_is_for_squares(family, known):
    told = ATTACKS["pgd"].lacks(family.preprocessor)
    assert (told == "") == (family.name in SQUARE)
    if told:
        assert told.startswith(f"model family {family.preprocessor.family.name} cuts pictures into tiles")
        return
    vlm, requests = attacked(family, "pgd", known)
    for request in requests[::12]:
        before = vlm.preprocessor.show(show(request.file)).inputs["pixel_values"]
        now = vlm.preprocessor.show(show(request.picture)).inputs["pixel_values"]
        steps = (now - before).abs() * torch.tensor(vlm.preprocessor.processor.image_processor.image_std)[:, None, None]
        assert 0 < steps.max() * 255 < 2 + 1e-3
    answered(vlm, requests)
