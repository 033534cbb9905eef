"""The robustness card as data: what it derives from an audit, worked out by hand from the figures of made_up_runs.py.

Of the untouched model's ASR of 0.8 half is 0.4. What the card looks like is compared whole in test_golden.py.
"""

import pytest

from safeeraser.report.robustness import tables
from safeeraser.report.robustness.card import read_cards
from safeeraser.report.robustness.findings import findings
from safeeraser.report.runs import read_runs

from .made_up_runs import audit, metric, write


def read(folder, *audits):
    """Cards, read from the files of audits."""
    for run, value in zip(("po", "popd"), audits, strict=False):
        write(folder / run, "audit.json", value)
    return read_cards(read_runs([folder]))


def without(value, *groups):
    """The audit as if these groups had not been measured."""
    return {**value, "points": [point for point in value["points"] if point["group"] not in groups]}


def changed(value, group, name="", at=None, **changes):
    """The audit with something else in one of its points, its ASR or another metric by name."""
    for one in value["points"]:
        if (one["group"], one["name"], one["at"], one.get("subject", "audited")) == (group, name, at, "audited"):
            for key, of in changes.items():  # the interval of a mere number is 0.1 wide to each side
                around = isinstance(of, float) and metric(of, max(0, round(of - 0.1, 6)), round(of + 0.1, 6))
                one["metrics"][key] = around or of
    return value


@pytest.mark.parametrize(
    ("value", "benign", "forget"),
    [
        (without(audit(), "relearn_decoupled"), (None, None, 2), 2),
        # Already before relearning: the untouched model's ASR is 0.1 then.
        (changed(audit(), "scaling", at=0, asr=0.1), (0, None, 4), 0),
        (changed(audit(), "relearn_retain", at=2, asr=0.41), (2, "retain", 4), 2),
        # Without an ASR of the untouched model there is nothing to compare with.
        (without(audit(), "scaling"), None, None),
    ],
)
def test_after_how_few_steps_half_is_back(tmp_path, value, benign, forget):
    told = read(tmp_path, value)[0].as_json()["relearning_to_half"]
    expected = benign and {"steps": benign[0], "data": benign[1], "measured": benign[2], "last": 4}
    assert told["benign"] == expected and (told["forget"] and told["forget"]["steps"]) == forget


@pytest.mark.parametrize(("view", "benign", "forget"), [("retain", (2, "mine"), 2), ("forget", (4, "decoupled"), 2)])
def test_attackers_of_ones_own_count_as_what_the_protocol_says_they_train_on(tmp_path, view, benign, forget):
    value = changed(audit(), "relearn_retain", at=2, asr=0.95)
    for one in value["points"]:
        one["group"] = one["group"].replace("_retain", "_mine")
    views = {"decoupled": "decoupled", "forget": "forget", "mine": view}
    value["settings"]["relearning"] = {"attackers": {name: {"view": of} for name, of in views.items()}}
    (card,) = read(tmp_path, value)
    told = card.as_json()["relearning_to_half"]
    assert (told["benign"]["steps"], told["benign"]["data"], told["forget"]["steps"]) == (*benign, forget)
    assert "2 steps on mine data" in [one.name for one in card.highest_by_condition]


@pytest.mark.parametrize(
    ("clean", "blur", "figstep", "most"),
    [
        # The highest is the clean one itself, or within chance of it: no attack is named for it.
        (0.05, 0.049, 0.01, "5.0 0.0–15.0 without an attack"),
        (0.1, 0.29, 0.05, "10.0 0.0–20.0 without an attack"),
        # Its whole interval lies above: 30–50 against 0–20.
        (0.1, 0.35, 0.4, "40.0 30.0–50.0 figstep"),
        (metric(0.05), metric(0.06), metric(0.02), "6.0 blur"),  # without intervals a point is enough
        (None, 0.2, 0.1, "20.0 10.0–30.0 blur"),  # nothing to compare with
        (0.1, None, None, "–"),
    ],
)
def test_an_attack_is_named_only_where_it_brings_more_back(tmp_path, clean, blur, figstep, most):
    value = audit()
    for group, name, found in (("clean", "clean", clean), ("attack", "blur", blur), ("attack", "figstep", figstep)):
        value = value if found is None else changed(value, group, name, recovered=found)
    cards = read(tmp_path, audit(), value)
    table = tables.comparison(cards)
    line = table.line(next(row for row in table.rows if row.name == "PO+PD"))
    cell = dict(zip(table.columns, line, strict=True))["most"]
    assert " ".join(filter(None, [cell.text, cell.range, *cell.remarks])) == most
    said = next(one.said for one in findings(cards[1]) if one.question == "Attacks")
    assert ("Under none of the 2 attacks" in said) is most.endswith("without an attack")


def test_whether_an_attack_brings_answers_back_is_as_the_audit_says(tmp_path):
    """Which holds what came back against who never knew, and corrects for how many attacks were tried."""
    value = audit("controlled")
    assert read(tmp_path, value)[0].most_recovered.name == "blur", "the highest of those that the audit says it of"
    for one in value["points"]:
        one["recovers"] = False if "recovers" in one else None
    assert read(tmp_path, value)[0].most_recovered.group == "clean"
