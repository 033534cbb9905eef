"""The table in the forms in which it leaves the report, and what stands beside it."""

import csv
import json
import re
import subprocess
import sys

from safeeraser.report.page import report
from safeeraser.report.writing import escape_latex

from .made_up_runs import full_results, metric, summary, write


def test_markdown_has_a_line_a_run_and_the_remarks_below(tmp_path):
    known = {"asr": metric(0.12, 0.09, 0.15, failed=3), "sarr": metric(None, withheld="3.1% failed", failed=9)}
    write(tmp_path / "a|b_c", "summary_val.json", summary("val", rr=0.5, **known))
    report(tmp_path, published=True)
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[2] == r"| a\|b\_c | – | – | 12.0 [9.0–15.0] | 50.0 | 25.0 | – | – | withheld |"
    assert "| 7B PO+PD (published) | 0.2 | 100.0 | 0.2 | 99.7 | 65.4 | 86.2 | 64.4 | 30.3 |" in lines
    assert "- a|b_c, ASR-Gen: 3 failed" in lines and "- a|b_c, SARR: withheld, 3.1% failed" in lines


def test_csv_has_a_row_a_run_with_value_low_and_high(tmp_path):
    report(full_results(tmp_path))
    with open(tmp_path / "table.csv", encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["method"] for row in rows] == ["vanilla", "PO", "PO+PD"]
    assert [rows[2][f"asr_gen_{part}"] for part in ("value", "low", "high")] == ["10", "5", "15"]
    assert [rows[2][f"asr_eff_{part}"] for part in ("value", "low", "high")] == ["10", "", ""]
    assert {None} & set(rows[0]) == set() and len(rows[0]) == 26 + 4 * 3
    assert {row["seeds"] for row in rows} == {"1"}


def test_latex_is_escaped_and_has_ranges(tmp_path):
    write(tmp_path / "50%_&co", "summary_val.json", summary("val", metric(0.12, 0.09, 0.15), 0.5))
    report(tmp_path, published=True, note="first\nsecond")
    lines = (tmp_path / "table.tex").read_text().splitlines()
    assert lines[:3] == [r"% needs \usepackage{booktabs}", "% first", "% second"]
    assert r"50\%\_\&co & -- & -- & 12.0 & 50.0 & 25.0 & -- & -- & 50.0 \\" in lines
    assert r"&  &  & {\scriptsize 9.0--15.0} &  &  &  &  & \\" in lines
    assert [line for line in lines if "rule" in line] == [r"\toprule", r"\midrule", r"\midrule", r"\bottomrule"]
    assert escape_latex(r"\a{b}~^#$") == r"\textbackslash{}a\{b\}\textasciitilde{}\textasciicircum{}\#\$"


BLANK = {"forget": metric(0.25, 0.1, 0.4), "decoupled": metric(0.5), "retain": metric(0.0), "image_free": metric(1.0)}


def with_blanks(folder):
    """A run of each kind: one that tells how many responses are blank, one as the last version wrote it."""
    write(folder / "ga", "summary_train.json", summary("train", 0.5, 0.5, blank={"forget": metric(0.75)}))
    write(folder / "ga", "summary_val.json", summary("val", 0.5, 0.5, blank=BLANK))
    write(folder / "po", "summary_val.json", summary("val", 0.5, 0.5))
    return folder


