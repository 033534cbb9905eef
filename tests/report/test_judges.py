"""Who judged the figures, when they may not be compared, and what a reader is warned of above all figures."""

import pytest

from safeeraser.report.judges import judges
from safeeraser.report.provenance import warnings
from safeeraser.report.runs import read_runs
from safeeraser.report.seeds import methods

from .made_up_runs import metric, summary, write

MAY, AUGUST = "gpt-4o-2024-05-13", "gpt-4o-2024-08-06"
RIGHT = {"n": 60, "right": 57, "sensitivity": {"value": 0.9}, "specificity": {"value": 1.0}, "at": "2026-01-01"}
CHECK = {metric: {"judge": "rules", **RIGHT, "cases": "0123456789ab"} for metric in ("asr", "rr", "sarr")}


def judged(folder, run, title="openai:gpt-4o", models=(AUGUST,), **more):
    """A run that the judge of that title scored, as which these models answered."""
    asr = metric(0.5, 0.4, 0.6, judge=title)
    told = [{"judge": title, "model": model, "fingerprint": None, "replies": 3} for model in models]
    told += [{"judge": "of another metric", "model": "rules", "fingerprint": "fp_1", "replies": 9}]
    write(folder / run, "summary_val.json", summary("val", asr, metric(0.5), answered_by=told, **more))


def told(folder):
    return judges(read_runs([folder]))


def warned(folder):
    found = methods(read_runs([folder]))
    return warnings(found, judges([run for method in found for run in method.seeds]))


@pytest.mark.parametrize(
    ("one", "other", "different"),
    [
        ({}, {}, False),
        # The alias and the model that it stands for.
        ({}, {"title": f"openai:{AUGUST}"}, False),
        # An earlier version did not tell; nor did it name a judge beside each figure.
        ({}, {"models": ()}, False),
        ({}, {"title": None, "models": (), "judge": "openai", "judge_model": "gpt-4o"}, False),
        ({"models": ()}, {"title": "openai:gpt-4o-mini", "models": ()}, True),
        ({"models": [MAY]}, {"models": [AUGUST]}, True),
        # The same model asked in another judge's words.
        ({}, {"title": "llamaguard:gpt-4o"}, True),
        ({}, {"protocol": "corrected"}, True),
        ({}, {"title": "rules", "models": ()}, True),
        # Other prompts, rules or versions of a guard are another judge; those of a judge that was not asked are none.
        ({"prompts": "a", "rules": "a"}, {"prompts": "a", "rules": "b"}, False),
        ({"prompts": "a"}, {"prompts": "b"}, True),
        ({"title": "rules", "models": (), "rules": "a"}, {"title": "rules", "models": (), "rules": "b"}, True),
        ({"title": "truth", "models": (), "truth": "a"}, {"title": "truth", "models": (), "truth": "b"}, True),
        ({"title": "g:x", "guards": {"g": "a"}}, {"title": "g:x", "guards": {"g": "b"}}, True),
    ],
)
def test_which_judges_are_the_same(tmp_path, one, other, different):
    judged(tmp_path, "po", **one)
    judged(tmp_path, "popd", **other)
    assert ("asr" in told(tmp_path).different) is different
    assert not different or "do not compare" in warned(tmp_path)[0]


def test_judge_version_and_models_are_named(tmp_path):
    judged(tmp_path, "po", prompts="aaa", models=[AUGUST, MAY])
    found = told(tmp_path)
    models = f"{MAY} and {AUGUST}"
    assert found.told["asr"] == [f"protocol official, judge openai:gpt-4o, version aaa, answered by {models}"]
    assert found.mixed == [f"PO on val, openai:gpt-4o as {models}"] and found.different == []
    assert warned(tmp_path)[0].endswith(f"these figures are of no one judge: PO on val, openai:gpt-4o as {models}.")


