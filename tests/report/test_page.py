"""The report, from run folders made up by hand."""

import csv
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from safeeraser.errors import BadInput
from safeeraser.report.page import report

from .made_up_runs import metric, summary
from .made_up_runs import write as write_file


@pytest.fixture
def results(tmp_path):
    def write(run, name, value):
        write_file(tmp_path / run, name, value)

    write("vanilla", "summary_val.json", summary("val", 1.0, 0.0, sarr=0.0))
    write("popd", "summary_train.json", summary("train", 0.01, 0.99, sarr=0.9))
    write("popd", "summary_val.json", summary("val", 0.02, 0.98, sarr=0.27, gpt=0.75))
    write("popd", "specificity.json", {"value": 0.5, "n": 100})
    rows = [{"step": i, "loss": 2.0 / i, "grad_norm": 1.0, "learning_rate": 1e-4, "terms": {"nll": i}} for i in (1, 2)]
    write("popd", "train_log.jsonl", rows)
    write("<b>mine", "summary_val.json", summary("val", None, None))
    write("notes", "readme.txt", "no run")
    return tmp_path


def test_summary_json_has_every_leaf(results):
    report(results)
    runs = json.loads((results / "summary.json").read_text())["runs"]
    assert list(runs) == ["vanilla", "popd", "<b>mine"]
    assert runs["popd"] == {
        "efficacy": {"asr": 0.01, "rr": 0.99},
        "generality": {"asr": 0.02, "rr": 0.98},
        "sarr": 0.27,
        "rouge_l": 0.25,
        "gpt_eval": 0.75,
        "specificity": 0.5,
    }
    assert runs["vanilla"]["efficacy"] == {"asr": None, "rr": None} and runs["vanilla"]["specificity"] is None


class Page(HTMLParser):
    """The cells of each row, the ids, and whatever a page might fetch."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.ids, self.fetched = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.fetched += [attrs[key] for key in ("src", "href", "xlink:href") if not attrs.get(key, "#").startswith("#")]
        if tag == "tr":
            self.rows.append([])

    def handle_data(self, data):
        if self.rows and data.strip():
            self.rows[-1].append(data.strip())


def test_the_page_stands_alone_and_shows_both_tables(results):
    report(results, note="A demonstration <only>.")
    text = (results / "report.html").read_text()
    page = Page(text)
    heads = ["ASR-Gen ↓", "SARR ↓", "ROUGE ↑", "ASR-Eff ↓", "RR-Eff ↑", "RR-Gen ↑", "GPT ↑", "Spec ↑"]
    start = page.rows.index(["method", *heads])
    assert [row[:9] for row in page.rows[start + 1 : start + 4]] == [  # best first
        ["PO+PD", "2.0", "27.0", "25.0", "1.0", "99.0", "98.0", "75.0", "50.0"],
        ["vanilla", "100.0", "0.0", "25.0", "–", "–", "0.0", "–", "–"],
        ["<b>mine", "–", "50.0", "25.0", "–", "–", "–", "–", "–"],
    ]
    assert ["7B PO+PD", "0.2", "100.0", "0.2", "99.7", "65.4", "86.2", "64.4", "30.3"] in page.rows
    assert page.fetched == [] and len(page.ids) == len(set(page.ids))
    assert "A demonstration &lt;only&gt;." in text and "&lt;b&gt;mine" in text and "<b>" not in text
    labels = re.findall(r'<svg [^>]*role="img" aria-label="([^"]+)"', text)
    assert len(labels) == 2 and "PO+PD: ASR 2.0, SARR 27.0, ROUGE-L 25.0; vanilla: ASR 100.0" in labels[0]
    assert "from 2 at step 1 to 1 at step 2" in labels[1]
    drawn = {"forest.svg", "training_popd.png"}
    assert {path.name for path in (results / "plots").iterdir()} == drawn


def test_intervals_failures_and_withheld_figures(results):
    known = {"asr": metric(0.02, 0.01, 0.0349, failed=3, unparsed=1), "rr": metric(None, withheld="3.1% failed")}
    write_file(results / "popd", "summary_val.json", summary("val", **known))
    report(results)
    row = next(row for row in Page((results / "report.html").read_text()).rows if row[:1] == ["PO+PD"])
    assert row[:7] == ["PO+PD", "2.0", "95% interval", "1.0–3.5", "3 failed", "1 unparsed", "50.0"]
    assert row[7:12] == ["25.0", "1.0", "99.0", "withheld", "3.1% failed"]
    page = (results / "report.html").read_text()
    assert "PO+PD: ASR 2.0 (1.0 to 3.5), SARR 50.0" in re.search(r'aria-label="(Forest plot[^"]+)"', page)[1]
    assert "<p>Withheld: RR-Gen of PO+PD; the table says why.</p>" in page
    assert json.loads((results / "summary.json").read_text())["runs"]["popd"]["generality"] == {"asr": 0.02, "rr": None}


def test_runs_from_several_places_go_to_the_page_that_is_named(results, tmp_path_factory):
    other = tmp_path_factory.mktemp("seed1")
    write_file(other / "popd", "summary_val.json", summary("val", 0.5, 0.5))
    out = other / "pages" / "both.html"
    report(results, other / "popd", other, out=out)
    assert {path.name for path in out.parent.iterdir()} == {
        "both.html", "summary.json", "table.md", "table.csv", "table.tex", "plots"
    }  # fmt: skip
    assert not (results / "report.html").exists()
    names = list(json.loads((out.parent / "summary.json").read_text())["runs"])
    assert names == ["vanilla", f"{results.name}/popd", f"{other.name}/popd", "<b>mine"]
    titles = [row[0] for row in Page(out.read_text()).rows]
    assert f"PO+PD ({other.name})" in titles and f"PO+PD ({results.name})" in titles
    with pytest.raises(BadInput, match="say with --out FILE"):
        report(results, other)


def test_a_method_says_its_own_title(tmp_path):
    """Methods in the paper's order, whatever their folders are called; others by name; the same title told apart."""
    for run, title in (("mine", "Mine"), ("a_run", "PO+PD"), ("other", None), ("popd", None), ("gd", "GD"), ("x", "X")):
        write_file(tmp_path / run, "summary_val.json", summary("val", 0.5, 0.5))
        write_file(tmp_path / run, "run.json", {"settings": {}, **({"title": title} if title else {})})
    write_file(tmp_path / "vanilla", "summary_val.json", summary("val", 1.0, 0.0))
    report(tmp_path)
    with open(tmp_path / "table.csv", encoding="utf-8", newline="") as handle:
        titles = [row["method"] for row in csv.DictReader(handle)]
    assert titles == ["vanilla", "GD", "PO+PD (a_run)", "PO+PD (popd)", "Mine", "other", "X"]
    names = ["vanilla", "gd", "a_run", "popd", "mine", "other", "x"]
    assert list(json.loads((tmp_path / "summary.json").read_text())["runs"]) == names
    write_file(tmp_path / "x", "run.json", {"title": ["X"]})
    with pytest.raises(BadInput, match=r"run\.json: title: "):
        report(tmp_path)


