"""Attacks on the model itself, each with its effect computed by hand: weights, states, embeddings, pixels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import CHECKPOINT, MODEL, RECORDED, TRAIN
from torch.nn.functional import normalize

from safeeraser.benchmark.pictures import open_picture
from safeeraser.benchmark.records import read_records
from safeeraser.infer.attacks import ATTACKS, Known, gradients, shown_picture
from safeeraser.infer.checkpoint import first_targets, nll
from safeeraser.infer.requests import Selection, build_requests, show
from safeeraser.model.merge import load_merged
from safeeraser.model.states import language_layers
from safeeraser.model.turns import Turn

SELECTION = Selection(("forget", "decoupled", "retain"), ("Sex", "Weapon"), skip=1, limit=1)


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Take fewer steps, in the folder that the paths in the recorded data are relative to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradients, "PROMPT_STEPS", 25)
        patch.setattr(gradients, "PICTURE_STEPS", 9)
        patch.chdir(RECORDED)
        yield


def load():
    vlm = load_merged(str(MODEL), CHECKPOINT, dtype="float32", lora_alpha=256)
    vlm.model.eval()
    return vlm


@pytest.fixture(scope="module")
def plain():
    return load()


@pytest.fixture(scope="module")
def known(quick):
    data = read_records(TRAIN)
    return Known(data, SELECTION, 7)


def attacked(name, known, selection=SELECTION):
    return ATTACKS[name].model(load(), known, build_requests(known.data, selection, ATTACKS[name], known.seed))


def shown(vlm, data, number, question, *answer):
    """A question about a record's harmful picture, as the model reads it."""
    return vlm.encode(Turn(shown_picture(data, number), question, *answer))


@pytest.mark.parametrize("name", ["clipped", "pruned"])
def test_loras_factors_alone_are_clipped_or_pruned(name):
    values = torch.arange(1.0, 201) * torch.tensor([1.0, -1.0]).repeat(100)
    shuffled = values[torch.randperm(200, generator=torch.Generator().manual_seed(1))]
    keys = [f"layers.0.q_proj.lora_{factor}.weight" for factor in "AB"]
    given = {keys[0]: shuffled.reshape(8, 25), keys[1]: shuffled.reshape(25, 8).half(), "projector.weight": shuffled}
    before = {key: tensor.clone() for key, tensor in given.items()}
    changed = ATTACKS[name].adapter(given)
    for key, tensor in before.items():
        kept = tensor.clamp(-198, 198) if name == "clipped" else tensor * (tensor.abs() > 100)
        assert torch.equal(given[key], tensor) and changed[key].dtype == tensor.dtype
        assert torch.equal(changed[key], kept if key in keys else tensor), key


def written(vlm, row):
    """The outputs for a row, layer by layer: of the attention, of the MLP, and of the layer itself."""
    kept = []

    def after(_, given, made):
        kept.append(made[0] if isinstance(made, tuple) else made)

    layers = language_layers(vlm.model, vlm.family)
    parts = [part for layer in layers for part in (layer.self_attn, layer.mlp, layer)]
    hooks = [part.register_forward_hook(after) for part in parts]
    with torch.no_grad():
        vlm.model(**vlm.join([row]))
    for hook in hooks:
        hook.remove()
    return kept


def test_nothing_is_written_in_the_direction_that_harmful_prompts_differ_in(plain, known):
    """The attack takes the second layer's direction: removing it makes the model's own replies least likely."""
    rows = {True: [], False: []}
    for number, each in enumerate(known.held_out.records):
        for harmful, questions in (
            (True, [pair.question for pair in each.unsafe_pairs]),
            (False, [text.Question for text in each.unharm.values()]),
        ):
            rows[harmful] += [shown(plain, known.held_out, number, question) for question in questions]
    assert len(rows[True]) == len(rows[False]) == 8
    means = {
        kind: [torch.stack([written(plain, row)[at][0, -1] for row in of]).mean(0) for at in (2, 5)]
        for kind, of in rows.items()
    }
    directions = [normalize(one - two, dim=0) for one, two in zip(means[True], means[False], strict=True)]
    vlm, requests = attacked("refusal_direction", known)
    assert requests == build_requests(known.data, SELECTION)
    free, before = (written(each, shown(each, known.data, 0, "Alpha bravo?")) for each in (vlm, plain))
    left = [max((each @ direction).abs().max().item() for each in free) for direction in directions]
    assert len(free) == 6 and left[1] < 1e-4 < 1e-3 < left[0]
    assert min((each @ directions[1]).abs().max().item() for each in before) > 1e-3


