"""The robustness card: what the report says of an audit, checked by hand."""

import csv
import json
import re

import pytest

from safeeraser.errors import BadInput
from safeeraser.report.page import report
from safeeraser.report.robustness.card import read_cards
from safeeraser.report.robustness.findings import findings, headline
from safeeraser.report.robustness.plots import curves
from safeeraser.report.runs import read_runs

from .made_up_audits import audit, point, spread, without
from .made_up_runs import full_results, metric, write
from .test_page import Page

pytestmark = pytest.mark.slow


@pytest.fixture
def results(tmp_path):
    return full_results(tmp_path)


def _card(results, value):
    write(results / "popd", "audit.json", value)
    return read_cards(read_runs([results]))[0]


def _rows(results):
    return Page((results / "report.html").read_text()).rows


def _said(card):
    return [(one.question, one.said) for one in findings(card)]


def _figures(rows):
    """The rows without their intervals."""
    return [[cell for cell in row if "interval" not in cell and "–" not in cell[1:]] for row in rows]


def test_findings_are_the_audits_figures(results):
    assert dict(_said(_card(results, audit()))) == {
        "As trained": "ASR 10.0% (0.0–20.0), RR 90.0% (80.0–100.0), ROUGE-L 75.0% (65.0–85.0), SARR 30.0% (20.0–40.0). "
        "The untouched model: ASR 80.0% (70.0–90.0).",
        "Attacks": "Worst of 2: figstep, ASR 40.0% (30.0–50.0); the untouched model's ASR under it: 60.0% (50.0–70.0). "
        "Under 1 of 2 the whole interval of ASR lies above the clean one's.",
        "Rounded weights": "ASR: int8 10.0% (0.0–20.0), int4 15.0% (5.0–25.0), nf4 12.0% (2.0–22.0).",
        "Adapter scaled": "ASR passes half of the untouched model's (40.0%) at 0, 0.5; measured at 0, 0.5, 1.",
        "Relearned on benign data": "ASR passes half of the untouched model's (40.0%) after 4 steps on decoupled data; "
        "4 points measured up to step 4, the highest ASR 45.0% (35.0–55.0).",
        "Relearned on forget data": "ASR passes half of the untouched model's (40.0%) after 2 steps; "
        "2 points measured up to step 4, the highest ASR 70.0% (60.0–80.0).",
        "Refusal, harmful question": "90.0% (80.0–100.0) with the harmful picture; 90.0% (80.0–100.0) with a benign "
        "one, 0.0 points more; 60.0% (50.0–70.0) with none, 30.0 points less.",
        "Refusal, harmless question": "20.0% (10.0–30.0) with the harmful picture; 0.0% (0.0–10.0) with a benign one, "
        "20.0 points less; not measured with none.",
    }


def test_what_was_not_measured_is_said_to_be_so(results):
    told = dict(_said(_card(results, {"points": []})))
    assert told.pop("As trained").count("not measured") == 4
    assert set(told.values()) == {"Not measured."}
    report(results)
    assert "Settings: unknown." in (results / "report.html").read_text()


def test_relearning_that_does_not_bring_it_back(results):
    card = _card(results, without(audit(), "relearn_decoupled"))
    assert dict(_said(card))["Relearned on benign data"] == (
        "ASR passes half of the untouched model's (40.0%) at none of the 2 points measured up to step 4, "
        "the highest ASR 10.0% (0.0–20.0)."
    )
    points = [point("scaling", "", 0, asr=0.1), *without(audit(), "scaling")["points"]]
    card = _card(results, audit(points=points))
    assert "(5.0%) already before relearning; 4 points" in dict(_said(card))["Relearned on benign data"]
    assert card.as_json()["relearning_to_half"]["benign"] == {"steps": 0, "data": None, "measured": 4, "last": 4}
    card = _card(results, without(audit(), "scaling"))
    assert "no ASR of the untouched model to compare with" in dict(_said(card))["Relearned on forget data"]
    assert card.as_json()["relearning_to_half"] == {"benign": None, "forget": None}


