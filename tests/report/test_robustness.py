"""The robustness card as data: what it derives from an audit, worked out by hand from figures made up for it.

The audits in made_up_audits.py have an untouched ASR of 0.8, so that half of it is 0.4. What the card looks like is
compared whole in test_golden.py.
"""

import pytest

from safeeraser.report.page import report
from safeeraser.report.robustness import tables
from safeeraser.report.robustness.card import different_settings, read_cards, settings_line
from safeeraser.report.robustness.findings import findings, headline
from safeeraser.report.robustness.plots import curves
from safeeraser.report.runs import read_runs

from .made_up_audits import audit, controlled, point, spread, without
from .made_up_runs import metric, write
from .page_text import Page


@pytest.fixture
def read(tmp_path):
    """Cards, read from the files of audits."""

    def read(*audits):
        for run, value in zip(("po", "popd"), audits, strict=False):
            write(tmp_path / run, "audit.json", value)
        cards = read_cards(read_runs([tmp_path]))
        return cards if len(audits) > 1 else cards[0]

    return read


def said(card):
    return {one.question: one.said for one in findings(card)}


def cells(table, name):
    """A row of a table by column: figures with their intervals, and what stands beside them."""
    row = next(row for row in table.rows if row.name == name)
    shown = zip(table.columns, table.line(row), strict=True)
    return {key: " ".join(filter(None, [cell.text, cell.range, *cell.remarks])) for key, cell in shown}


def changed(value, group, name="", at=None, subject="audited", **changes):
    """The audit with something else in one of its points, its ASR or another metric by name."""
    for one in value["points"]:
        place = (one["group"], one["name"], one["at"], one.get("subject", "audited"))
        if place == (group, name, at, subject):
            one["metrics"] |= {key: spread(of) for key, of in changes.items()}
    return value


@pytest.mark.parametrize(
    ("value", "benign", "forget"),
    [
        (without(audit(), "relearn_decoupled"), {"steps": None, "data": None, "measured": 2, "last": 4}, 2),
        # Already before relearning: the untouched model's ASR is 0.1 then.
        (changed(audit(), "scaling", at=0, asr=0.1), {"steps": 0, "data": None, "measured": 4, "last": 4}, 0),
        (
            changed(audit(), "relearn_retain", at=2, asr=0.41),
            {"steps": 2, "data": "retain", "measured": 4, "last": 4},
            2,
        ),
        # Without an ASR of the untouched model there is nothing to compare with.
        (without(audit(), "scaling"), None, None),
        (without(audit(), "relearn_retain", "relearn_decoupled"), None, 2),
    ],
)
def test_after_how_few_steps_half_is_back(read, value, benign, forget):
    told = read(value).as_json()["relearning_to_half"]
    assert told["benign"] == benign and (told["forget"] and told["forget"]["steps"]) == forget


@pytest.mark.parametrize(
    ("clean", "blur", "figstep", "most"),
    [
        # The highest is the clean one itself, or within chance of it: no attack is named for it.
        (0.05, 0.049, 0.01, "5.0 0.0–15.0 without an attack"),
        (0.1, 0.29, 0.05, "10.0 0.0–20.0 without an attack"),
        # Its whole interval lies above: 30–50 against 0–20.
        (0.1, 0.35, 0.4, "40.0 30.0–50.0 figstep"),
        # Without intervals a point is enough, and less is not.
        (metric(0.05), metric(0.06), metric(0.02), "6.0 blur"),
        (metric(0.05), metric(0.059), metric(0.02), "5.0 without an attack"),
        # Nothing to compare with.
        (None, 0.2, 0.1, "20.0 10.0–30.0 blur"),
        (0.1, None, None, "–"),
    ],
)
def test_an_attack_is_named_only_where_it_brings_more_back(read, clean, blur, figstep, most):
    value = audit()
    for group, name, found in (("clean", "clean", clean), ("attack", "blur", blur), ("attack", "figstep", figstep)):
        value = value if found is None else changed(value, group, name, recovered=found)
    cards = read(audit(), value)
    assert cells(tables.comparison(cards), "PO+PD")["most"] == most
    card = cards[1]
    none = most.endswith("without an attack")
    assert ("Under none of the 2 attacks" in said(card)["Attacks"]) is none
    assert ("recovered under" in said(card)["Attacks"]) is (most != "–" and not none)


