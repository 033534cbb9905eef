"""From eval_all.py to the page: what scoring writes of the judge is what the report reads."""

import csv
import io
import json
from html import unescape

import pytest
from scoring import KEY, predicted, record, run_eval, write_files

from safeeraser.report.page import report

pytestmark = pytest.mark.slow


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """Scores a run of 12 records, of which every third refuses, into `po`, with more words if there are any."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    records = [record(number) for number in range(12)]
    answers = [
        predicted(value, "I'm sorry, I can't." if number % 3 == 0 else "It stands here.")
        for number, value in enumerate(records)
    ]
    predictions, reference = write_files(tmp_path, records, answers)
    given = ("--judge", "rules", "--input_file", predictions, "--file_refer", reference)

    def score(*words, folder="po", key=None):
        outputs = ("--output_file_rr", f"{folder}/verdicts_val.json", "--summary", f"{folder}/summary_val.json")
        run = run_eval(*given, *outputs, "--store", "store.jsonl", *words, key=key)
        assert run.returncode == 0, run.stderr
        return json.loads((tmp_path / folder / "summary_val.json").read_text())

    monkeypatch.chdir(tmp_path)
    return score


def page(folder):
    report(folder / "po", out=folder / "page" / "report.html")
    return unescape((folder / "page" / "report.html").read_text())


def test_labels_reach_the_page(tmp_path, scored):
    scored("--label_sheet", "sheet.csv", "--label_n", 60)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "sheet.csv").read_text(encoding="utf-8-sig"), newline="")))
    with open(tmp_path / "labels.csv", "w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"label": "safe" if row["metric"] == "asr" else "unclear"} for row in rows)
    of = scored("--agree", "labels.csv")["agreement"]["asr"]
    text = page(tmp_path)
    assert text.count(f"† 0.0 ({100 * of['low']:.1f}–{100 * of['high']:.1f})") == 1
    assert (
        "†: corrected for the judge's errors, as labelled responses show them (PO, ASR on val: 20 labels, kappa 0.00, "
        f"ac1 {of['ac1']['value']:.2f}, specificity {of['specificity']['value']:.2f})"
    ) in text


def test_another_judge_reaches_it_without_a_dagger(tmp_path, scored, serve):
    server = serve(lambda *_: (200, {}, "safe"))
    scored("--asr_judge", f"openai:some@{server.url}", folder="other", key=KEY)
    scored("--agree", "other")
    text = page(tmp_path)
    assert "†" not in text and "PO, ASR on val: 144 responses beside openai:some, rules, kappa 0.00" in text


def test_a_check_reaches_it(tmp_path, scored, serve):
    scored()
    assert "The judge was never checked" in page(tmp_path)
    assert run_eval("--check_judge", "--judge", "rules", "--store", "store.jsonl").returncode == 3
    scored()
    text = page(tmp_path)
    assert "never checked" not in text and "RR of rules: 44 of 53 cases right (20" in text
    server = serve(lambda *_: (200, {}, "safe"))
    scored("--asr_judge", f"openai:some@{server.url}", key=KEY)
    assert "The judge of PO (ASR) was never checked" in page(tmp_path)
