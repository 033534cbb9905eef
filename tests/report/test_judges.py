"""Who judged: which models answered, and when the page says that figures do not compare."""

import pytest

from safeeraser.report.judges import judges
from safeeraser.report.page import report
from safeeraser.report.runs import read_runs

from .made_up_runs import metric, summary, write

MAY, AUGUST = "gpt-4o-2024-05-13", "gpt-4o-2024-08-06"


def judged(folder, run, title="openai:gpt-4o", models=(AUGUST,), **more):
    """A run that the judge of that title scored, as which these models answered."""
    asr = metric(0.5, 0.4, 0.6, judge=title)
    told = [{"judge": title, "model": model, "fingerprint": None, "replies": 3} for model in models]
    told += [{"judge": "of another metric", "model": "rules", "fingerprint": "fp_1", "replies": 9}]
    write(folder / run, "summary_val.json", summary("val", asr, metric(0.5), answered_by=told, **more))


def told(folder):
    return judges(read_runs([folder]))


def test_the_models_that_answered_are_named(tmp_path):
    judged(tmp_path, "po")
    judged(tmp_path, "popd")
    found = told(tmp_path)
    assert found.told["asr"] == [f"protocol official, judge openai:gpt-4o, answered by {AUGUST}"]
    assert found.different == [] and found.mixed == []
    report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert f"<li>ASR: protocol official, judge openai:gpt-4o, answered by {AUGUST}</li>" in page
    assert "do not compare" not in page and "several models" not in page


def test_one_judge_answered_as_different_models_in_two_runs(tmp_path):
    judged(tmp_path, "po", models=[MAY])
    judged(tmp_path, "popd", models=[AUGUST])
    assert told(tmp_path).different == ["asr"]
    report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "do not compare with each other" in page and f"answered by {MAY}; protocol" in page


def test_one_figure_of_several_models(tmp_path):
    judged(tmp_path, "popd", models=[AUGUST, MAY])
    assert told(tmp_path).mixed == [f"PO+PD on val, openai:gpt-4o as {MAY} and {AUGUST}"]
    report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert f"of no one judge: PO+PD on val, openai:gpt-4o as {MAY} and {AUGUST}." in page
    assert "do not compare" not in page


@pytest.mark.parametrize(
    ("one", "other", "different"),
    [
        # The alias and the model that it stands for.
        ({}, {"title": f"openai:{AUGUST}"}, False),
        # An earlier version did not tell; nor did it name a judge beside each figure.
        ({}, {"models": ()}, False),
        ({}, {"title": None, "models": (), "judge": "openai", "judge_model": "gpt-4o"}, False),
        ({"models": ()}, {"title": "openai:gpt-4o-mini", "models": ()}, True),
        # The same model asked in another judge's words.
        ({}, {"title": "llamaguard:gpt-4o"}, True),
        ({}, {"protocol": "corrected"}, True),
        ({}, {"title": "rules", "models": ()}, True),
    ],
)
def test_which_judges_are_the_same(tmp_path, one, other, different):
    judged(tmp_path, "po", **one)
    judged(tmp_path, "popd", **other)
    assert ("asr" in told(tmp_path).different) is different


@pytest.mark.parametrize("title, key", [("openai:gpt-4o", "prompts"), ("rules", "rules")])
def test_other_prompts_or_rules_are_another_judge(tmp_path, title, key):
    judged(tmp_path, "po", title, models=(), **{key: "aaa"})
    judged(tmp_path, "popd", title, models=(), **{key: "aaa"})
    assert told(tmp_path).told["asr"] == [f"protocol official, judge {title}, version aaa"]
    assert told(tmp_path).different == []
    judged(tmp_path, "popd", title, models=(), **{key: "bbb"})
    assert "asr" in told(tmp_path).different