def test_specificity_of_different_kinds_does_not_compare(tmp_path):
    for run, kind in (("po", "mean of 2 tasks"), ("popd", "mini VQA"), ("gd", "")):
        judged(tmp_path, run)
        write(tmp_path / run, "specificity.json", {"value": 0.5, "n": 20, "task": kind})
    assert told(tmp_path).different == ["specificity"]
    assert told(tmp_path).told["specificity"] == ["mean of 2 tasks", "mini VQA"]
    write(tmp_path / "popd", "specificity.json", {"value": None, "n": 20, "task": "mini VQA"})
    assert told(tmp_path).different == []


UNCHECKED = "The judge{} was never checked on cases whose verdict is known, as far as is told."
OTHER = metric(0.5, judge="openai:a")
HALF = CHECK | {"sarr": None}
PART = {"provenance": {"data_sha256": "0"}, "judge_check": CHECK}
DATA = "These figures were scored on different data or categories and do not compare with each other."
BLANK = {"blank": {"forget": metric(0.25), "retain": metric(0.5)}, "judge_check": CHECK}


@pytest.mark.parametrize(
    ("summaries", "expected"),
    [
        ({"po": summary("val", 0.5, 0.5)}, [UNCHECKED.format("")]),
        # A judge that knows the answers need not be checked.
        ({"po": summary("val", 0.5, 0.5, judge="truth")}, []),
        # One that was checked after some of its figures were made, and before others, was; by its version it is known.
        (
            {
                "po": summary("val", 0.5, 0.5, rules="1"),
                "popd": summary("val", 0.5, 0.5, rules="1", judge_check=CHECK),
            },
            [],
        ),
        (
            {
                "po": summary("val", 0.5, 0.5, rules="2"),
                "popd": summary("val", 0.5, 0.5, rules="1", judge_check=CHECK),
            },
            [None, UNCHECKED.format(" of PO")],
        ),
        # Each metric may have a judge of its own.
        (
            {
                "po": summary("train", 0.5, OTHER, sarr=OTHER, judge_check=HALF | {"rr": None}),
                "popd": summary("val", 0.5, OTHER, judge_check=CHECK | {"rr": None}),
            },
            [None, UNCHECKED.format(" of PO (RR, SARR), PO+PD (RR)")],
        ),
        ({"po": summary("val", 0.5, 0.5, **PART), "popd": summary("val", 0.5, 0.5, **PART)}, []),
        (
            {"po": summary("val", 0.5, 0.5, **PART), "popd": summary("val", 0.5, 0.5, category="Privacy", **PART)},
            [DATA],
        ),
        (
            {
                "po": summary("val", 0.5, 0.5, **PART),
                "popd": summary("val", 0.5, 0.5, **PART | {"provenance": {"data_sha256": "1"}}),
            },
            [DATA],
        ),
        # Other splits are other data, of which nobody is warned.
        (
            {
                "po": summary("val", 0.5, 0.5, **PART),
                "popd": summary("train", 0.5, 0.5, **PART | {"provenance": {"data_sha256": "1"}}),
            },
            [],
        ),
        (
            {"ga": summary("val", 0.5, metric(None, withheld="3.1% failed"), **BLANK)},
            ["Withheld: RR-Gen of GA; the table says why.", "Blank responses: GA 50.0% in the view retain."],
        ),
        # As many as a figure may do without, by default or as it was scored.
        ({"po": summary("val", 0.5, 0.5, judge_check=CHECK, blank={"forget": metric(0.01)})}, []),
        ({"po": summary("val", 0.5, 0.5, max_blank=0.5, **BLANK)}, []),
    ],
)
def test_what_a_reader_is_warned_of(tmp_path, summaries, expected):
    for run, value in summaries.items():
        write(tmp_path / run, f"summary_{value['split']}.json", value)
    found = warned(tmp_path)
    assert len(found) == len(expected)
    assert all(text in (None, one) for text, one in zip(expected, found, strict=True)), found


def test_of_many_only_some_are_named(tmp_path):
    for run in range(8):
        gone = summary("val", 0.5, metric(None, withheld="3.1% failed"), judge_check=CHECK)
        write(tmp_path / f"r{run}", "summary_val.json", gone)
    named = ", ".join(f"RR-Gen of r{run}" for run in range(6))
    assert warned(tmp_path) == [f"Withheld: {named} and 2 more; the table says why."]
