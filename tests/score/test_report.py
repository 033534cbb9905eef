"""The report, from run folders made up by hand."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from safeeraser.errors import BadInput
from safeeraser.score.report import report


def summary(split, asr, rr, sarr=0.5, rouge=0.25, gpt=None, **more):
    values = {"asr": asr, "rr": rr, "sarr": sarr, "rouge_l": rouge, "gpt_eval": gpt}
    metrics = {name: {"value": value, "n": 4, "failed": 0, "skipped": 0} for name, value in values.items()}
    return {"split": split, **metrics, "protocol": "official", "judge": "rules", "judge_model": None, **more}


@pytest.fixture
def results(tmp_path):
    def write(run, name, value):
        (tmp_path / run).mkdir(exist_ok=True)
        (tmp_path / run / name).write_text(value if isinstance(value, str) else json.dumps(value))

    write("vanilla", "summary_val.json", summary("val", 1.0, 0.0, sarr=0.0))
    write("popd", "summary_train.json", summary("train", 0.01, 0.99, sarr=0.9))
    write("popd", "summary_val.json", summary("val", 0.02, 0.98, sarr=0.27, gpt=0.75))
    write("popd", "specificity.json", {"value": 0.5, "n": 100})
    rows = [{"step": i, "loss": 2.0 / i, "grad_norm": 1.0, "learning_rate": 1e-4, "terms": {"nll": i}} for i in (1, 2)]
    write("popd", "train_log.jsonl", "\n".join(map(json.dumps, rows)))
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
    assert ["PO+PD", "1.0", "99.0", "2.0", "98.0", "25.0", "75.0", "50.0", "27.0"] in page.rows
    assert ["vanilla", "–", "–", "100.0", "0.0", "25.0", "–", "–", "0.0"] in page.rows
    assert ["7B PO+PD", "0.2", "100.0", "0.2", "99.7", "65.4", "86.2", "64.4", "30.3"] in page.rows
    assert page.fetched == [] and len(page.ids) == len(set(page.ids))
    assert "A demonstration &lt;only&gt;." in text and "&lt;b&gt;mine" in text and "<b>" not in text
    labels = re.findall(r'<svg [^>]*role="img" aria-label="([^"]+)"', text)
    assert len(labels) == 2 and "PO+PD: ASR 2, SARR 27" in labels[0] and "from 2 at step 1 to 1 at step 2" in labels[1]
    assert {path.name for path in (results / "plots").iterdir()} == {"forgetting.png", "training_popd.png"}


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
    assert "do not compare" in (results / "report.html").read_text()


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


def test_the_command(results):
    command = [sys.executable, "-m", "safeeraser.score.report"]
    run = subprocess.run([*command, results / "nowhere"], capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr == f"error: {results / 'nowhere'}: no such folder\n"
    assert subprocess.run([*command, results, "--published"], capture_output=True).returncode == 0
