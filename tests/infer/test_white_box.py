"""Attacks on the model itself, each with its effect computed by hand: weights, states, embeddings, pixels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import MODEL, RECORDED, TRAIN, record, write_dataset
from torch.nn.functional import normalize

from safeeraser import model as models
from safeeraser.benchmark.pictures import open_picture
from safeeraser.benchmark.records import read_records
from safeeraser.errors import BadInput
from safeeraser.generation import DECODERS
from safeeraser.generation.sampling import Generation
from safeeraser.infer.attacks import ATTACKS, Known, pgd, soft_prompt
from safeeraser.infer.attacks.attack import shown_picture
from safeeraser.infer.checkpoint import load_merged
from safeeraser.infer.engine import Engine
from safeeraser.infer.likelihood import begun, first_targets, nll
from safeeraser.infer.requests import Selection, build_requests, show

SELECTION = Selection(("forget", "decoupled", "retain"), ("Sex", "Weapon"), skip=1, limit=1)


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Fewer steps, and the recorded data, whose paths are relative to their folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(soft_prompt, "STEPS", 25)
        patch.setattr(pgd, "STEPS", 9)
        patch.chdir(RECORDED)
        yield


def load(change=None):
    adapter = RECORDED / "inference" / "checkpoint.pt"
    vlm = load_merged(str(MODEL), adapter, dtype="float32", lora_alpha=256, change=change)
    vlm.model.eval()
    return vlm


@pytest.fixture(scope="module")
def plain():
    return load()


@pytest.fixture(scope="module")
def known(quick):
    data = read_records(TRAIN)
    return Known(data, SELECTION.held_out(data), 7)


def attacked(name, known, selection=SELECTION):
    """What an attack makes of the merged model, and of the requests."""
    return ATTACKS[name].model(load(), known, build_requests(known.data, selection, ATTACKS[name], known.seed))


def silent(folder, known, **fields):
    """What is known where the records held out have these fields instead, or lack them."""
    value = {key: of for key, of in record(0).items() if fields or not key.startswith("UnharmPair")}
    for pair in value["unsafe_pairs"]:
        pair |= fields
    data = read_records(write_dataset(folder, value))
    for each in data.records:
        each.image_path = str(folder / each.image_path)
    return replace(known, data=data, held_out=data), build_requests(data, Selection(("forget",)))


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("clipped", lambda values: values.clamp(-198, 198)),  # 198 of 200 are no larger
        ("pruned", lambda values: values * (values.abs() > 100)),
    ],
)
def test_loras_factors_alone_are_clipped_or_pruned(name, kept):
    values = torch.arange(1.0, 201) * torch.tensor([1.0, -1.0]).repeat(100)
    shuffled = values[torch.randperm(200, generator=torch.Generator().manual_seed(1))]
    keys = [f"layers.0.q_proj.lora_{factor}.weight" for factor in "AB"]
    given = {keys[0]: shuffled.reshape(8, 25), keys[1]: shuffled.reshape(25, 8).half(), "projector.weight": shuffled}
    before = {key: tensor.clone() for key, tensor in given.items()}
    changed = ATTACKS[name].adapter(given)
    for key, tensor in before.items():
        assert torch.equal(given[key], tensor) and changed[key].dtype == tensor.dtype
        assert torch.equal(changed[key], kept(tensor) if key in keys else tensor), key


def test_the_changed_adapter_is_what_is_merged(plain):
    """W + 256 / r * B A, by hand."""
    stored = models.read_adapter(RECORDED / "inference" / "checkpoint.pt")
    name = min(key.removesuffix(".lora_A.weight") for key in stored if key.endswith(".lora_A.weight"))
    key = name.removeprefix("base_model.model.") + ".weight"
    a, b = (ATTACKS["pruned"].adapter(stored)[f"{name}.lora_{factor}.weight"].float() for factor in "AB")
    untouched = models.load_model(str(MODEL), torch.float32).state_dict()[key]
    merged = load(ATTACKS["pruned"].adapter).model.state_dict()
    assert torch.allclose(merged[key], untouched + 256 / len(a) * b @ a, atol=1e-5)
    assert not torch.equal(merged[key], plain.model.state_dict()[key])


# The likelihood of answers, by which the others go.


def test_likelihood_is_the_mean_over_the_targets_alone(plain, known):
    pair = known.data.records[0].unsafe_pairs[0]
    row = plain.encode(models.Turn(shown_picture(known.data, 0), pair.question, pair.model_response))
    targets = [place for place, label in enumerate(row.labels) if label >= 0]
    with torch.no_grad():
        logits = plain.model(**plain.join([row])).logits[0].float()
        by_hand = [-logits[at - 1].log_softmax(-1)[row.labels[at]].item() for at in targets]
        assert nll(plain, row).item() == pytest.approx(np.mean(by_hand), rel=1e-4)
        assert nll(plain, first_targets(row, 2)).item() == pytest.approx(np.mean(by_hand[:2]), rel=1e-4)


def test_a_reply_begins_as_the_decoder_begins_it(plain, known):
    (request, *_) = build_requests(known.data, SELECTION)
    row = begun(plain, plain.encode(models.Turn(show(request.picture), request.question)), 4)
    answer = next(Engine(plain, Generation(greedy=True, max_new_tokens=4), 1).answer([request]))[0][1]
    targets = [label for label in row.labels if label >= 0]
    assert (
        len(targets) == 4 and plain.preprocessor.tokenizer.decode(targets, skip_special_tokens=True).strip() == answer
    )


# The refusal direction.


def written(vlm, row, without=None):
    """What each layer and its two parts write for a row, and the loss; `without`: a direction that is taken out."""
    kept, hooks = [], []
    free = lambda x: x if without is None else x - (x @ without)[..., None] * without  # noqa: E731

    def after(_, given, made):
        kept.append(free(made[0] if isinstance(made, tuple) else made))
        return (kept[-1], *made[1:]) if isinstance(made, tuple) else kept[-1]

    for layer in models.language_layers(vlm.model, vlm.family):
        hooks += [layer.register_forward_pre_hook(lambda _, given: (free(given[0]), *given[1:]))]
        hooks += [module.register_forward_hook(after) for module in (layer.self_attn, layer.mlp, layer)]
    with torch.no_grad():
        loss = nll(vlm, row).item() if any(label >= 0 for label in row.labels) else vlm.model(**vlm.join([row]))
    for hook in hooks:
        hook.remove()
    return kept, loss


def test_nothing_is_written_in_the_direction_that_harmful_prompts_differ_in(plain, known):
    """Of the two layers' directions the one without which the model's own replies are least likely."""
    rows = {True: [], False: []}
    for number, each in enumerate(known.held_out.records):
        questions = [(True, p.question) for p in each.unsafe_pairs]
        questions += [(False, p.Question) for p in each.unharm.values()]
        for harmful, question in questions:
            rows[harmful].append(plain.encode(models.Turn(shown_picture(known.held_out, number), question)))
    assert len(rows[True]) == len(rows[False]) == 8
    means = {
        kind: [torch.stack([written(plain, row)[0][at][0, -1] for row in of]).mean(0) for at in (2, 5)]
        for kind, of in rows.items()
    }
    directions = [normalize(one - two, dim=0) for one, two in zip(means[True], means[False], strict=True)]
    replies = [begun(plain, row, 4) for row in rows[True]]
    losses = [sum(written(plain, reply, direction)[1] for reply in replies) for direction in directions]
    direction = directions[int(np.argmax(losses))]
    vlm, requests = attacked("refusal_direction", known)
    assert requests == build_requests(known.data, SELECTION)
    turn = models.Turn(shown_picture(known.data, 0), "Alpha bravo?")
    free, before = (written(each, each.encode(turn))[0] for each in (vlm, plain))
    assert len(free) == 6 and max((each @ direction).abs().max().item() for each in free) < 1e-4
    assert min((each @ direction).abs().max().item() for each in before) > 1e-3


# The soft prompt.


def test_a_soft_prompt_makes_held_out_answers_likelier_and_changes_nothing_else(plain, known):
    asked = build_requests(known.data, SELECTION)
    vlm, requests = attacked("soft_prompt", known)
    before = requests[0].question.removesuffix(asked[0].question)
    assert [request.question for request in requests] == [before + request.question for request in asked]
    losses = []
    for each, words in ((plain, ""), (vlm, before)):
        rows = [
            each.encode(models.Turn(shown_picture(known.held_out, number), words + pair.question, pair.model_response))
            for number, value in enumerate(known.held_out.records)
            for pair in value.unsafe_pairs
        ]
        with torch.no_grad():
            losses.append(sum(nll(each, row).item() for row in rows) / len(rows))
    assert losses[1] < losses[0] - 0.05
    first = len(plain.preprocessor.tokenizer)
    ids = vlm.encode(models.Turn(None, before + "Alpha?")).input_ids
    assert [token for token in ids if token >= first] == list(range(first, first + 8)), "eight vectors"
    row = plain.encode(models.Turn(shown_picture(known.data, 0), "Alpha bravo?"))
    with torch.no_grad():
        assert torch.equal(vlm.model(**vlm.join([row])).logits, plain.model(**plain.join([row])).logits)
    assert not any(parameter.requires_grad for parameter in vlm.model.parameters())
    decoder = DECODERS[vlm.decoder](vlm, Generation(), 1)
    spoken = plain.preprocessor.tokenizer("Alpha", add_special_tokens=False)["input_ids"]
    assert decoder.text([*spoken, first, first + 7]) == decoder.text(spoken) == "Alpha", "a vector is no word"


# Pictures by gradients.


def test_pgd_stays_within_its_bound_and_leads_to_the_records_answers(plain, known):
    one = replace(SELECTION, categories=("Weapon",))
    requests, asked = attacked("pgd", known, one)[1], build_requests(known.data, one)
    assert [request.question for request in requests] == [request.question for request in asked]
    assert len({request.picture for request in requests}) == len({request.picture for request in asked}) == 2
    shape, changes, moved = plain.preprocessor.processor.image_processor, [], {}
    mean, deviation = (np.array(each)[:, None, None] for each in (shape.image_mean, shape.image_std))

    def levels(picture):
        """What the processor makes of a picture, as whole numbers of 0 to 255."""
        return (plain.preprocessor.show(picture).inputs["pixel_values"][0].numpy() * deviation + mean) * 255

    for request, own in zip(requests, asked, strict=True):
        drawn, before = show(request.picture), open_picture(own.picture)
        assert np.abs(levels(drawn) - np.asarray(drawn).transpose(2, 0, 1)).max() < 1e-3, "shown as it is"
        changes.append(np.abs(levels(drawn) - levels(before)).max())
        if request.place[-1] in ("model_response1", "sd_response"):
            pair = known.data.records[request.record].unsafe_pairs[request.place[1]]
            answer = pair.sd_response if request.place[-1] == "sd_response" else pair.model_response
            turns = (models.Turn(each, pair.question, answer) for each in (drawn, before))
            with torch.no_grad():
                after, then = (nll(plain, first_targets(plain.encode(turn), 10)).item() for turn in turns)
            moved[request.file] = moved.get(request.file, 0) + after - then
    assert max(changes) == pytest.approx(8, abs=1e-3), "of 255"
    assert len(moved) == 2 and all(change < 0 for change in moved.values())
    alone = attacked("pgd", known, replace(one, views=("decoupled",)))[1]
    made = {request.key: show(request.picture).tobytes() for request in requests}
    assert all(show(request.picture).tobytes() == made[request.key] for request in alone), "of its record alone"


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [
        ("refusal_direction", {}, r"record 0, UnharmPair_\*: missing, as in all held-out records"),
        ("soft_prompt", {"model_response": " "}, "record 0, unsafe_pairs: no vanilla answer, as in all held-out"),
        ("pgd", {"model_response": ""}, "record 0, unsafe_pairs: no vanilla answer, which pgd leads"),
    ],
)
def test_records_without_what_an_attack_reads_are_refused(tmp_path, plain, known, name, fields, says):
    lacking, requests = silent(tmp_path, known, **fields)
    with pytest.raises(BadInput, match=says):
        ATTACKS[name].model(plain, lacking, requests)
