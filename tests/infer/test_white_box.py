"""Attacks on the model itself: its adapter's weights, its states, its embeddings, and pictures by its gradients."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import MODEL, RECORDED, TRAIN, record, refused, run, write_dataset

from safeeraser import model as models
from safeeraser.benchmark.pictures import open_picture
from safeeraser.benchmark.records import read_records
from safeeraser.benchmark.responses import VIEW_OF
from safeeraser.errors import BadInput
from safeeraser.generation import DECODERS
from safeeraser.generation.sampling import Generation
from safeeraser.infer.attacks import ATTACKS, Known, pgd, refusal_direction, soft_prompt
from safeeraser.infer.attacks.attack import shown_picture
from safeeraser.infer.checkpoint import load_merged
from safeeraser.infer.engine import Engine
from safeeraser.infer.likelihood import begun, first_targets, nll
from safeeraser.infer.requests import Selection, build_requests, show

ADAPTER = RECORDED / "inference" / "checkpoint.pt"
SEED = 7
SELECTION = Selection(("forget", "decoupled", "retain"), ("Sex", "Weapon"), skip=1, limit=1)
LEARNED = ("refusal_direction", "soft_prompt", "pgd")
ON_ADAPTER = ("clipped", "pruned")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Fewer steps, and the recorded data, whose paths are relative to their folder."""
    monkeypatch.setattr(soft_prompt, "STEPS", 12)
    monkeypatch.setattr(pgd, "STEPS", 9)
    monkeypatch.setattr(refusal_direction, "TRIED", 3)
    monkeypatch.chdir(RECORDED)


@pytest.fixture
def data():
    return read_records(TRAIN)


@pytest.fixture
def known(data):
    return Known(data, SELECTION.held_out(data), SEED)


def load(name=None):
    change = ATTACKS[name].adapter if name else None
    vlm = load_merged(str(MODEL), ADAPTER, dtype="float32", lora_alpha=256, change=change)
    vlm.model.eval()
    return vlm


def attacked(name, known):
    """What an attack makes of the merged model, and of the requests."""
    return ATTACKS[name].model(load(), known, build_requests(known.data, SELECTION, ATTACKS[name], SEED))


# On the adapter's weights.


@pytest.fixture(scope="module")
def stored():
    return models.read_adapter(ADAPTER)


def factors(parameters):
    return {name: tensor for name, tensor in parameters.items() if ".lora_" in name}


def test_clipped_cuts_one_in_a_hundred_of_each_factor(stored):
    changed = ATTACKS["clipped"].adapter(stored)
    assert changed.keys() == stored.keys() and factors(stored)
    for name, before in factors(stored).items():
        now = changed[name]
        bound = now.abs().max()
        assert now.dtype == before.dtype and torch.equal(now, before.clamp(-bound, bound))
        # It is the 99th percentile: so many are no larger, and not so many are smaller, if some are as large as it.
        assert (before.abs() <= bound).double().mean() >= 0.99 > (before.abs() < bound).double().mean()


def test_pruned_leaves_the_larger_half_of_each_factor(stored):
    changed = ATTACKS["pruned"].adapter(stored)
    for name, before in factors(stored).items():
        now = changed[name]
        kept = now != 0
        assert kept.sum() == before.numel() - before.numel() // 2 and torch.equal(now[kept], before[kept])
        assert before[~kept].abs().max() <= before[kept].abs().min()


@pytest.mark.parametrize("name", ON_ADAPTER)
def test_what_was_trained_whole_and_what_is_given_stay(stored, name):
    before = {key: tensor.clone() for key, tensor in stored.items()}
    changed = ATTACKS[name].adapter(stored)
    assert all(torch.equal(stored[key], tensor) for key, tensor in before.items())
    whole = before.keys() - factors(before).keys()
    assert whole and all(torch.equal(changed[key], before[key]) for key in whole)


def test_the_changed_adapter_is_what_is_merged(stored):
    plain, pruned = (load(name).model.state_dict() for name in (None, "pruned"))
    moved = {key for key in plain if not torch.equal(plain[key], pruned[key])}
    assert moved and all(".language_model.layers." in key for key in moved)
    name = next(iter(sorted(key.removesuffix(".lora_A.weight") for key in stored if key.endswith(".lora_A.weight"))))
    key = name.removeprefix("base_model.model.") + ".weight"
    untouched = models.load_model(str(MODEL), torch.float32).state_dict()[key]
    changed = ATTACKS["pruned"].adapter(stored)
    a, b = (changed[f"{name}.lora_{factor}.weight"].float() for factor in "AB")
    assert torch.allclose(pruned[key], untouched + 256 / len(a) * b @ a, atol=1e-5)


