"""Results of the previous version, stored as it wrote them: the report reads them and shows their figures."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from safeeraser.benchmark.metrics import COLUMNS
from safeeraser.report.model_card import card
from safeeraser.report.page import report

STORED = Path(__file__).resolve().parents[1] / "data" / "previous"
RUNS = {"vanilla": "vanilla", "ga": "GA", "po": "PO", "popd": "PO+PD"}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("previous") / "results"
    shutil.copytree(STORED, folder, ignore=shutil.ignore_patterns("train_log.jsonl"))
    shutil.copy(STORED / "popd" / "train_log.jsonl", folder / "popd")
    report(folder, published=True)
    return folder


def stored(run, name):
    return json.loads((STORED / run / f"{name}.json").read_text())


def rows_of(path, *keys):
    lines = path.read_text(encoding="utf-8").splitlines()
    return {tuple(row[key] for key in keys): row for row in csv.DictReader(lines)}


def test_table_and_summary_have_the_stored_figures(results):
    rows = rows_of(results / "table.csv", "method")
    assert [name for (name,) in rows] == list(RUNS.values())
    for run, title in RUNS.items():
        for key, column in COLUMNS.items():
            figure = stored(run, f"summary_{column.split}").get(column.metric)
            if column.metric == "specificity":
                figure = stored(run, "specificity")
            for part in ("value", "low", "high"):
                shown = "" if figure.get(part) is None else f"{100 * figure[part]:.6g}"
                assert rows[title,][f"{key}_{part}"] == shown, (run, key, part)


def test_the_audit_has_the_stored_figures(results):
    place = ("run", "split", "subject", "condition", "name", "at", "metric", "relative", "by", "seed")
    rows = rows_of(results / "figures.csv", *place)
    names = {"quantization": "quantized", "scaling": "scaled", "sampling": "sampled", "relearn_mine": "relearned"}
    for point in stored("popd", "audit")["points"]:
        condition, at = names.get(point["group"], point["group"]), point["at"]
        name = {"clean": "", "relearned": "mine"}.get(condition, point["name"])
        for key, figure in point["metrics"].items():
            where = ("popd", "audit", point["subject"], condition, name, "" if at is None else f"{at:g}", key)
            row = rows[(*where, "", "", "")]
            assert row["value"] == f"{figure['value']:.6g}" and row["n"] == str(figure["n"])
    page = (results / "report.html").read_text()
    assert "ASR is 50.0% as trained" in page and "none of 2 attacks brings clearly more of the answers back" in page


def test_a_run_of_the_last_version_gets_its_model_card(tmp_path):
    shutil.copytree(STORED / "popd", tmp_path, dirs_exist_ok=True)
    (tmp_path / "adapter_model.safetensors").touch()
    text = card(tmp_path)
    assert "| ASR-Gen ↓ | val | 4.3 | 0.2–10.1 | 576 | rules | official |" in text and "library_name: peft" in text
