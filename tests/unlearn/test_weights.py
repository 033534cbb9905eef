"""Weights that follow their terms' losses: each step by hand, in a run and its log, and what a checkpoint keeps."""

import math

import pytest
from helpers import read_lines, write_json

from safeeraser.errors import BadInput
from safeeraser.unlearn.methods import Method
from safeeraser.unlearn.plot import training_panels
from safeeraser.unlearn.weights import DUALS, Weights

from .built import built


def weights(**duals):
    terms = {"forget": {"loss": "flat", "views": ["forget"], "weight": -1.0}}
    terms |= {name: {"loss": "nll", "views": ["retain"], "weight": weight} for name, weight in duals.items()}
    return Weights(Method.model_validate({"name": "mine", "terms": terms}))


def followed(weighs, *losses):
    """The weight of `retain` after steps with these losses of it."""
    found = []
    for loss in losses:
        weighs.follow({"loss": 99.0, "forget": 99.0, "retain": loss})
        found.append(weighs["retain"])
    return found


@pytest.mark.parametrize(
    ("dual", "losses", "expected"),
    [
        # 1 + 2 (1 - 0.5); 2 + 2 (0.25 - 0.5); 1.5 + 2 (0.75 - 0.5).
        ({"at_most": 0.5, "rate": 2.0}, [1.0, 0.25, 0.75], [2.0, 1.5, 2.0]),
        # It never falls below 0, stands still at the bound, and owes nothing of what it would have fallen.
        ({"at_most": 0.5, "rate": 2.0, "start": 0.25}, [0.25, 0.25, 0.5, 0.75], [0.0, 0.0, 0.0, 0.5]),
        *(({"at_most": 0.5, "start": 3.0}, [loss, 1.5], [3.0, 4.0]) for loss in (math.nan, math.inf, -math.inf)),
    ],
)
def test_a_weight_moves_by_how_far_its_loss_lies_above_the_bound(dual, losses, expected):
    weighs = weights(retain=dual)
    assert weighs["retain"] == dual.get("start", 1.0) and weighs.of_step == {}
    assert followed(weighs, *losses) == expected
    assert weighs.of_step == {"retain": expected[-2]}  # with which the last step was taken


def test_each_dual_weight_follows_its_own_term_and_is_kept_to_the_bit(tmp_path):
    duals = {"a": {"at_most": 1, "start": 0}, "b": {"at_most": -1, "rate": 0.3, "start": 1 / 3}, "c": 2.0}
    weighs = weights(**duals)
    weighs.follow({"loss": 9.0, "forget": 9.0, "a": 2.0, "b": 2.0, "c": 9.0})
    assert [weighs[name] for name in ("forget", "a", "b", "c")] == [-1.0, 1.0, 1 / 3 + 0.3 * 3, 2.0]
    weighs.save(tmp_path)
    again = weights(**duals)
    again.resume(tmp_path)
    assert [again[name] for name in "abc"] == [weighs[name] for name in "abc"]
    for wrong in ({}, {"a": "1", "b": 2.0}):
        write_json(tmp_path / DUALS, wrong)
        with pytest.raises(BadInput, match=r"duals\.json: no weight of the term a"):
            again.resume(tmp_path)
    weights(c=2.0).resume(tmp_path / "none")  # of numbers nothing is kept


def test_a_run_weighs_its_terms_so_logs_it_and_draws_it(tmp_path):
    """On the tiny model an answer's loss is near 7: one weight grows, the other falls to 0."""
    bounds = {"forget_loss.terms.retain.weight": {"at_most": 6, "rate": 0.5, "start": 2}}
    bounds |= {"pd": {"at_most": 10, "rate": 0.25}}
    built(tmp_path, "pdu", bounds, steps=4).train()
    rows, retain, decoupled = read_lines(tmp_path / "train_log.jsonl"), 2.0, 1.0
    for row in rows:
        assert row["weights"] == {"retain": retain, "decoupled": decoupled}
        terms = row["terms"]
        total = terms["forget"] + retain * terms["retain"] + decoupled * terms["decoupled"]
        assert row["loss"] == pytest.approx(total, rel=1e-6)
        retain = max(0.0, retain + 0.5 * (terms["retain"] - 6))
        decoupled = max(0.0, decoupled + 0.25 * (terms["decoupled"] - 10))
    assert len(rows) == 4 and rows[-1]["weights"]["retain"] > 2 and rows[-1]["weights"]["decoupled"] == 0
    panels = {title: curves[""] for title, _, curves in training_panels(tmp_path / "train_log.jsonl")}
    assert panels["weight of retain"] == [row["weights"]["retain"] for row in rows]
    assert "weight of decoupled" in panels and "weight of forget" not in panels