def test_the_page_has_tables_of_attacks_rounded_weights_and_refusals(results):
    write(results / "popd", "audit.json", audit())
    report(results)
    text, rows = (results / "report.html").read_text(), _rows(results)
    shown = _figures(rows)
    assert ["attack", "ASR ↓", "RR ↑", "SARR ↓", "ASR", "vanilla"] in rows
    start = shown.index(["none", "10.0", "90.0", "30.0", "80.0"])
    assert shown[start + 1] == ["figstep", "40.0", "50.0", "–", "60.0"]
    assert shown[start + 2][:5] == ["blur", "20.0", "80.0", "25.0", "70.0"]
    assert ["as trained", "10.0", "90.0", "30.0"] in shown and ["int4", "15.0", "90.0", "–"] in shown
    start = rows.index(["picture", "harmful question", "harmless question"])
    assert rows[start + 1 : start + 3] == [
        ["harmful", "90.0", "95% interval", "80.0–100.0", "20.0", "95% interval", "10.0–30.0"],
        ["benign", "90.0", "95% interval", "80.0–100.0", "0.0", "95% interval", "0.0–10.0"],
    ]
    assert rows[start + 3][:5] == ["none", "60.0", "95% interval", "50.0–70.0", "–"]
    assert "attack typography: 3 responses are missing" in text
    assert (
        "limit 5, skip 1, seed 233, judge rules, protocol official, steps 0 2 4, checkpoint_sha256 0123456789ab."
        in text
    )
    assert "Side by side" not in text and text.count('<dl class="findings">') == 1


def test_curves_stand_at_the_points_and_leave_gaps(results):
    value = audit()
    value["points"].append(point("scaling", "", 1.5, asr=metric(None, withheld="3% failed"), sarr=spread(0.4)))
    relearning, scaling = curves(_card(results, value))
    asr, rouge, sarr, _ = scaling.figure.axes[0].lines
    assert asr.get_xdata().tolist() == [0, 0.5, 1, 1.5] and asr.get_ydata()[:3].tolist() == [80, 50, 10]
    assert asr.get_ydata()[3] != asr.get_ydata()[3]  # not a number: no point is drawn
    assert sarr.get_ydata().tolist() == [30, 30, 30, 40] and rouge.get_ydata()[:3].tolist() == [75] * 3
    assert "ASR at scale 0: 80.0, 0.5: 50.0, 1: 10.0, 1.5: withheld" in scaling.description
    panels = {axes.get_title(loc="left"): axes for axes in relearning.figure.axes}
    assert {name: axes.lines[0].get_ydata().tolist() for name, axes in panels.items()} == {
        "retain": [10, 10, 10],
        "decoupled": [10, 40, 45],
        "forget": [10, 60, 70],
    }
    for axes in panels.values():
        assert axes.lines[0].get_xdata().tolist() == [0, 2, 4] and axes.get_xscale() == "symlog"
        assert axes.lines[1].get_ydata() == [40, 40] and len(axes.collections) == 1  # half of ASR, and the band
    assert "audited on decoupled data, step 0: 10.0, 2: 40.0, 4: 45.0" in relearning.description
    assert "seed" not in relearning.caption


def test_recovered_answers_are_shown_where_they_were_measured_and_records_not_asked_are_no_lack(results):
    value = audit()
    assert "recovered" not in str(_said(_card(results, value)))
    for one in value["points"]:
        one["metrics"] |= {"recovered": spread(0.15), "asr": {**one["metrics"]["asr"], "skipped": 72}}
    card = _card(results, value)
    told = dict(_said(card))
    assert "30.0% (20.0–40.0), 15.0% (5.0–25.0) of the vanilla answers recovered. The untouched" in told["As trained"]
    assert "ASR 40.0% (30.0–50.0), 15.0% (5.0–25.0) of the vanilla answers recovered; " in told["Attacks"]
    assert "Recovered at scale 0: 15.0, 0.5: 15.0, 1: 15.0" in curves(card)[1].description
    report(results)
    text = (results / "report.html").read_text()
    assert "Recovered ↓" in text and "Recovered<small>vanilla</small>" in text and "72 skipped" not in text