# The refusal direction.


def states(vlm, row):
    """What the language model's layers are given and give, and what their parts write."""
    found, hooks = [], []
    keep = lambda _, given, made: found.append(made[0] if isinstance(made, tuple) else made)  # noqa: E731
    for layer in models.language_layers(vlm.model, vlm.family):
        hooks += [module.register_forward_hook(keep) for module in (layer, layer.self_attn, layer.mlp)]
    with torch.no_grad():
        vlm.model(**vlm.join([row]))
    for hook in hooks:
        hook.remove()
    return found


def test_nothing_is_written_in_the_direction(known):
    vlm, requests = attacked("refusal_direction", known)
    assert requests == build_requests(known.data, SELECTION)
    harmful, harmless = refusal_direction._prompts(load(), known)
    directions = refusal_direction._directions(load(), harmful, harmless)
    layer = refusal_direction._layer(load(), harmful[:3], directions)
    turn = models.Turn(shown_picture(known.data, 0), "Alpha bravo?")
    free, plain = (states(each, each.encode(turn)) for each in (vlm, load()))
    assert len(free) == 3 * 2
    assert max((each @ directions[layer]).abs().max().item() for each in free) < 1e-5
    assert min((each @ directions[layer]).abs().max().item() for each in plain) > 1e-3


def test_the_direction_is_the_difference_of_the_means(known):
    vlm = load()
    harmful, harmless = refusal_direction._prompts(vlm, known)
    assert len(harmful) == len(harmless) == 2 * 4
    questions = {pair.question for each in known.held_out.records for pair in each.unsafe_pairs}
    said = {vlm.preprocessor.tokenizer.decode(row.input_ids, skip_special_tokens=True) for row in harmful}
    assert all(any(question in text for question in questions) for text in said)
    directions = refusal_direction._directions(vlm, harmful, harmless)
    for layer, direction in directions.items():
        means = [
            torch.stack([states(vlm, row)[3 * layer + 2][0, -1] for row in rows]).mean(dim=0)
            for rows in (harmful, harmless)
        ]
        expected = torch.nn.functional.normalize(means[0] - means[1], dim=0)
        assert torch.allclose(direction, expected, atol=1e-4) and direction.norm().item() == pytest.approx(1)


def test_the_layer_is_the_one_that_makes_its_own_replies_least_likely(known):
    vlm = load()
    harmful, harmless = refusal_direction._prompts(vlm, known)
    directions = refusal_direction._directions(vlm, harmful, harmless)
    # Of the two layers, the one that is chosen is told by what it does, not by its place.
    for order in (directions, dict(reversed(directions.items()))):
        chosen = refusal_direction._layer(vlm, harmful[:3], order)
        replies = [begun(vlm, row, refusal_direction.BEGINNING) for row in harmful[:3]]
        losses = {}
        for layer, direction in order.items():
            with torch.no_grad(), refusal_direction._without(vlm, direction):
                losses[layer] = sum(nll(vlm, reply).item() for reply in replies)
        assert chosen == max(losses, key=losses.get) and len(set(losses.values())) == 2
    assert not any(layer._forward_hooks for layer in models.language_layers(vlm.model, vlm.family)), "none is left"


def test_a_reply_begins_as_the_decoder_begins_it(known):
    vlm = load()
    (request, *_) = build_requests(known.data, SELECTION)
    row = begun(vlm, vlm.encode(models.Turn(show(request.picture), request.question)), 4)
    answer = next(Engine(vlm, Generation(greedy=True, max_new_tokens=4), 1).answer([request]))[0][1]
    targets = [label for label in row.labels if label >= 0]
    assert len(targets) == 4 and vlm.preprocessor.tokenizer.decode(targets, skip_special_tokens=True).strip() == answer


def test_held_out_records_without_harmless_questions_are_refused(tmp_path, known):
    lean = {key: value for key, value in record(0).items() if not key.startswith("UnharmPair")}
    held_out = read_records(write_dataset(tmp_path, lean))
    with pytest.raises(BadInput, match=r"record 0, UnharmPair_\*: missing, as in all held-out records"):
        attacked("refusal_direction", replace(known, held_out=held_out))


# The soft prompt.


