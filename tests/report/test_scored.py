"""From eval_all.py to the page: what scoring writes of labels is what the report reads."""

import json
from html import unescape

import pytest
from score.labelled import fill_in, rows_of
from scoring import predicted, record, run_eval, write_files

from safeeraser.report.page import report


@pytest.mark.slow
def test_labels_reach_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = [record(number) for number in range(12)]
    answers = [predicted(one, "It stands here." if number % 3 else "I'm sorry.") for number, one in enumerate(records)]
    predictions, reference = write_files(tmp_path, records, answers)
    given = ("--judge", "rules", "--input_file", predictions, "--file_refer", reference, "--store", "store.jsonl")

    def score(*words):
        outputs = ("--output_file_rr", "po/verdicts_val.json", "--summary", "po/summary_val.json")
        done = run_eval(*given, *outputs, *words)
        assert done.returncode == 0, done.stderr
        report(tmp_path / "po", out=tmp_path / "page" / "report.html")
        return unescape((tmp_path / "page" / "report.html").read_text())

    score("--label_sheet", "sheet.csv", "--label_n", 60)
    rows = rows_of(tmp_path / "sheet.csv")
    fill_in(tmp_path / "labels.csv", rows, lambda row: "safe" if row["metric"] == "asr" else "unclear")
    text = score("--agree", "labels.csv")
    of = json.loads((tmp_path / "po" / "summary_val.json").read_text())["agreement"]["asr"]
    assert text.count(f"† 0.0 ({100 * of['low']:.1f}–{100 * of['high']:.1f})") == 1
    assert "(PO, ASR on val: 20 labels, kappa 0.00, specificity" in text
