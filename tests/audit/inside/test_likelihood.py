"""Likelihoods and ranks against those of a plain forward pass."""

from dataclasses import replace

import pytest
import torch

from safeeraser.audit.inside.likelihood import likelihood
from safeeraser.benchmark.pictures import open_picture
from safeeraser.model import Turn

from .knowing import knowing, some_pairs, untouched


@torch.no_grad()
def plainly(vlm, pair, answer):
    """Of each token of an answer its NLL and its rank, by a forward pass over pixels and ids, no batch."""
    row = vlm.encode(Turn(open_picture(pair.picture), pair.question, answer))
    start = row.labels.count(-100)
    log_p = vlm.model(**vlm.join([row])).logits[0].log_softmax(-1)[start - 1 : -1]
    said = [shares[token].item() for shares, token in zip(log_p, row.input_ids[start:], strict=True)]
    ranks = [int((shares > own).sum()) + 1 for shares, own in zip(log_p, said, strict=True)]
    return [-each for each in said], ranks


def mean(values):
    return sum(values) / len(values)


def test_they_are_those_of_a_plain_pass():
    vlm, pairs = untouched(), some_pairs()[:3]
    found = likelihood(vlm, pairs, 4)
    for pair in pairs:
        (true, ranks), (other, _) = plainly(vlm, pair, pair.true), plainly(vlm, pair, pair.other)
        for name, count in (("", None), ("_10", 10)):
            told = {key: found[key + name][pair.key] for key in ("nll_true", "nll_other", "gap", "rank")}
            wanted = mean(true[:count]), mean(other[:count])
            assert told["nll_true"] == pytest.approx(wanted[0], abs=1e-5)
            assert told["nll_other"] == pytest.approx(wanted[1], abs=1e-5)
            assert told["gap"] == pytest.approx(wanted[1] - wanted[0], abs=1e-5)
            logs = torch.tensor(ranks[:count], dtype=torch.double).log10()
            assert told["rank"] == pytest.approx(logs.mean().item(), abs=1e-5)


def test_only_the_tokens_of_the_content_count():
    vlm, (pair, *_) = untouched(), some_pairs()
    said = pair.true.split(" ")
    before, behind = len(" ".join(said[:4])) + 1, len(said[-1]) + 1
    (found,) = likelihood(vlm, [replace(pair, frame=(before, behind))], 1)["nll_true"].values()
    tokenizer = vlm.preprocessor.tokenizer
    nlls, _ = plainly(vlm, pair, pair.true)
    # Each word of the recorded answers begins a token of its own.
    first, last = (
        len(tokenizer(" ".join(part), add_special_tokens=False)["input_ids"]) for part in (said[:4], said[:-1])
    )
    assert 0 < first < last < len(nlls)
    assert found == pytest.approx(mean(nlls[first:last]), abs=1e-5)


def test_batches_do_not_matter():
    one, eight = (likelihood(untouched(), some_pairs(), size) for size in (1, 8))
    for name, values in one.items():
        assert eight[name] == pytest.approx(values, abs=1e-5), name


def test_what_was_learnt_is_likelier_than_other_answers():
    known, before = likelihood(knowing(), some_pairs(), 8), likelihood(untouched(), some_pairs(), 8)
    assert max(known["nll_true"].values()) < 0.1 and max(known["rank"].values()) < 0.05
    assert min(known["gap"].values()) > 1 > max(map(abs, before["gap"].values()))
