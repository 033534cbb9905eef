"""The robustness card of an audit with controls, each figure beside that of models that know and that never did."""

import csv
import json
import re

import pytest

from safeeraser.errors import BadInput
from safeeraser.report.page import report
from safeeraser.report.robustness import tables
from safeeraser.report.robustness.card import read_cards
from safeeraser.report.robustness.findings import findings, headline
from safeeraser.report.robustness.plots import curves
from safeeraser.report.runs import read_runs

from .made_up_audits import audit, controlled, without
from .made_up_runs import write
from .test_page import Page


@pytest.fixture
def read(tmp_path):
    """A card, read from the file of an audit."""

    def read(value):
        write(tmp_path / "popd", "audit.json", value)
        return read_cards(read_runs([tmp_path / "popd"]))[0]

    return read


def _table(card, key):
    """A table's heads, and its rows by name as they are written."""
    (table,) = (one for one in [*tables.conditions(card), *tables.curve_tables(card)] if one.key == key)
    return table.heads, {
        row.name: [f"{cell.text} {cell.range}".strip() for cell in table.line(row)] for row in table.rows
    }


def test_the_audits_own_lines_are_what_the_card_says(read):
    card = read(controlled())
    assert [(one.question, one.said) for one in findings(card)][2:] == [
        ("What does it take to bring it back?", "2 steps on decoupled."),
        ("What broke?", "withheld: ROUGE-L was not measured"),
    ]
    assert headline(card) == (
        "ASR is 10.0% (0.0–20.0) as trained, and 90.0% (80.0–100.0) where it was highest, under figstep, the worst of "
        "3 attacks, as a model that never knew has 90.0% (80.0–100.0); the untouched model's is 80.0% (70.0–90.0)."
    )


def test_each_control_is_a_row_with_what_is_inside_it(read):
    heads, rows = _table(read(controlled()), "controls")
    assert heads[:5] == ["ASR ↓", "RR ↑", "SARR ↓", "ROUGE-L ↑", "Recovered ↓"]
    assert heads[5:] == ["NLL gap, nats", "Extracted", "Depth, nats", "Probe"]
    assert list(rows) == ["audited", "vanilla", "tuned", "told", "never_knew"]
    assert rows["audited"][4:] == [
        "10.0 0.0–20.0", "1.50 1.40–1.60", "20.0 10.0–30.0", "0.15 0.05–0.25", "50.0 40.0–60.0"
    ]  # fmt: skip
    assert rows["told"] == ["40.0 30.0–50.0", "60.0 50.0–70.0", "20.0 10.0–30.0", "–", "30.0 20.0–40.0", *"––––"]
    assert rows["never_knew"][5] == "0.05 -0.05 to 0.15"


def test_the_way_goes_from_who_knows_to_who_never_knew(read):
    heads, rows = _table(read(controlled()), "way")
    assert heads == ["audited", "tuned"]
    assert rows == {
        "NLL gap": ["25.0 15.0–35.0", "5.0 -5.0 to 15.0"],
        "Depth": ["20.0 10.0–30.0", "0.0 -10.0 to 10.0"],
        "Probe": ["–", "–"],
        "Recovered": ["85.0 75.0–95.0", "15.0 5.0–25.0"],
    }
    (way,) = (one for one in tables.conditions(read(controlled(shares_to="floor"))) if one.key == "way")
    assert way.title == "The way from vanilla to answers paired at random" and "never_knew" not in way.caption


def test_an_attack_stands_beside_what_it_brings_out_of_the_controls(read):
    heads, rows = _table(read(controlled()), "attacks")
    assert heads[3:6] == ["Recovered ↓", "Recovered (more than without)", "q"]
    assert heads[6:] == ["ASR (vanilla)", "Recovered (vanilla)", "ASR (never_knew)", "Recovered (never_knew)"]
    assert list(rows) == ["none", "figstep", "blur", "crop"]
    assert rows["none"][3:8] == ["10.0 0.0–20.0", "–", "–", "80.0 70.0–90.0", "70.0 60.0–80.0"]
    assert rows["figstep"][3:6] == ["25.0 15.0–35.0", "+15.0 +5.0 to +25.0", "0.01"]
    assert rows["figstep"][8:] == ["90.0 80.0–100.0", "20.0 10.0–30.0"]
    assert rows["crop"][4:6] == ["+0.0 -10.0 to +10.0", "0.9"]


