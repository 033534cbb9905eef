"""Specificity's benchmarks in the report: shown where there are any, with the figure and the split of each."""

import json

import pytest

from safeeraser.errors import BadInput
from safeeraser.report.page import report

from .made_up_runs import summary, write


def task(value, metric="exact_match", split="test", **more):
    return {"value": value, "n": 10, "metric": metric, "split": split, **more}


@pytest.fixture
def results(tmp_path):
    tasks = {"gqa": task(0.61, split="testdev", standard_error=0.004), "pope": task(0.86, "pope_accuracy")}
    write(tmp_path / "po", "specificity.json", {"value": 0.735, "n": 20, "tasks": tasks})
    less = {"gqa": task(0.5, split="testdev"), "pope": task(0.8, "pope_f1_score")}
    told = {"missing": {"mmvet": "needs a judge"}, "replaced": {"mmbench_en_dev": "mmbench_en_dev_static"}, "limit": 10}
    withheld = {"value": None, "n": 20, "withheld": "2 of 3 tasks; missing: mmvet", "tasks": less, **told}
    write(tmp_path / "popd", "specificity.json", withheld)
    write(tmp_path / "gd", "specificity.json", {"value": 0.5, "n": 100})
    for run in ("po", "popd", "gd"):
        write(tmp_path / run, "summary_val.json", summary("val", 0.5, 0.5))
    return tmp_path


def test_a_column_for_each_figure_of_each_benchmark(results):
    report(results)
    lines = (results / "table.md").read_text().splitlines()
    assert lines[-10:] == [
        r"| method | gqa (exact\_match, testdev) | pope (pope\_accuracy, test) | pope (pope\_f1\_score, test) |",
        "|---|---:|---:|---:|",
        "| PO | 61.0 ± 0.4 | 86.0 | – |",
        "| PO+PD | 50.0 | – | 80.0 |",
        "",
        "Per cent ± standard error where known. Spec above is the mean of a run's line.",
        "",
        "- PO+PD, mmvet: no figure: needs a judge",
        "- PO+PD, mmbench_en_dev_static stands for mmbench_en_dev",
        "- PO+PD, the first 10 items of each alone",
    ]
    page = (results / "report.html").read_text()
    assert "Specificity by benchmark" in page and "<small>pope_f1_score, test</small>" in page
    assert "2 of 3 tasks; missing: mmvet" in page and "PO+PD, mmvet: no figure: needs a judge." in page


def test_the_summary_has_each_figure(results):
    report(results)
    runs = json.loads((results / "summary.json").read_text())["runs"]
    assert runs["po"]["specificity"] == 0.735
    assert runs["po"]["specificity_tasks"]["pope"] == {**task(0.86, "pope_accuracy"), "standard_error": None}
    assert runs["popd"]["specificity"] is None and runs["popd"]["specificity_tasks"]["mmvet"] is None
    assert "specificity_tasks" not in runs["gd"]


def test_without_benchmarks_there_is_no_table(results):
    report(results / "gd")
    assert "Specificity by benchmark" not in (results / "gd" / "report.html").read_text()
    assert "Specificity by benchmark" not in (results / "gd" / "table.md").read_text()


def test_figures_of_different_kinds_do_not_compare(results):
    said = "do not compare with each other"
    report(results)
    assert said not in (results / "report.html").read_text()
    write(results / "po", "specificity.json", {"value": 0.735, "n": 20, "task": "mean of 2 tasks by lmms-eval"})
    write(results / "gd", "specificity.json", {"value": 0.5, "n": 100, "task": "mini VQA"})
    report(results)
    page = (results / "report.html").read_text()
    assert said in page and "<li>Specificity: mean of 2 tasks by lmms-eval; mini VQA</li>" in page


def test_a_share_beyond_one_is_named(results):
    write(results / "po", "specificity.json", {"value": 0.5, "tasks": {"gqa": task(61.0)}})
    with pytest.raises(BadInput, match=r"specificity.json: tasks.gqa.value: "):
        report(results)