@pytest.mark.slow
def test_a_soft_prompt_makes_held_out_answers_likelier_and_changes_nothing_else(plain, known):
    asked = build_requests(known.data, SELECTION)
    vlm, requests = attacked("soft_prompt", known)
    before = requests[0].question.removesuffix(asked[0].question)
    assert [request.question for request in requests] == [before + request.question for request in asked]
    losses = []
    for each, words in ((plain, ""), (vlm, before)):
        rows = [
            shown(each, known.held_out, number, words + pair.question, pair.model_response)
            for number, value in enumerate(known.held_out.records)
            for pair in value.unsafe_pairs
        ]
        with torch.no_grad():
            losses.append(sum(nll(each, row).item() for row in rows) / len(rows))
    assert losses[1] < losses[0] - 0.05
    first = len(plain.preprocessor.tokenizer)
    ids = vlm.encode(Turn(None, before + "Alpha?")).input_ids
    assert [token for token in ids if token >= first] == list(range(first, first + 8)), "eight vectors"
    row = shown(plain, known.data, 0, "Alpha bravo?")
    with torch.no_grad():
        assert torch.equal(vlm.model(**vlm.join([row])).logits, plain.model(**plain.join([row])).logits)


@pytest.mark.slow
def test_pgd_stays_within_its_bound_and_leads_to_the_records_answers(plain, known):
    one = replace(SELECTION, categories=("Weapon",))
    assert ATTACKS["pgd"].lacks(plain.preprocessor) == ""
    requests, asked = attacked("pgd", known, one)[1], build_requests(known.data, one)
    assert [request.question for request in requests] == [request.question for request in asked]
    shape, changes, moved = plain.preprocessor.processor.image_processor, [], {}
    mean, deviation = (np.array(each)[:, None, None] for each in (shape.image_mean, shape.image_std))

    def levels(picture):
        """The processor's output for a picture, converted back to the scale of 0 to 255."""
        return (plain.preprocessor.show(picture).inputs["pixel_values"][0].numpy() * deviation + mean) * 255

    for request, own in zip(requests, asked, strict=True):
        drawn, before = show(request.picture), open_picture(own.picture)
        assert np.abs(levels(drawn) - np.asarray(drawn).transpose(2, 0, 1)).max() < 1e-3, "shown as it is"
        changes.append(np.abs(levels(drawn) - levels(before)).max())
        if request.place[-1] in ("model_response1", "sd_response"):
            pair = known.data.records[request.record].unsafe_pairs[request.place[1]]
            answers = [pair.model_response, pair.sd_response]
            for answer in answers if request.place[-1] == "model_response1" else answers[::-1]:
                turns = (Turn(each, pair.question, answer) for each in (drawn, before))
                with torch.no_grad():
                    after, then = (nll(plain, first_targets(plain.encode(turn), 10)).item() for turn in turns)
                moved.setdefault(request.file, []).append(after - then)
    assert max(changes) == pytest.approx(8, abs=1e-3), "of 255"
    wanted, others = zip(*((sum(of[::2]), sum(of[1::2])) for of in moved.values()), strict=True)
    assert (
        len(wanted) == 2 and max(wanted) < 0 and all(one < other for one, other in zip(wanted, others, strict=True))
    ), "to those of its own picture"