def test_whether_an_attack_brings_answers_back_is_as_the_audit_says(read):
    """Which holds what came back against who never knew, and corrects for how many attacks were tried."""
    value = controlled()
    assert read(value).most_recovered.name == "blur", "the highest of those that the audit says it of"
    for one in value["points"]:
        one["recovers"] = False if "recovers" in one else None
    assert read(value).most_recovered.group == "clean"
    next(one for one in value["points"] if one["name"] == "figstep" and one["subject"] == "audited")["recovers"] = True
    assert read(value).most_recovered.name == "figstep"


def test_audits_of_other_settings_do_not_compare(read):
    other = audit(model_path="b")
    other["settings"] |= {"judge": "gpt-4o", "val_file": "a/b.json", "judges": {"asr": {"name": "replay"}}}
    cards = read(audit(), other)
    assert different_settings(cards) == ["model_path", "judge", "judges"]  # where a file lies makes no difference
    assert different_settings(read(audit(), audit())) == []
    assert different_settings(read(audit(), controlled())) == ["never_knew"]
    assert settings_line(cards[1]) == (
        "limit 5, skip 1, seed 233, judge gpt-4o, protocol official, steps 0 2 4, val_file b.json, "
        "judges (asr (name replay)), checkpoint_sha256 0123456789ab"
    )


def test_what_was_not_measured_is_said_to_be_so(read):
    card = read({"points": []})
    told = said(card)
    assert told.pop("As trained").count("not measured") == 4 and set(told.values()) == {"Not measured."}
    assert headline(card) == "" and tables.conditions(card) == [] and curves(card) == [] and settings_line(card) == ""
    assert tables.refusals(card) is None and tables.curve_tables(card) == []
    told = card.as_json()
    assert told["asr"] is told["worst_attack"] is told["relearning_to_half"]["forget"] is None


def test_an_audit_that_was_begun_has_what_there_is(read):
    card = read(without(controlled(), "inside", "attack", "sampling", "scaling"))
    assert [one.key for one in tables.conditions(card)] == ["controls", "way", "relearning", "quantization"]
    assert [plot.name for plot in curves(card)] == ["relearning_po"]
    card = read(
        without(audit(), *(one["group"] for one in audit()["points"] if one["group"] not in ("clean", "scaling")))
    )
    assert headline(card) == "ASR is 10.0% (0.0–20.0) as trained; the untouched model's is 80.0% (70.0–90.0)."
    assert [one.name for one in card.highest_by_condition] == ["as trained"]


def test_the_way_may_end_at_answers_paired_at_random(read):
    (way,) = (one for one in tables.conditions(read(controlled(shares_to="floor"))) if one.key == "way")
    assert way.title == "The way from vanilla to answers paired at random" and "never_knew" not in way.caption


def test_records_that_were_not_asked_are_no_lack_and_gaps_stay_gaps(read):
    value = changed(audit(), "clean", "clean", asr={**metric(0.1, 0.0, 0.2), "skipped": 72})
    value["points"].append(point("scaling", "", 1.5, asr=metric(None, withheld="3% failed"), sarr=spread(0.4)))
    card = read(value)
    assert card.clean.figure("asr").remarks == [] and card.clean.figures["asr"].skipped == 72
    scaling = curves(card)[1]
    asr = next(line for line in scaling.figure.axes[0].lines if line.get_label() == "ASR")
    assert asr.get_xdata().tolist() == [0, 0.5, 1, 1.5] and asr.get_ydata()[3] != asr.get_ydata()[3]  # no point
    assert "ASR at scale 0: 80.0, 0.5: 50.0, 1: 10.0, 1.5: withheld" in scaling.description


def test_of_many_cards_only_the_sentences_lead(tmp_path):
    """An audit's own lines stand before the fold of all that was measured, unless there are more than three cards."""
    alone = controlled(points=controlled()["points"][:5])
    for count, leads in ((1, True), (4, False)):
        for run in ("popd", "po", "ga", "gd")[:count]:
            write(tmp_path / run, "audit.json", alone)
        report(tmp_path)
        page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
        fold = next(n for n, line in enumerate(page.lines) if line.startswith("All that was measured"))
        assert (page.lines.index("What broke?") < fold) is leads and page.lines.count("What broke?") == count
        assert len(page.ids) == len(set(page.ids))
