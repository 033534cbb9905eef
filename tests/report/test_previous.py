"""Results of the last version, stored as it wrote them: the report reads them, and shows their figures."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from safeeraser.benchmark.metrics import COLUMNS
from safeeraser.report.model_card import card
from safeeraser.report.page import report

from .page_text import Page

STORED = Path(__file__).resolve().parents[1] / "data" / "previous"
RUNS = {"vanilla": "vanilla", "ga": "GA", "po": "PO", "popd": "PO+PD"}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("previous") / "results"
    shutil.copytree(STORED, folder, ignore=shutil.ignore_patterns("train_log.jsonl"))
    shutil.copy(STORED / "popd" / "train_log.jsonl", folder / "popd")
    report(folder, published=True)
    return folder


def stored(run, split):
    return json.loads((STORED / run / f"summary_{split}.json").read_text())


def test_the_table_has_the_stored_figures(results):
    with open(results / "table.csv", encoding="utf-8", newline="") as handle:
        rows = {row["method"]: row for row in csv.DictReader(handle)}
    assert list(rows) == list(RUNS.values())
    for run, title in RUNS.items():
        for key, column in COLUMNS.items():
            figure = stored(run, column.split).get(column.metric)
            if column.metric == "specificity":
                figure = json.loads((STORED / run / "specificity.json").read_text())
            for part in ("value", "low", "high"):
                value = figure.get(part)
                assert rows[title][f"{key}_{part}"] == ("" if value is None else f"{100 * value:.6g}"), (run, key, part)
        assert {value for key, value in rows[title].items() if key.startswith("blank_")} == {""}
    line = "| PO+PD | 0.0 [0.0–3.0] | 100.0 [97.0–100.0] | 4.3 [0.2–10.1] | 95.7 [89.9–99.8] | 99.6 [99.1–99.9] | – |"
    assert f"{line} 98.0 | 7.3 [2.1–14.6] |" in (results / "table.md").read_text()


def test_the_summary_has_the_stored_figures(results):
    told = json.loads((results / "summary.json").read_text())["runs"]
    for run in RUNS:
        for split, name in (("train", "efficacy"), ("val", "generality")):
            assert told[run][name] == {key: stored(run, split)[key]["value"] for key in ("asr", "rr")}
        assert all(told[run][key] == stored(run, "val")[key]["value"] for key in ("sarr", "rouge_l", "gpt_eval"))
        assert "blank" not in told[run]


def test_the_page_has_categories_training_and_the_judge(results):
    lines = Page((results / "report.html").read_text()).lines
    assert "Scored with protocol official, judge rules." in lines and not any("do not compare" in one for one in lines)
    assert {f"{rate}: By category, per cent." for rate in ("ASR ↓", "RR ↑", "SARR ↓")} < set(lines)
    assert "Training of PO+PD: loss and terms." in lines and "Blank responses, %" not in lines


def test_the_audit_has_the_stored_figures(results):
    audit = json.loads((STORED / "popd" / "audit.json").read_text())
    with open(results / "robustness.csv", encoding="utf-8", newline="") as handle:
        keys = ("subject", "group", "name", "metric")
        rows = {tuple(row[key] for key in keys): row for row in csv.DictReader(handle)}
    for point in audit["points"]:
        for key, figure in point["metrics"].items():
            # What was a group of its own then is vanilla under the attacks.
            vanilla = point["group"] == "attack_vanilla"
            place = ("vanilla", "attack") if vanilla else ("audited", point["group"])
            row = rows[(*place, point["name"], key)]
            assert row["value"] == f"{100 * figure['value']:.6g}" and row["n"] == str(figure["n"])
    told = (results / "robustness.md").read_text()
    assert "Worst of 13: figstep, ASR 98.6% (97.6–99.4), 1.5% (1.2–2.0) of the vanilla answers recovered" in told
    # The highest, 10.3% (7.6–13.2) under crop, is within chance of 7.3% (4.9–11.5).
    assert "Under none of the 13 attacks was clearly more of the vanilla answers recovered than without one: 7." in told


def test_a_run_of_the_last_version_gets_its_model_card(tmp_path):
    folder = tmp_path / "popd"
    shutil.copytree(STORED / "popd", folder)
    (folder / "adapter_model.safetensors").touch()
    text = card(folder)
    assert "| ASR-Gen ↓ | val | 4.3 | 0.2–10.1 | 576 | rules | official |" in text and "library_name: peft" in text
    assert "Worst of 13: figstep" in text and "A demonstration on drawn pictures." in text
