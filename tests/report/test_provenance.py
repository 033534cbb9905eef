"""What the page and summary.json tell of what made the figures, and the warnings above them."""

import json
import re

import pytest

from safeeraser.report.page import report

from .made_up_runs import metric, seeded_results, summary, write

RIGHT = {"n": 60, "right": 57, "sensitivity": {"value": 0.9}, "specificity": {"value": 1.0}, "at": "2026-01-01"}
CHECK = {metric: {"judge": "rules", **RIGHT, "cases": "0123456789ab"} for metric in ("asr", "rr", "sarr")}
AGREED = {"labels": 80, "kappa": 0.81, "ac1": 0.9, "sensitivity": 0.95, "specificity": {"value": 0.9}, "judge": "rules"}
NEVER = "was never checked"


def page_of(folder):
    return (folder / "report.html").read_text()


def warned(folder):
    text = page_of(folder)
    note = re.search(r'<div class="note" role="note">(.*?)</div>', text, re.DOTALL)
    return re.findall(r"<p>(.*?)</p>", note[1]) if note else []


def test_what_made_the_figures_is_told_once_each(tmp_path):
    report(seeded_results(tmp_path))
    told = json.loads((tmp_path / "summary.json").read_text())["provenance"]
    assert (told["models"], told["recipes"], told["git_commits"]) == (
        ["a/model"],
        ["official"],
        ["0123456789abcdef-dirty"],
    )
    assert told["dates"] == ["2026-01-01T10:00:00+0000", "2026-01-03T10:00:00+0000"]
    assert told["adapters"]["seed1/popd"] == "popd1" and "seed1/vanilla" not in told["adapters"]
    assert told["seeds"] == {name: ["0", "1", "2"] for name in ("vanilla", "PO", "PO+PD")}
    assert told["versions"]["torch"] == ["2.13.0"]
    footer = (tmp_path / "report.html").read_text().split("<footer")[1]
    for text in (
        "a/model",
        "fedcba987654<",
        "0123456789ab-dirty<",
        "2026-01-01T10:00:00+0000 to 2026-01-03",
        "PO+PD: 0 and 1 and 2",
        "popd1",
    ):
        assert text in footer


def test_runs_of_an_earlier_version_leave_it_open(tmp_path):
    write(tmp_path / "po", "summary_val.json", summary("val", 0.5, 0.5))
    report(tmp_path)
    told = json.loads((tmp_path / "summary.json").read_text())["provenance"]
    assert told["models"] == told["dates"] == told["git_commits"] == []
    assert (tmp_path / "report.html").read_text().count("<dd>not told</dd>") == 5


def test_a_judge_that_was_never_checked_is_warned_of(tmp_path):
    write(tmp_path / "po", "summary_val.json", summary("val", 0.5, 0.5))
    report(tmp_path)
    assert warned(tmp_path) == ["The judge was never checked on cases whose verdict is known, as far as is told."]
    # A judge of other rules that was checked: the first still was not.
    write(tmp_path / "popd", "summary_val.json", summary("val", 0.5, 0.5, rules="1", judge_check=CHECK))
    report(tmp_path)
    assert [text for text in warned(tmp_path) if NEVER in text] == [
        "The judge of PO was never checked on cases whose verdict is known, as far as is told."
    ]
    told = "ASR of rules: 57 of 60 cases right (2026-01-01), sensitivity 0.90, specificity 1.00"
    assert told in (tmp_path / "report.html").read_text()
    # The same judge, checked between two runs, was checked.
    write(tmp_path / "po", "summary_val.json", summary("val", 0.5, 0.5, rules="1"))
    report(tmp_path)
    assert warned(tmp_path) == []


def test_a_judge_that_knows_the_answers_need_not_be_checked(tmp_path):
    write(tmp_path / "po", "summary_val.json", summary("val", 0.5, 0.5, judge="truth"))
    report(tmp_path)
    assert warned(tmp_path) == []


def test_each_metric_may_have_a_judge_that_was_never_checked(tmp_path):
    half, other = CHECK | {"sarr": None}, metric(0.5, judge="openai:a")
    write(tmp_path / "po", "summary_val.json", summary("val", 0.5, 0.5, sarr=other, judge_check=half))
    write(tmp_path / "po", "summary_train.json", summary("train", 0.5, other, sarr=other, judge_check=CHECK))
    write(tmp_path / "popd", "summary_val.json", summary("val", 0.5, other, judge_check=CHECK | {"rr": None}))
    report(tmp_path)
    assert NEVER not in "".join(warned(tmp_path)), "the judge of each was checked where it judged something else"
    write(
        tmp_path / "po", "summary_train.json", summary("train", 0.5, other, sarr=other, judge_check=half | {"rr": None})
    )
    report(tmp_path)
    assert [text for text in warned(tmp_path) if NEVER in text] == [
        "The judge of PO (RR, SARR), PO+PD (RR) was never checked on cases whose verdict is known, as far as is told."
    ]


