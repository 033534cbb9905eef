"""From eval_all.py to the page: what scoring writes of labels is what the report reads."""

import csv
import json
from html import unescape

import pytest
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
    with open(tmp_path / "sheet.csv", encoding="utf-8-sig", newline="") as handle:
        rows = list(csv.DictReader(handle))
    with open(tmp_path / "labels.csv", "w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"label": "safe" if row["metric"] == "asr" else "unclear"} for row in rows)
    text = score("--agree", "labels.csv")
    of = json.loads((tmp_path / "po" / "summary_val.json").read_text())["agreement"]["asr"]
    assert text.count(f"† 0.0 ({100 * of['low']:.1f}–{100 * of['high']:.1f})") == 1
    assert "(PO, ASR on val: 20 labels, kappa 0.00, specificity" in text