@pytest.mark.parametrize(
    ("clean", "blur", "figstep", "says", "cell"),
    [
        # The highest is the clean one itself, or within chance of it: no attack is named for it.
        (0.05, 0.049, 0.01, "Under none of the 2 attacks was clearly more of the vanilla answers recovered than "
         "without one: 5.0% (0.0–15.0).", ["5.0", "without an attack"]),
        (0.1, 0.29, 0.05, "than without one: 10.0% (0.0–20.0).", ["10.0", "without an attack"]),
        # Its whole interval lies above: 30–50 against 0–20.
        (0.1, 0.35, 0.4, "Most of the vanilla answers was recovered under figstep: 40.0% (30.0–50.0); without an "
         "attack 10.0% (0.0–20.0).", ["40.0", "figstep"]),
        # Without intervals a point is enough, and less is not.
        (metric(0.05), metric(0.06), metric(0.02), "recovered under blur: 6.0%; without an attack 5.0%.",
         ["6.0", "blur"]),
        (metric(0.05), metric(0.059), metric(0.02), "than without one: 5.0%.", ["5.0", "without an attack"]),
        # Nothing to compare with.
        (None, 0.2, 0.1, "recovered under blur: 20.0% (10.0–30.0); without an attack not measured.", ["20.0", "blur"]),
    ],
)  # fmt: skip
def test_an_attack_is_named_only_where_it_brings_more_back(results, clean, blur, figstep, says, cell):
    value = audit()
    for one in value["points"]:
        found = {"clean": {"clean": clean}, "attack": {"blur": blur, "figstep": figstep}}.get(one["group"], {})
        if found.get(one["name"]) is not None:
            one["metrics"]["recovered"] = spread(found[one["name"]])
    assert dict(_said(_card(results, value)))["Attacks"].endswith(says)
    write(results / "po", "audit.json", audit())
    report(results)
    row = next(row for row in _figures(_rows(results)) if row[0] == "PO+PD" and row[3] == "figstep")
    assert row[4:6] == cell


def test_blank_responses_have_a_column(results):
    value = audit()
    for one, share in ((value["points"][0], 0.02), (value["points"][1], 0.5)):
        one["blank"] = {"forget": spread(share), "retain": spread(0.01)}
    write(results / "popd", "audit.json", value)
    write(results / "po", "audit.json", audit())
    report(results)
    rows = _figures(_rows(results))
    assert ["attack", "ASR ↓", "RR ↑", "SARR ↓", "Blank", "ASR", "vanilla"] in rows
    assert ["blur", "20.0", "80.0", "25.0", "50.0", "70.0"] in [row[:6] for row in rows]
    assert ["figstep", "40.0", "50.0", "–", "–", "60.0"] in [row[:6] for row in rows]
    compared = next(row for row in rows if row[0] == "method" and "Benign steps to half ↑" in row)
    assert compared[-1] == "Blank" and [row[10] for row in rows if row[3:4] == ["figstep"]] == ["–", "2.0"]
    assert ["weights", "ASR ↓", "RR ↑", "SARR ↓"] in rows  # no point of this table tells
    told = (results / "robustness.md").read_text()
    assert "| blur | 20.0 [10.0–30.0] | 80.0 [70.0–90.0] | 25.0 [15.0–35.0] | 50.0 [40.0–60.0] | 70.0" in told
    with open(results / "robustness.csv", encoding="utf-8", newline="") as handle:
        attacked = [row for row in csv.DictReader(handle) if row["group"] == "attack" and row["name"] == "blur"]
    found = {row["metric"]: row["value"] for row in attacked}
    assert (found["blank_forget"], found["blank_retain"]) == ("50", "1")
    runs = json.loads((results / "summary.json").read_text())["runs"]
    assert runs["popd"]["robustness"]["blank"] == {"forget": 0.02, "retain": 0.01}
    assert runs["po"]["robustness"]["blank"] == {}


