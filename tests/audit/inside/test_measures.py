"""The measures of hidden knowledge, compared with a plain forward pass, and on a model that knows the answers.

The tiny model has two layers of width 64. `knowing` is the same model, trained until it has memorised four answers.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import MODEL, TRAIN
from torch.nn.functional import cross_entropy, rms_norm

from safeeraser.audit.inside.measures import depth, extraction, falls, held_out, likelihood, probe, score, separate
from safeeraser.audit.inside.pairs import batches, read_pairs
from safeeraser.benchmark.pictures import open_picture
from safeeraser.benchmark.records import read_records
from safeeraser.errors import BadInput
from safeeraser.model.turns import Turn
from safeeraser.model.vlm import VLM

PAIRS = read_pairs(read_records(TRAIN), range(1))  # four pairs, of full answers


def load():
    return VLM.load(str(MODEL), torch.float32)


untouched = pytest.fixture(load, scope="module", name="untouched")


@pytest.fixture(scope="module")
def knowing():
    """The tiny model after its language model was trained to say the pairs' true answers."""
    vlm = load()
    (batch,) = batches(vlm, [(pair, pair.true) for pair in PAIRS], len(PAIRS))
    weights = [*vlm.model.get_decoder().requires_grad_(True).parameters()]
    optimizer = torch.optim.Adam(weights, lr=4e-3)
    for _ in range(40):
        cross_entropy(vlm.logits(batch.inputs, batch.places(back=1)), batch.targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    vlm.model.requires_grad_(False)
    return vlm


@torch.no_grad()
def plainly(vlm, pair, answer):
    """NLL and log10 rank of an answer's tokens, and the probe's features of the first layer, by an unbatched pass."""
    row = vlm.encode(Turn(open_picture(pair.picture), pair.question, answer))
    start = row.labels.count(-100)
    out = vlm.model(**vlm.join([row]), output_hidden_states=True)
    log_p, targets = out.logits[0].log_softmax(-1)[start - 1 : -1], torch.tensor(row.input_ids[start:])
    said = log_p.gather(1, targets[:, None])
    embedded = vlm.model.get_output_embeddings().weight[targets]
    features = rms_norm(out.hidden_states[1][0, start - 1 : -1], embedded.shape[1:]) * embedded
    return -said[:, 0].double(), ((log_p > said).sum(1) + 1).double().log10(), features.mean(0)


def test_likelihood_and_probe_read_what_a_plain_pass_gives(untouched):
    found, states = likelihood(untouched, PAIRS, 3), probe(untouched, PAIRS, 3)
    assert states.shape == (4, 2, 2 * 64) and states.dtype == np.float32
    for n, pair in enumerate(PAIRS):
        (true, ranks, features), (other, *_) = (plainly(untouched, pair, text) for text in (pair.true, pair.other))
        assert states[n, 0, :64] == pytest.approx(features.numpy(), abs=1e-5)
        for name, count in (("", None), ("_10", 10)):
            wanted = {"nll_true": true[:count].mean(), "nll_other": other[:count].mean(), "rank": ranks[:count].mean()}
            wanted["gap"] = wanted["nll_other"] - wanted["nll_true"]
            for key, value in wanted.items():
                assert found[key + name][pair.key] == pytest.approx(value.item(), abs=1e-5), key + name


def test_what_is_longer_than_the_context_is_named(untouched, monkeypatch):
    monkeypatch.setattr(untouched.preprocessor, "context", 20)
    with pytest.raises(BadInput, match=rf"{PAIRS[0].key}: question and answer take \d+ tokens, .* holds 20"):
        likelihood(untouched, PAIRS[:1], 1)


def test_who_knows_goes_on_with_an_answer_and_finds_it_likelier(untouched, knowing):
    pair, said = PAIRS[0], PAIRS[0].true.split(" ")
    known = extraction(knowing, PAIRS, 8)
    assert set(known["exact_0"].values()) == set(known["recall_3"].values()) == {1.0}
    # The content also counts within other words. After the answer's first ten words, no content is left to compare.
    framed = replace(pair, true=f"So they say: {' '.join(said[4:7])} (or not).", frame=(13, 10))
    wrong = replace(framed, key="w", true=framed.true.replace(said[5], "quite"))
    found = extraction(knowing, [framed, wrong], 3)
    assert found["exact_0"] == {pair.key: 1, "w": 0} and found["exact_10"][pair.key] is None
    known, before = likelihood(knowing, PAIRS, 8), likelihood(untouched, PAIRS, 8)
    assert max(known["nll_true"].values()) < 0.1 and max(known["rank"].values()) < 0.05
    assert min(known["gap"].values()) > 1 > max(map(abs, before["gap"].values()))


@torch.no_grad()
def test_depth_is_a_fall_with_anothers_states_in_the_vanilla_models_place(untouched, knowing):
    """Each layer is compared with a full pass in which its output is replaced. A model's own states change nothing."""
    pair, (batch,) = PAIRS[0], batches(knowing, [(PAIRS[0], PAIRS[0].true)], 1)
    states = depth(untouched, PAIRS, 3)
    found = falls(knowing, PAIRS, states, 3)
    known = likelihood(knowing, [pair], 1)["nll_true"][pair.key]
    for number, layer in enumerate(knowing.model.get_decoder().layers):

        def replaced(_, __, output, number=number):
            return output.flatten(0, 1).index_copy(0, batch.places(back=1), states[pair.key][number])[None]

        hook = layer.register_forward_hook(replaced)
        patched = cross_entropy(knowing.logits(batch.inputs, batch.places(back=1)), batch.targets).item()
        hook.remove()
        assert found[f"depth_{number}"][pair.key] == pytest.approx(patched - known, abs=1e-5)
    assert found["depth"][pair.key] == pytest.approx((found["depth_0"][pair.key] + found["depth_1"][pair.key]) / 2)
    own = falls(knowing, PAIRS, depth(knowing, PAIRS, 3), 4)
    assert max(abs(value) for values in own.values() for value in values.values()) < 1e-5


def test_the_score_weighs_layers_by_what_the_ignorant_model_lacks():
    ignorant = {"depth": {"a": 0, "b": 0}, "depth_0": {"a": 3.0, "b": 0.01}, "depth_1": {"a": 1.0, "b": 0.05}}
    ignorant["depth_2"] = {"a": 0.04, "b": -1.0}
    own = {"depth_0": {"a": 1.5, "b": 5.0}, "depth_1": {"a": 7.0, "b": 5.0}, "depth_2": {"a": 9.0, "b": 5.0}}
    # The first layer loses 1.5 of 3 nats, the second all of 1. The third is taken not to carry the answer.
    assert score(own, ignorant) == {"a": (1.5 + 1) / 4, "b": None}


def test_a_probe_finds_what_is_marked_and_nothing_else():
    random, keywords = np.random.default_rng(0), [f"k{n}" for n in range(12)]
    sources = [tuple(map(str, random.choice(keywords, 2, replace=False))) for _ in range(240)]
    states = random.normal(size=(240, 2, 12))
    marked = states + np.array([6, -6])[:, None] * np.eye(12)[0]
    assert np.mean(held_out(sources, states, states)) == pytest.approx(0.5, abs=0.1)
    assert set(held_out(sources, marked, marked)) == {1.0} and set(held_out(sources, marked, marked[:, ::-1])) == {0.0}
    # Features that show only an answer's keyword do not help: the probe never trains on a tested keyword's answers.
    whose = states + 6 * np.array([[np.eye(12)[keywords.index(keyword)] for keyword in both] for both in sources])
    assert np.mean(held_out(sources, whose, whose)) == pytest.approx(0.5, abs=0.1)
    broken = marked.copy()
    broken[3, 1, 0] = np.inf
    values = held_out(sources, marked, broken)
    assert values[3] is None and None not in values[:3] + values[4:]
    # The expected weights are from another library's logistic regression at its optimum. The last feature is constant.
    true, other = [[1, 5, 0.1], [2, 3, 0.1], [4, 4, 0.1]], [[0, 1, 0.1], [3, 2, 0.1], [1, 6, 0.1]]
    assert separate(np.array(true), np.array(other)) == pytest.approx([0.34383, 0.21073, 0], abs=2e-5)