def test_whether_an_attack_brings_answers_back_is_as_the_audit_says(read):
    """Which holds what came back against who never knew, and corrects for how many attacks were tried."""
    value = controlled()
    assert read(value).most_recovered.name == "blur", "the highest of those that the audit says it of"
    for one in value["points"]:
        one["recovers"] = False if "recovers" in one else None
    assert read(value).most_recovered.group == "clean"
    own = next(one for one in value["points"] if one["name"] == "figstep" and one["subject"] == "audited")
    own["recovers"] = True
    assert read(value).most_recovered.name == "figstep"


def test_relearning_and_sampling_have_a_table_each(read):
    card = read(controlled())
    heads, rows = _table(card, "relearning")
    assert heads == [
        "Steps to ASR 10% (audited)", "Steps to ASR 10% (never_knew)", "Steps to ASR 50% (audited)",
        "Steps to ASR 50% (never_knew)", "Area over never_knew (audited)",
    ]  # fmt: skip
    assert rows == {"decoupled": ["1.5", "0.0", "2.0", "0.0", "+25.0"], "unrelated": ["0.4", "–", ">4", "–", "-50.0"]}
    heads, rows = _table(card, "sampling")
    assert heads[:5] == ["ASR@1", "ASR@3", "ASR@10", "ASR@1 (vanilla)", "ASR@3 (vanilla)"] and len(heads) == 9
    assert rows["1"][:3] == ["15.0 5.0–25.0", "25.0 15.0–35.0", "60.0 50.0–70.0"] and list(rows) == ["0", "1"]
    heads, rows = _table(card, "relearn_decoupled")
    assert heads[:2] == ["ASR ↓", "Recovered ↓"] and heads[-2:] == ["ASR (never_knew)", "Recovered (never_knew)"]
    assert rows["4"][0] == "70.0 60.0–80.0" and rows["4"][-2] == "30.0 20.0–40.0"


def test_a_panel_for_each_attacker_has_the_seeds_and_the_controls(read):
    relearning, depth, scaling = curves(read(controlled()))
    panels = {axes.get_title(loc="left"): axes for axes in relearning.figure.axes}
    assert list(panels) == ["decoupled", "unrelated", "mine"]
    lines = {line.get_label(): line.get_ydata().tolist() for line in panels["decoupled"].lines[:3]}
    assert lines == {"audited": [10, 50, 70], "tuned": [70, 70, 70], "never_knew": [60, 40, 30]}
    seeds = [line.get_ydata().round(6).tolist() for line in panels["decoupled"].lines[3:5]]
    assert seeds == [[10, 45, 65], [10, 55, 75]] and len(panels["decoupled"].collections) == 1  # the one band
    assert [line.get_label() for line in panels["mine"].lines if line.get_label() in ("tuned", "never_knew")] == []
    assert "never_knew on decoupled data, step 0: 60.0, 2: 40.0, 4: 30.0" in relearning.description
    assert relearning.caption.endswith("thin: each seed.")
    (axes,) = depth.figure.axes
    assert [line.get_label() for line in axes.lines] == ["audited", "tuned", "never_knew"]
    assert axes.lines[0].get_xdata().tolist() == [0, 2, 10] and axes.lines[0].get_ydata().tolist() == [
        0.15,
        2.15,
        10.15,
    ]
    assert "audited at layer 0: 0.15, 2: 2.15, 10: 10.15" in depth.description
    assert scaling.figure.axes[0].lines[0].get_xdata().tolist() == [0, 0.5, 1]