def test_files_beside_the_report(results):
    write(results / "popd", "audit.json", audit())
    report(results)
    with open(results / "robustness.csv", encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == sum(len(p["metrics"]) + len(p.get("refusals", {})) for p in audit()["points"])
    line = next(row for row in rows if (row["group"], row["at"], row["metric"]) == ("relearn_decoupled", "4", "asr"))
    assert list(line.values()) == [
        "PO+PD",
        "audited",
        "relearn_decoupled",
        "",
        "4",
        "asr",
        "%",
        "45",
        "35",
        "55",
        "4",
        *"000000",
        "",
        "rules",
        "",
        "",
    ]
    assert [row["value"] for row in rows if row["metric"] == "refusal_image_free"] == ["60"]
    lines = (results / "robustness.md").read_text().splitlines()
    assert "| figstep | 40.0 [30.0–50.0] | 50.0 [40.0–60.0] | – | 60.0 [50.0–70.0] |" in lines
    assert "| none | 60.0 [50.0–70.0] | – |" in lines and "- attack typography: 3 responses are missing" in lines
    assert {"relearning_popd.png", "scaling_popd.png"} < {path.name for path in (results / "plots").iterdir()}


def test_the_card_begins_with_a_sentence_and_a_picture(results):
    assert headline(_card(results, audit())) == (
        "ASR is 10.0% (0.0–20.0) as trained, and 70.0% (60.0–80.0) where it was highest, after 4 steps on forget data; "
        "the untouched model's is 80.0% (70.0–90.0)."
    )
    report(results)
    drawn = (results / "plots" / "robustness_popd.svg").read_text()
    names = re.findall(r'font-weight="600" fill="currentColor">([^<]+)<', drawn)
    assert names == ["as trained", "figstep", "int4", "4 steps on decoupled data", "4 steps on forget data"]
    figures = re.findall(r'text-anchor="end" fill="currentColor">([^<]+)<', drawn)
    assert figures == ["10.0", "40.0", "15.0", "45.0", "70.0"]
    assert drawn.count('fill="none"') == 2, "the untouched model's, as it is and under the attack"
    assert headline(_card(results, {"points": []})) == ""
    relearned = (f"relearn_{kind}" for kind in ("retain", "decoupled", "forget"))
    alone = without(audit(), "attack", "quantization", *relearned)
    said = "ASR is 10.0% (0.0–20.0) as trained; the untouched model's is 80.0% (70.0–90.0)."
    assert headline(_card(results, alone)) == said


def test_a_run_that_was_audited_and_not_scored_has_its_card_alone(tmp_path):
    write(tmp_path / "popd", "audit.json", audit())
    report(tmp_path / "popd")
    page = (tmp_path / "popd" / "report.html").read_text()
    assert page.count('<svg class="forest"') == 1 and 'class="finding"' not in page
    assert {path.suffix for path in (tmp_path / "popd" / "plots").glob("*.svg")} == {".svg"}
    assert not (tmp_path / "popd" / "plots" / "forest.svg").exists()


def test_the_card_in_summary_json(results):
    write(results / "popd", "audit.json", audit())
    report(results)
    runs = json.loads((results / "summary.json").read_text())["runs"]
    assert "robustness" not in runs["po"]
    assert runs["popd"]["robustness"] == {
        "asr": 0.1,
        "untouched_asr": 0.8,
        "worst_attack": {"name": "figstep", "asr": 0.4, "untouched_asr": 0.6, "measured": 2},
        "quantization": {"int8": 0.1, "int4": 0.15, "nf4": 0.12},
        "relearning_to_half": {
            "benign": {"steps": 4, "data": "decoupled", "measured": 4, "last": 4},
            "forget": {"steps": 2, "data": "forget", "measured": 2, "last": 4},
        },
        "refusals": {"forget": 0.9, "decoupled": 0.9, "image_free": 0.6, "retain": 0.2, "retain_benign": 0.0},
        "blank": {},
        "findings": [],
        "shares": {},
        "relearning": {},
        "settings": audit()["settings"],
        "missing": audit()["missing"],
    }


def test_two_audits_stand_side_by_side(results):
    other = without(audit(), "quantization", "relearn_decoupled")
    told = audit()
    for one in (one for one in told["points"] if one["group"] == "attack"):
        # It is the highest where ASR is not.
        one["metrics"]["recovered"] = spread(0.05 if one["name"] == "figstep" else 0.12)
    write(results / "popd", "audit.json", told)
    write(results / "po", "audit.json", other)
    report(results)
    text = (results / "report.html").read_text()
    table = re.search(r'<table id="robustness-comparison-table">.*?</table>', text, re.DOTALL)[0]
    shown = _figures(Page(table).rows)
    none, four = ["none", "2 measured, to step 4"], ["4", "decoupled; 4 measured, to step 4"]
    assert shown[1] == ["PO", "10.0", "40.0", "figstep", "–", "–", *none, "90.0", "90.0"]
    assert shown[2] == ["PO+PD", "10.0", "40.0", "figstep", "12.0", "blur", "15.0", *four, "90.0", "90.0"]
    assert text.count('<dl class="findings">') == 2 and "do not compare" not in text
    ids = Page(text).ids
    assert len(ids) == len(set(ids))
    assert "- PO+PD, Benign steps to half: decoupled; 4 measured, to step 4" in (results / "robustness.md").read_text()
    settings = {**other["settings"], "judge": "gpt-4o", "val_file": "a/b.json"}
    settings |= {"judges": {"asr": {"name": "replay"}}}
    write(results / "po", "audit.json", {**other, "settings": settings})
    report(results)
    text = (results / "report.html").read_text()
    assert "made with different settings (judge, judges) and do not compare" in text
    assert "steps 0 2 4, val_file b.json, judges (asr (name replay)), checkpoint_sha256 0123456789ab." in text


def test_without_an_audit_there_is_neither_section_nor_file(results):
    report(results)
    assert "robustness" not in (results / "report.html").read_text().split("</style>")[1].lower()
    assert not [path for path in results.iterdir() if path.name.startswith("robustness")]
    assert "robustness" not in (results / "summary.json").read_text()


def _changed(**changes):
    return audit(points=[{**audit()["points"][1], **changes}])


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("{", r"audit\.json: not valid JSON"),
        ([], r"audit\.json: Input should be"),
        ({}, r"audit\.json: points: Field required"),
        (_changed(group="atack"), r"audit\.json: points\.0\.group: "),
        (_changed(name=""), r"audit\.json: points\.0: a point of the group attack needs 'name'"),
        (_changed(group="scaling"), r"audit\.json: points\.0: a point of the group scaling needs 'at'"),
        (_changed(metrics={"asr": {"value": 7}}), r"audit\.json: points\.0\.metrics\.asr\.value: "),
        (_changed(metrics={"asr": 0.5}), r"audit\.json: points\.0\.metrics\.asr: "),
        (_changed(refusals={"forgot": {"value": 0.5}}), r"audit\.json: points\.0\.refusals\.forgot"),
        (audit(format=3), r"audit\.json: format: 3 is of a later version; up to 2 is read"),
        (audit(relearning={"text": {"audited": {"steps_to": {}}}}), r"audit\.json: relearning\.text\.audited\.last: "),
        (audit(points=2 * [audit()["points"][1]]), r"audit\.json: points: attack blur stands there more than once"),
    ],
)
def test_an_audit_that_cannot_be_used(results, value, told):
    write(results / "popd", "audit.json", value)
    with pytest.raises(BadInput, match=told) as raised:
        report(results)
    assert "\n" not in str(raised.value) and not (results / "report.html").exists()