def held_out_nll(vlm, known, before=""):
    """The mean negative log-likelihood of the held-out harmful answers, `before` standing before the questions."""
    rows = [
        vlm.encode(models.Turn(shown_picture(known.held_out, number), before + pair.question, pair.model_response))
        for number, each in enumerate(known.held_out.records)
        for pair in each.unsafe_pairs
    ]
    with torch.no_grad():
        return sum(nll(vlm, row).item() for row in rows) / len(rows)


def test_the_vectors_make_held_out_answers_likelier(known, monkeypatch):
    monkeypatch.setattr(soft_prompt, "STEPS", 40)
    plain = build_requests(known.data, SELECTION)
    vlm, requests = attacked("soft_prompt", known)
    before = requests[0].question.removesuffix(plain[0].question)
    assert [request.question for request in requests] == [before + request.question for request in plain]
    assert held_out_nll(vlm, known, before) < held_out_nll(load(), known) - 0.05
    ids = vlm.encode(models.Turn(None, before + "Alpha?")).input_ids
    first = len(load().preprocessor.tokenizer)
    assert [token for token in ids if token >= first] == list(range(first, first + soft_prompt.VECTORS))


def test_the_model_is_as_it_was_where_no_vector_stands(known):
    vlm, plain = attacked("soft_prompt", known)[0], load()
    row = plain.encode(models.Turn(shown_picture(known.data, 0), "Alpha bravo?"))
    with torch.no_grad():
        assert torch.equal(vlm.model(**vlm.join([row])).logits, plain.model(**plain.join([row])).logits)
    assert plain.model.state_dict().keys() == vlm.model.state_dict().keys()
    assert vlm.model.get_output_embeddings().weight.shape == plain.model.get_output_embeddings().weight.shape
    assert not any(parameter.requires_grad for parameter in vlm.model.parameters())


def test_what_can_be_said_is_what_could_be_said(known):
    """A token behind the tokenizer's own, should the head have a row for it, is no word."""
    vlm = attacked("soft_prompt", known)[0]
    decoder = DECODERS[vlm.decoder](vlm, Generation(), 1)
    first = len(load().preprocessor.tokenizer)
    words = load().preprocessor.tokenizer("Alpha", add_special_tokens=False)["input_ids"]
    assert decoder.text([*words, first, first + 7]) == decoder.text(words) == "Alpha"


def test_held_out_records_without_answers_are_refused(tmp_path, known):
    silent = record(0)
    for pair in silent["unsafe_pairs"]:
        pair["model_response"] = " "
    held_out = read_records(write_dataset(tmp_path, silent))
    with pytest.raises(BadInput, match="record 0, unsafe_pairs: no vanilla answer, as in all held-out records"):
        attacked("soft_prompt", replace(known, held_out=held_out))


# Pictures by gradients.


def pictures(vlm, picture):
    """What the processor makes of a picture, as whole numbers of 0 to 255 (3, side, side), and as the model has it."""
    pixels = vlm.preprocessor.show(picture).inputs["pixel_values"]
    shape = vlm.preprocessor.processor.image_processor
    mean, deviation = (torch.tensor(each)[:, None, None] for each in (shape.image_mean, shape.image_std))
    return ((pixels * deviation + mean) * 255)[0], pixels


def test_pgd_stays_within_its_bound_and_leads_to_the_answers(known):
    vlm, requests = attacked("pgd", known)
    plain, moved = build_requests(known.data, SELECTION), 0
    assert len({request.picture for request in requests}) == len({request.picture for request in plain}) == 4
    for request, own in zip(requests, plain, strict=True):
        drawn, view = show(request.picture), VIEW_OF[request.place[-1]]
        before, _ = pictures(vlm, open_picture(own.picture))
        now, _ = pictures(vlm, drawn)
        assert drawn.mode == "RGB" and np.asarray(drawn).dtype == np.uint8
        assert (now - torch.tensor(np.asarray(drawn)).permute(2, 0, 1)).abs().max() < 1e-3, "shown as it is"
        assert (now - before).abs().max() <= 8 + 1e-3 and request.question == own.question
        if view == "retain":
            continue
        pair = known.data.records[request.record].unsafe_pairs[request.place[1]]
        answer = pair.model_response if view == "forget" else pair.sd_response
        row, plain_row = (
            first_targets(vlm.encode(models.Turn(each, pair.question, answer)), pgd.TARGETS)
            for each in (drawn, open_picture(own.picture))
        )
        with torch.no_grad():
            moved += nll(vlm, row).item() - nll(vlm, plain_row).item()
    assert moved < 0


