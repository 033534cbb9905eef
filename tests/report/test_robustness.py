"""The robustness card as data: the conclusions of an audit, worked out by hand from the figures of made_up_runs.py.

Half of the untouched model's ASR of 0.8 is 0.4. test_golden.py compares how the card looks.
"""

import pytest
from helpers import read_beside

from safeeraser.report.read import read_runs
from safeeraser.report.robustness import card_json, comparison, read_cards

from .made_up_runs import audit, metric, write

VIEWS = {"decoupled": "decoupled", "unrelated": "retain", "mine": "forget"}


def read(folder, *audits):
    """Cards, read from the files of audits."""
    for run, value in zip(("po", "popd"), audits, strict=False):
        write(folder / run, "audit.json", value)
    return read_cards(read_runs([folder]))


def without(value, group, subject="audited"):
    """The audit as if a group of a subject's points had not been measured."""
    points = [one for one in value["points"] if (one["group"], one.get("subject", "audited")) != (group, subject)]
    return {**value, "points": points}


def changed(value, group, name="", at=None, subject="audited", **changes):
    """The audit with other values of some metrics, by name, at one of its points."""
    for one in value["points"]:
        if (one["group"], one["name"], one["at"], one.get("subject", "audited")) == (group, name, at, subject):
            for key, of in changes.items():  # a plain number gets an interval of 0.1 to each side
                around = isinstance(of, float) and metric(of, max(0, round(of - 0.1, 6)), round(of + 0.1, 6))
                one["metrics"][key] = around or of
    return value


@pytest.mark.parametrize(
    ("value", "benign", "forget"),
    [
        (audit(), (2, "decoupled", 4), None),
        (without(audit(), "relearn_decoupled"), (None, None, 2), None),
        # With 0.1 for the untouched model's ASR, half is back before relearning.
        (changed(audit(), "clean", "clean", subject="vanilla", asr=0.1), (0, None, 4), 0),
        (changed(audit(), "relearn_mine", at=2, asr=0.41), (2, "decoupled", 4), 2),
        # Without an ASR of the untouched model there is nothing to compare with.
        (without(audit(), "clean", "vanilla"), None, None),
    ],
)
def test_after_how_few_steps_half_is_back(tmp_path, value, benign, forget):
    """The view in the protocol, and not the name, decides whether an attacker counts as benign."""
    value["settings"]["relearning"] = {"attackers": {name: {"view": of} for name, of in VIEWS.items()}}
    (card,) = read(tmp_path, value)
    back = card_json(card)["relearning_to_half"]
    expected = benign and {"steps": benign[0], "data": benign[1], "measured": benign[2], "last": 4}
    assert back["benign"] == expected and (back["forget"] and back["forget"]["steps"]) == forget
    assert card.conclusions.harmful == ["mine"]


@pytest.mark.parametrize(
    ("clean", "blur", "counts", "most"),
    read_beside(__file__, "made_up/worst.yaml")["worst"],
)
def test_an_attack_is_named_only_where_the_audit_says_that_it_brings_more_back(tmp_path, clean, blur, counts, most):
    """The audit compares with the model that never knew, and corrects for the number of attacks."""
    value = changed(audit(), "attack", "blur", recovered=blur)
    for one in value["points"]:
        if (one["group"], one["name"], one.get("subject", "audited")) == ("attack", "blur", "audited"):
            one["recovers"] = counts
        if one["group"] == "clean" and one.get("subject", "audited") == "audited" and clean is None:
            del one["metrics"]["recovered"]
    table = comparison(read(tmp_path, audit(), value))
    line = table.line(next(row for row in table.rows if row.name == "PO+PD"))
    cell = dict(zip(table.columns, line, strict=True))["most"]
    assert " ".join(filter(None, [cell.text, cell.range, *cell.remarks])) == most


def test_conclusions_that_an_audit_wrote_down_are_repeated_and_not_drawn_again(tmp_path):
    (card,) = read(tmp_path, audit())
    concluded = card.conclusions.model_dump() | {"half": 0.3, "headline": "As it says."}
    (card,) = read(tmp_path, audit(concluded=concluded))
    assert (card.conclusions.half, card.conclusions.headline) == (0.3, "As it says.")