def test_blank_responses_have_a_table_of_their_own(tmp_path, capsys):
    report(with_blanks(tmp_path))
    lines = (tmp_path / "table.md").read_text().splitlines()
    start = lines.index("Blank responses, %:")
    assert lines[start + 2 : start + 6] == [
        "| method | forget, train | forget | retain | decoupled | image free |",
        "|---|---:|---:|---:|---:|---:|",
        "| GA | 75.0 | 25.0 [10.0–40.0] | 0.0 | 50.0 | 100.0 |",
        "| PO | – | – | – | – | – |",
    ]
    with open(tmp_path / "table.csv", encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    names = [name.removesuffix("_value") for name in rows[0] if name.startswith("blank_") and name.endswith("_value")]
    assert names == ["blank_forget_eff", "blank_forget", "blank_retain", "blank_decoupled", "blank_image_free"]
    assert list(rows[0].values())[-15:-9] == ["75", "", "", "25", "10", "40"]
    assert set(list(rows[1].values())[-15:]) == {""}
    told = json.loads((tmp_path / "summary.json").read_text())["runs"]
    assert told["ga"]["blank"] == {"forget_eff": 0.75, "forget": 0.25, "decoupled": 0.5, "retain": 0.0, "image_free": 1}
    assert "blank" not in told["po"]
    page, latex = (tmp_path / "report.html").read_text(), (tmp_path / "table.tex").read_text()
    assert "<h3>Blank responses, %</h3>" in page and '<table id="blank-table">' in page
    assert "% Blank responses, %" in latex and r"GA & 75.0 & 25.0 & 0.0 & 50.0 & 100.0 \\" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\bottomrule") == 2
    shown = capsys.readouterr().out
    assert "Blank responses, %" in shown and re.search(r"GA +75\.0 +25\.0 +0\.0 +50\.0 +100\.0", shown)


def test_wrong_responses_have_a_table_where_a_judge_knew_the_answers(tmp_path):
    wrong = {"forget": metric(0.25, 0.1, 0.4), "decoupled": metric(0.5)}
    write(tmp_path / "ga", "summary_train.json", summary("train", 0.5, 0.5, wrong={"forget": metric(0.75)}))
    write(tmp_path / "ga", "summary_val.json", summary("val", 0.5, 0.5, judge="truth", truth="a", wrong=wrong))
    write(tmp_path / "po", "summary_val.json", summary("val", 0.5, 0.5, judge="truth", truth="b"))
    report(tmp_path)
    lines = (tmp_path / "table.md").read_text().splitlines()
    start = lines.index("Wrong responses, %:")
    assert lines[start + 2 : start + 6] == [
        "| method | forget, train | forget | decoupled |",
        "|---|---:|---:|---:|",
        "| GA | 75.0 | 25.0 [10.0–40.0] | 50.0 |",
        "| PO | – | – | – |",
    ]
    with open(tmp_path / "table.csv", encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert rows[0]["wrong_forget_eff_value"] == "75" and rows[1]["wrong_forget_eff_value"] == ""
    told = json.loads((tmp_path / "summary.json").read_text())["runs"]
    assert told["ga"]["wrong"] == {"forget_eff": 0.75, "forget": 0.25, "decoupled": 0.5} and "wrong" not in told["po"]
    page = (tmp_path / "report.html").read_text()
    assert "<h3>Wrong responses, %</h3>" in page and "do not compare" in page and "judge truth, version b" in page


def test_replies_that_a_figure_lacks_stand_beside_it(tmp_path):
    write(tmp_path / "po", "summary_val.json", summary("val", metric(0.5, declined=2, blank=3, skipped=1), 0.5))
    report(tmp_path)
    assert "- PO, ASR-Gen: 2 declined, 3 blank, 1 skipped" in (tmp_path / "table.md").read_text()
    page = (tmp_path / "report.html").read_text()
    assert all(f'<small class="remark">{text}</small>' in page for text in ("2 declined", "3 blank", "1 skipped"))


def test_a_metric_that_is_new_is_a_column(tmp_path):
    """A row in the one table is enough for the report to read it and to show it."""
    code = (
        "from safeeraser.benchmark import metrics\n"
        "metrics.METRICS['brevity'] = metrics.Metric('Brevity', 'retain', 'higher', ('val',))\n"
        "metrics.COLUMNS = metrics._columns()\n"
        "metrics.SCORED += ('brevity',)\n"
        "from safeeraser.report.page import report\n"
        f"report(__import__('pathlib').Path({str(tmp_path)!r}))\n"
    )
    write(tmp_path / "po", "summary_val.json", summary("val", 0.5, 0.5, brevity=metric(0.4, 0.3, 0.5)))
    write(tmp_path / "ga", "summary_val.json", summary("val", 0.5, 0.5))
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    told = (tmp_path / "table.md").read_text()
    assert "| SARR ↓ | Brevity ↑ |" in told and "| 50.0 | 40.0 [30.0–50.0] |" in told and "| 50.0 | – |" in told
    assert json.loads((tmp_path / "summary.json").read_text())["runs"]["po"]["brevity"] == 0.4
