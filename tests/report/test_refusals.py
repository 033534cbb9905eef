"""What cannot be reported: bad files, folders and command lines end in one line that names the file and the key."""

import pytest
from helpers import run

from safeeraser.errors import BadInput
from safeeraser.report.page import report

from .made_up_audits import audit, controlled
from .made_up_runs import full_results, metric, summary, write

CLEAN = {"group": "clean", "subject": "told"}
BLUR = {"group": "attack", "name": "blur"}
SCORED = summary("val", 0.5, 0.5)


def points(*them, **more):
    return {"points": list(them), **more}


@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        ("summary_train.json", SCORED, "was scored on split 'val'"),
        ("summary_val.json", summary("val", 7, 0.1), "asr.value"),
        ("summary_val.json", SCORED | {"blank": {"forgot": {"value": 0.5}}}, "blank.forgot"),
        ("summary_val.json", SCORED | {"inputs": {"made_with": {"settings": 3}}}, "inputs.made_with.settings"),
        ("summary_val.json", SCORED | {"provenance": {"versions": 3}}, "provenance.versions"),
        ("probe.jsonl", [{"step": 0, "forget": {"refusal": 0.5}}], "0.forget.degenerate"),
        ("train_log.jsonl", [{"step": 1}], "0.loss"),
        ("run.json", {"title": ["X"]}, "title"),
        ("specificity.json", {"value": 61.0}, "value"),
        (
            "specificity.json",
            {"value": 0.5, "tasks": {"gqa": {"value": 61.0, "n": 1, "metric": "m"}}},
            "tasks.gqa.value",
        ),
        ("audit.json", "{", "not valid JSON"),
        ("audit.json", [], "Input should be"),
        ("audit.json", {}, "points"),
        ("audit.json", points({"group": "atack"}), "points.0.group"),
        ("audit.json", points({"group": "attack"}), "points.0: a point of the group attack needs 'name'"),
        ("audit.json", points({"group": "scaling"}), "points.0: a point of the group scaling needs 'at'"),
        (
            "audit.json",
            points({"group": "relearn_x", "name": "y"}),
            "points.0: a point of the group relearn_x needs 'at'",
        ),
        ("audit.json", points(BLUR | {"metrics": {"asr": {"value": 7}}}), "points.0.metrics.asr.value"),
        ("audit.json", points(BLUR | {"metrics": {"asr": 0.5}}), "points.0.metrics.asr"),
        ("audit.json", points(BLUR | {"refusals": {"forgot": metric(1)}}), "points.0.refusals.forgot"),
        ("audit.json", points({"group": "inside", "measures": {"gap": "much"}}), "points.0.measures.gap"),
        ("audit.json", points(BLUR, BLUR), "points: attack blur stands there more than once"),
        ("audit.json", points(CLEAN, CLEAN), "points: told clean stands there more than once"),
        ("audit.json", points(format=3), "format: 3 is of a later version; up to 2 is read"),
        ("audit.json", audit(relearning={"text": {"audited": {"steps_to": {}}}}), "relearning.text.audited.last"),
        ("audit.json", controlled(shares={"gap": 0.5}), "shares.gap"),
        ("audit.json", controlled(findings=[{"text": "So it is."}]), "findings.0.question"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_key(tmp_path, name, value, key):
    write(tmp_path / "popd", "summary_val.json", SCORED)
    write(tmp_path / "popd", name, value)
    with pytest.raises(BadInput) as refusal:
        report(tmp_path)
    assert str(refusal.value).startswith(str(tmp_path / "popd" / name)) and key in str(refusal.value)
    assert "\n" not in str(refusal.value) and not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["empty"], "empty: holds no run"),
        (["po", "popd"], "--out FILE"),
        (["po", "--out", "."], ".: is a folder; name a file"),
        (["po", "--out", "po/summary_val.json"], "--out po/summary_val.json: is there, and is no page"),
        ([], "--compare A B"),
        (["po", "--compare", "po", "popd"], "--compare A B"),
        (["--compare", "po", "popd", "--out", "x.html"], "po popd: no method is in both; there are PO and PO+PD"),
        (["--compare", "A", "B", "--out", "x.html"], "judged.json: not what eval_all.py writes"),
        (["--model_card"], "--model_card: name the run's folder"),
        (["po", "popd", "--model_card", "--push_to_hub", "me/popd"], "one for each place"),
        (["po", "--model_card", "--redact"], "--model_card: goes with RUN"),
        (["--compare", "po", "popd", "--model_card"], "--model_card: goes with RUN"),
        (["po", "--model_card", "--public"], "--public: goes with --push_to_hub"),
        (["po", "--overwrite"], "go with --model_card"),
        (["po", "--model_card"], "po: no finished run of forget.py"),
    ],
)
def test_a_command_line_that_cannot_be_meant_is_refused(tmp_path, words, names):
    for folder in ("po", "popd", "A/gd", "B/gd"):
        write(tmp_path / folder, "summary_val.json", SCORED | {"verdicts": "judged.json"})
        write(tmp_path / folder, "judged.json", [{"image_path": "a", "unsafe_pairs": 3}])
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    done = run("safeeraser.report", *words, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and names in done.stderr
    assert len(done.stderr.splitlines()) == 1 and sorted(tmp_path.rglob("*")) == before


def test_the_command_reports_runs_from_several_places(tmp_path):
    one, other = full_results(tmp_path / "one"), full_results(tmp_path / "other")
    out = tmp_path / "pages" / "both.html"
    words = [one / "popd", other, "--out", out, "--published", "--redact", "--note", "So far."]
    done = run("safeeraser.report", *words)
    assert done.returncode == 0, done.stderr
    names = {"both.html", "summary.json", "table.md", "table.csv", "table.tex", "plots"}
    assert {path.name for path in out.parent.iterdir()} == names and not (one / "popd" / "report.html").exists()
    assert "7B PO+PD" in done.stdout and f"So far.\nreport: {out}\n" in done.stdout
    assert "| PO+PD (one) |" in (out.parent / "table.md").read_text()
    assert run("safeeraser.report", other / "po", cwd=tmp_path).returncode == 0
    assert (other / "po" / "report.html").exists()