def test_the_page_leads_with_the_lines_unless_cards_are_many(read, tmp_path):
    for count in (1, 4):
        for run in ("popd", "po", "ga", "gd")[:count]:
            write(tmp_path / run, "audit.json", controlled())
        report(tmp_path, out=tmp_path / "report.html")
        page = (tmp_path / "report.html").read_text().split("</style>", 1)[1]
        lines, fold = page.index('<dl class="findings">'), page.index("All that was measured")
        assert (lines < fold) == (count == 1) and page.count("<dt>What broke?</dt>") == count
        assert page.index("<dt>Missing</dt>") > fold
        assert '<dt>What broke?</dt><dd class="soft">withheld: ROUGE-L was not measured</dd>' in page
        ids = Page(page).ids
        assert len(ids) == len(set(ids))
    told = (tmp_path / "robustness.md").read_text()
    assert "- **Is it gone or covered?** Covered, by 2 of 2 measures.\n- **What does it take" in told
    assert "- **What broke?** *withheld: ROUGE-L was not measured*\n" in told


def test_audits_side_by_side_tell_how_far_each_has_come(tmp_path):
    write(tmp_path / "popd", "audit.json", controlled())
    write(tmp_path / "po", "audit.json", audit())
    report(tmp_path, out=tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    rows = Page(re.search(r'<table id="robustness-comparison-table">.*?</table>', text, re.DOTALL)[0]).rows
    assert rows[0][-3:] == ["Gone, by NLL gap ↑", "Gone, by depth ↑", "Area, relearned on decoupled ↓"]
    assert rows[1][0] == "PO" and rows[1][-3:] == ["–", "–", "–"]
    assert rows[2][-7:] == ["25.0", "95% interval", "15.0–35.0", "20.0", "95% interval", "10.0–30.0", "+25.0"]
    assert "made with different settings (never_knew)" in text


def test_the_files_hold_controls_and_shares(tmp_path):
    value = controlled()
    write(tmp_path / "popd", "audit.json", value)
    report(tmp_path / "popd")
    with open(tmp_path / "popd" / "robustness.csv", encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    told = {(row["subject"], row["group"], row["name"] or row["at"], row["metric"]): row for row in rows}
    assert len(told) == len(rows)
    gap, more = told["audited", "inside", "inside", "gap"], told["audited", "attack", "blur", "recovered_to_clean"]
    assert (gap["value"], gap["low"], gap["high"], gap["unit"]) == ("1.5", "1.4", "1.6", "")
    assert (more["value"], more["low"], more["unit"], more["p"], more["q"]) == ("20", "10", "%", "0.005", "0.01")
    assert told["vanilla", "attack", "blur", "recovered"]["value"] == "65"
    assert told["tuned", "share", "", "gap"]["value"] == "5" and told["audited", "share", "", "probe"]["value"] == ""
    assert told["audited", "relearn_mine", "2", "asr_seed_1"]["value"] == "15"
    assert told["audited", "sampling", "1", "asr_at_10"]["value"] == "60"
    card = json.loads((tmp_path / "popd" / "summary.json").read_text())["runs"]["popd"]["robustness"]
    assert card["findings"] == value["findings"] and card["relearning"] == value["relearning"]
    assert card["shares"] == value["shares"]
    assert card["untouched_asr"] == 0.8 and card["worst_attack"]["untouched_asr"] == 0.6


def test_an_audit_that_was_begun_alone_has_what_there_is(read):
    card = read(without(controlled(), "inside", "attack", "sampling", "scaling"))
    assert [one.key for one in tables.conditions(card)][:3] == ["controls", "way", "relearning"]
    assert [plot.name for plot in curves(card)] == ["relearning_popd"]
    card = read(controlled(points=[], shares={}, relearning={}, controls={}))
    assert tables.conditions(card) == [] and curves(card) == [] and headline(card) == ""


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"shares": {"gap": 0.5}}, r"audit\.json: shares\.gap: "),
        ({"findings": [{"text": "So it is."}]}, r"audit\.json: findings\.0\.question: "),
        ({"points": [{"group": "inside", "measures": {"gap": "much"}}]}, r"points\.0\.measures\.gap: "),
        ({"points": [{"group": "relearn_text", "subject": "tuned"}]}, r"points\.0: .* relearn_text needs 'at'"),
        ({"points": 2 * [{"group": "clean", "subject": "told"}]}, r"points: told clean stands there more than once"),
    ],
)
def test_what_of_it_cannot_be_used(read, changes, told):
    with pytest.raises(BadInput, match=told) as raised:
        read(controlled(**changes))
    assert "\n" not in str(raised.value)