def test_a_picture_is_the_same_whatever_else_is_attacked(known):
    """It depends on its record alone."""
    alone = replace(SELECTION, categories=("Weapon",), views=("forget",))
    requests = build_requests(known.data, alone, ATTACKS["pgd"], SEED)
    _, few = ATTACKS["pgd"].model(load(), known, requests)
    _, many = attacked("pgd", known)
    made = {request.key: show(request.picture).tobytes() for request in many}
    assert all(show(request.picture).tobytes() == made[request.key] for request in few)


def test_pgd_wants_an_answer_to_lead_to(tmp_path, known):
    silent = record(0)
    for pair in silent["unsafe_pairs"]:
        pair["model_response"] = ""
    path = write_dataset(tmp_path, silent)
    data = read_records(path)
    for value in data.records:
        value.image_path, value.SDImage_path = (str(tmp_path / name) for name in (value.image_path, value.SDImage_path))
    requests = build_requests(data, Selection(("forget",)))
    with pytest.raises(BadInput, match="record 0, unsafe_pairs: no vanilla answer, which pgd leads the model to"):
        ATTACKS["pgd"].model(load(), replace(known, data=data), requests)


# Whole runs.

GIVEN = ("--model_path", MODEL, "--checkpoint_path", ADAPTER, "--eval_file", TRAIN, "--dtype", "float32")
GIVEN += ("--max_new_tokens", 6, "--skip", 1, "--limit", 1, "--categories", "Sex,Weapon", "--seed", SEED)


def infer(out, *more):
    done = run("ckpt_infer", *GIVEN, "--output_file", out, *more)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text("utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*LEARNED, *ON_ADAPTER])
def test_a_run_that_was_stopped_goes_on_to_the_same_answers(tmp_path, name):
    """What is learned is learned again, of the seed and the records alone, whatever is left to be answered."""
    whole = infer(tmp_path / "whole.json", "--attack", name)
    assert whole != infer(tmp_path / "plain.json") or name == "clipped", "which moves little of so small an adapter"
    settings = json.loads((tmp_path / "whole.run.json").read_text())["settings"]
    assert (settings["attack"], settings["attack_code"]) == (name, ATTACKS[name].code)
    kept = {"key": "9/unsafe_pairs/2/model_response3", "response": whole[9]["unsafe_pairs"][2]["model_response3"]}
    lines = [
        {"settings": settings},
        kept,
        *[{"key": f"11/unsafe_pairs/{n}/sd_response", "response": "."} for n in (0, 3)],
    ]
    partial = tmp_path / "out.json.partial.jsonl"
    partial.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for n in (0, 3):
        whole[11]["unsafe_pairs"][n]["sd_response"] = "."
    assert infer(tmp_path / "out.json", "--attack", name, "--batch_size", 3) == whole


@pytest.mark.slow
def test_a_finished_run_learns_nothing_again(tmp_path, caplog):
    infer(tmp_path / "out.json", "--attack", "refusal_direction")
    caplog.clear()  # of the first one, where an earlier test has set the level
    with caplog.at_level(logging.INFO):
        infer(tmp_path / "out.json", "--attack", "refusal_direction")
    assert "done before" in caplog.text and "prepared in" not in caplog.text


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--attack", "soft_prompt"), "--attack soft_prompt: reads records that are not asked about; --skip N holds"),
        (("--attack", "in_context_1"), "--attack in_context_1: reads records that are not asked about; --skip N holds"),
        (("--attack", "refusal_direction"), "--attack refusal_direction: reads records that are not asked about"),
        (("--attack", "clipped"), "--attack clipped: changes an adapter, and none was given; --checkpoint_path names"),
        *(
            (
                ("--attack", name, "--skip", 1, "--backend", "openai", "--base_url", "http://localhost:1/v1"),
                f"--attack {name}: works on the model itself, which a server does not show; --backend local does",
            )
            for name in ("pruned", "pgd")
        ),
        (
            ("--attack", "pgd", "--only", "image_free"),
            "--attack pgd: changes the picture, so it cannot be put to a view without one",
        ),
    ],
)
def test_bad_input(tmp_path, given, says):
    out = tmp_path / "p.json"
    refused(
        tmp_path, "ckpt_infer", "--model_path", MODEL, "--eval_file", TRAIN, "--output_file", out, *given, says=says
    )