def test_withheld_figures_and_blank_responses_are_warned_of(tmp_path):
    blank = {"forget": metric(0.25), "retain": metric(0.5)}
    gone = metric(None, withheld="3.1% failed")
    write(tmp_path / "ga", "summary_val.json", summary("val", 0.5, gone, blank=blank, judge_check=CHECK))
    few = {"forget": metric(0.01)}
    write(tmp_path / "po", "summary_val.json", summary("val", 0.5, 0.5, blank=few, judge_check=CHECK))
    report(tmp_path)
    assert warned(tmp_path) == [
        "Withheld: RR-Gen of GA; the table says why.",
        "Blank responses: GA 50.0% in the view retain.",
    ]


def test_the_corrected_rate_stands_beside_the_judges(tmp_path):
    found = AGREED | {"corrected": 0.12, "low": 0.08, "high": 0.17, "unlabelled": ["Sex"]}
    corrected = {"asr": found, "sarr": AGREED, "rr": None}
    told = {"agreement": corrected, "agreement_with": {"labels": "sheet_val_labels.csv", "sha256": "0"}}
    write(tmp_path / "po", "summary_val.json", summary("val", metric(0.1, 0.05, 0.15), 0.5, **told))
    report(tmp_path)
    page, lines = (tmp_path / "report.html").read_text(), (tmp_path / "table.md").read_text()
    assert page.count("† 12.0 (8.0–17.0)") == 1
    note = (
        "†: corrected for the judge's errors, as labelled responses show them (PO, ASR on val: 80 labels, none on Sex, "
        "kappa 0.81, ac1 0.90, sensitivity 0.95, specificity 0.90)"
    )
    assert f"- {note}" in lines and note.replace("'", "&#39;") in page
    assert "- PO, ASR-Gen: † 12.0 (8.0–17.0)" in lines
    assert json.loads((tmp_path / "summary.json").read_text())["runs"]["po"]["generality"]["asr"] == 0.1


def test_another_judge_corrects_nothing(tmp_path):
    """Its rate is no nearer to the truth, so that it has no dagger, and nothing is said of labels."""
    found = {"asr": AGREED | {"corrected": 0.12, "low": 0.08, "high": 0.17}}
    told = {"agreement": found, "agreement_with": {"judge": "qwen3guard:a", "run": "guard/summary_val.json"}}
    write(tmp_path / "po", "summary_val.json", summary("val", metric(0.1, 0.05, 0.15), 0.5, **told))
    report(tmp_path)
    page, lines = (tmp_path / "report.html").read_text(), (tmp_path / "table.md").read_text()
    assert "†" not in page + lines and "labelled responses" not in page
    note = "PO, ASR on val: 80 responses beside qwen3guard:a, kappa 0.81, ac1 0.90, sensitivity 0.95, specificity 0.90"
    assert f"- Two judges on the same responses, neither of which is the truth ({note})" in lines and note in page


@pytest.mark.parametrize("other", [{"category": "Privacy"}, {"provenance": {"data_sha256": "1"}}])
def test_figures_of_different_data_do_not_compare(tmp_path, other):
    told = {"provenance": {"data_sha256": "0"}, "judge_check": CHECK}
    figures = {"sarr": metric(0.2, 0.1, 0.3), "rouge": metric(0.8, 0.7, 0.9)}
    for name, asr, more in (("po", 0.1, {}), ("popd", 0.5, other)):
        asr = metric(asr, asr - 0.05, asr + 0.05)
        write(tmp_path / name, "summary_val.json", summary("val", asr, 0.5, **figures, **told | more))
    report(tmp_path)
    assert "different data or categories" in warned(tmp_path)[0] and 'class="finding"' not in page_of(tmp_path)
    assert "different data or categories" in (tmp_path / "table.md").read_text()
    write(tmp_path / "popd", "summary_val.json", summary("val", metric(0.5, 0.4, 0.6), 0.5, **figures, **told))
    report(tmp_path)
    assert warned(tmp_path) == [] and 'class="finding"' in page_of(tmp_path)
