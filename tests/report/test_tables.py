"""The table in the forms in which it leaves the report, and what stands beside it."""

import csv

from safeeraser.report.page import report
from safeeraser.report.tables import escape_latex

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
    assert {None} & set(rows[0]) == set() and len(rows[0]) == 25 + 4 * 3


def test_latex_is_escaped_and_has_ranges(tmp_path):
    write(tmp_path / "50%_&co", "summary_val.json", summary("val", metric(0.12, 0.09, 0.15), 0.5))
    report(tmp_path, published=True, note="first\nsecond")
    lines = (tmp_path / "table.tex").read_text().splitlines()
    assert lines[:3] == [r"% needs \usepackage{booktabs}", "% first", "% second"]
    assert r"50\%\_\&co & -- & -- & 12.0 & 50.0 & 25.0 & -- & -- & 50.0 \\" in lines
    assert r"&  &  & {\scriptsize 9.0--15.0} &  &  &  &  & \\" in lines
    assert [line for line in lines if "rule" in line] == [r"\toprule", r"\midrule", r"\midrule", r"\bottomrule"]
    assert escape_latex(r"\a{b}~^#$") == r"\textbackslash{}a\{b\}\textasciitilde{}\textasciicircum{}\#\$"
