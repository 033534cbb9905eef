"""Bad files, folders and command lines end in one line that names the file and the key.

`made_up/refusals.json` holds the cases: a file, its content (for a summary, the changes to it) and the key that the
line names; and words of the command with the text that the line contains.

And from eval_all.py to the page: the report reads the figures that scoring writes about labels.
"""

import csv
import json
import re
import shlex
from html import unescape

import pytest
from helpers import ROOT, ran, refused, run
from score.labelled import fill_in, rows_of
from scoring import predicted, record, run_eval, write_files

from safeeraser.errors import BadInput
from safeeraser.report.page import report

from .made_up_runs import MADE_UP, full_results, metric, seeded_results, summary, write

CASES = json.loads((MADE_UP / "refusals.json").read_text())
PAGE = (ROOT / "docs" / "guides" / "publish.md").read_text().partition("\n## Read it\n")[0]
SCORED = summary("val", 0.5, 0.5)


@pytest.mark.parametrize(("name", "value", "key"), CASES["files"])
def test_a_file_that_cannot_be_used_is_named_with_its_key(tmp_path, name, value, key):
    write(tmp_path / "popd", "summary_val.json", SCORED)
    write(tmp_path / "popd", name, SCORED | value if name.startswith("summary") else value)
    with pytest.raises(BadInput) as refusal:
        report(tmp_path)
    assert str(refusal.value).startswith(str(tmp_path / "popd" / name)) and key in str(refusal.value)
    assert "\n" not in str(refusal.value) and not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(("words", "names"), CASES["words"])
def test_a_command_line_that_cannot_be_meant_is_refused(tmp_path, words, names):
    for folder in ("po", "popd", "A/gd", "B/gd"):
        write(tmp_path / folder, "summary_val.json", SCORED | {"verdicts": "judged.json"})
        write(tmp_path / folder, "judged.json", [{"image_path": "a", "unsafe_pairs": 3}])
    (tmp_path / "empty").mkdir()
    refused(tmp_path, "safeeraser.report", *words.split(), cwd=tmp_path, says=names)


def test_the_command_reports_runs_from_several_places(tmp_path):
    one, other = full_results(tmp_path / "one"), full_results(tmp_path / "other")
    out = tmp_path / "pages" / "both.html"
    done = ran("safeeraser.report", one / "popd", other, "--out", out, "--published", "--redact", "--note", "So far.")
    assert (out.parent / "summary.json").is_file() and not (one / "popd" / "report.html").exists()
    assert "7B PO+PD" in done.stdout and f"So far.\nreport: {out}\n" in done.stdout
    assert "| PO+PD (one) |" in (out.parent / "table.md").read_text()
    done = run("safeeraser.report", one / "po", "--out", out)
    assert "GPT" not in done.stdout and "GPT" in (out.parent / "table.md").read_text(), "nobody measured it"


@pytest.mark.slow
def test_every_command_of_the_page_runs(tmp_path):
    """The commands of docs/guides/publish.md, as they are written there."""
    seeded_results(tmp_path / "results")
    for name in ("llava-1.5-7b", "before", "after"):
        full_results(tmp_path / "results" / name)
    commands = re.findall(r"^ {4}python -m (safeeraser\.report) (.*)$", PAGE, re.MULTILINE)
    assert len(commands) == 3
    for command, words in commands:
        ran(command, *shlex.split(words), cwd=tmp_path)
    assert all((tmp_path / one / "report.html").is_file() for one in ("results/llava-1.5-7b", "results", "compared"))


def test_how_long_and_how_fast_each_method_was_trained(tmp_path):
    for name, steps in (("po", None), ("popd", 400)):
        settings = {"lr": 1e-3, "num_epochs": 2, "max_train_steps": steps}
        write(tmp_path / name, "summary_val.json", SCORED)
        write(tmp_path / name, "run.json", {"settings": settings})
    report(tmp_path)
    assert "PO: lr 0.001, 2 epochs; PO+PD: lr 0.001, 400 steps</dd>" in (tmp_path / "report.html").read_text()


def test_held_out_concepts_stand_apart_and_in_the_first_sentences(tmp_path):
    of = {"asr": {"shown": metric(0.01, 0.0, 0.1), "held-out": metric(0.44, 0.2, 0.6)}}
    known = summary("val", metric(0.1, 0.05, 0.2), 0.9, sarr=metric(0.1, 0.05, 0.2), by_concept=of)
    write(tmp_path / "popd", "summary_val.json", known)
    write(tmp_path / "po", "summary_val.json", SCORED)
    report(tmp_path)
    text = (tmp_path / "report.html").read_text()
    finding = text.partition('class="finding">')[2].partition("</p>")[0]
    assert "PO+PD forgets" in finding
    assert "On held-out concepts alone: PO+PD ASR 44.0% (20.0–60.0), SARR not measured." in finding
    assert text.count("<h3>Concepts shown in training, and held-out ones</h3>") == 1
    with open(tmp_path / "table.csv", encoding="utf-8", newline="") as handle:
        rows = {row["method"]: row for row in csv.DictReader(handle)}
    assert (rows["PO+PD"]["asr_shown_value"], rows["PO+PD"]["asr_held_out_high"]) == ("1", "60")
    assert rows["PO"]["asr_held_out_value"] == "", "scored without a training file beside"


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