def test_one_run_folder_is_reported_into_itself(results):
    report(results / "popd")
    assert (results / "popd" / "report.html").exists()
    assert list(json.loads((results / "popd" / "summary.json").read_text())["runs"]) == ["popd"]


def test_the_same_runs_give_the_same_bytes(results):
    report(results)
    first = {path: path.read_bytes() for path in (results / "report.html", *(results / "plots").iterdir())}
    report(results)
    assert all(path.read_bytes() == content for path, content in first.items())


def test_different_judges_are_pointed_out(results):
    report(results)
    assert "do not compare" not in (results / "report.html").read_text()
    (results / "vanilla" / "summary_val.json").write_text(
        json.dumps(summary("val", 1.0, 0.0, judge="gpt-4o", judge_model="gpt-4o"))
    )
    report(results)
    for name in ("report.html", "table.md", "table.tex"):
        assert "do not compare" in (results / name).read_text()
    assert "- ASR: protocol official, judge gpt-4o:gpt-4o; protocol" in (results / "table.md").read_text()


def test_the_terminal_table(results, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    report(results, note="A demonstration.")
    shown = capsys.readouterr().out
    assert re.search(r"PO\+PD .* 1\.0 .* 99\.0 .* 27\.0", shown) and "A demonstration." in shown
    assert "published" not in shown
    report(results, published=True)
    assert re.search(r"published:.*7B PO\+PD ", capsys.readouterr().out, re.DOTALL)


def test_the_terminal_table_fits_eighty_columns(results, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    report(results, published=True)
    shown = capsys.readouterr().out
    assert "…" not in shown and re.search(r"7B PO\+PD, SineProject .* 25\.8", shown)


def test_what_cannot_be_reported(results, tmp_path_factory):
    with pytest.raises(BadInput, match="holds no run"):
        report(tmp_path_factory.mktemp("empty"))
    (results / "popd" / "summary_train.json").write_text(json.dumps(summary("val", 0.1, 0.1)))
    with pytest.raises(BadInput, match=r"summary_train\.json: was scored on split 'val'"):
        report(results)
    (results / "popd" / "summary_train.json").write_text(json.dumps(summary("train", 7, 0.1)))
    with pytest.raises(BadInput, match=r"summary_train\.json: asr\.value"):
        report(results)
    assert not (results / "report.html").exists()
    with pytest.raises(BadInput, match=r"probe\.jsonl: 0\.forget\.degenerate"):
        write_file(results / "vanilla", "probe.jsonl", [{"step": 0, "forget": {"refusal": 0.5}}])
        report(results / "vanilla")
    write_file(
        results / "popd", "summary_train.json", summary("train", 0.5, 0.1, inputs={"made_with": {"settings": 3}})
    )
    with pytest.raises(BadInput, match=r"summary_train\.json: inputs\.made_with\.settings: "):
        report(results)
    write_file(results / "popd", "summary_train.json", summary("train", 0.5, 0.1, provenance={"versions": 3}))
    with pytest.raises(BadInput, match=r"summary_train\.json: provenance\.versions: "):
        report(results)
    with pytest.raises(BadInput, match=r"summary_val\.json: is there, and is no page"):
        report(results / "vanilla", out=results / "vanilla" / "summary_val.json")
    with pytest.raises(BadInput, match="is a folder; name a file"):
        report(results, out=results)


def test_the_command(results):
    command = [sys.executable, "-m", "safeeraser.report"]
    run = subprocess.run([*command, results / "nowhere"], capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr == f"error: {results / 'nowhere'}: no such folder\n"
    assert subprocess.run([*command, results, "--published"], capture_output=True).returncode == 0
    out = results / "pages" / "one.html"
    assert subprocess.run([*command, results / "popd", results / "vanilla", "--out", out]).returncode == 0
    assert out.exists()
