"""Who judged the figures, when they may not be compared, and what a reader is warned of above all figures.

`made_up/judges.json` holds the cases: two runs' judges and whether they differ; and what is changed in the summaries of
runs, with the warnings.
"""

import json

import pytest

from safeeraser.report.methods import group_runs
from safeeraser.report.read import read_runs
from safeeraser.report.sources import judges_of, warnings

from .made_up_runs import MADE_UP, metric, summary, write

CASES = json.loads((MADE_UP / "judges.json").read_text())


def judged(folder, run, title="openai:gpt-4o", models=("gpt-4o-2024-08-06",), **more):
    """A run that the judge of that title scored, as which these models answered."""
    asr = metric(0.5, 0.4, 0.6, judge=title)
    told = [{"judge": title, "model": model, "fingerprint": None, "replies": 3} for model in models]
    told += [{"judge": "of another metric", "model": "rules", "fingerprint": "fp_1", "replies": 9}]
    write(folder / run, "summary_val.json", summary("val", asr, metric(0.5), answered_by=told, **more))


def warned(folder):
    found = group_runs(read_runs([folder]))
    runs = [run for method in found for run in method.seeds]
    return warnings([method.run for method in found], runs, judges_of(runs))


@pytest.mark.parametrize(("one", "other", "different"), CASES["pairs"])
def test_which_judges_are_the_same(tmp_path, one, other, different):
    judged(tmp_path, "po", **one)
    judged(tmp_path, "popd", **other)
    assert ("asr" in judges_of(read_runs([tmp_path])).different) is different
    assert not different or "do not compare" in warned(tmp_path)[0]


@pytest.mark.parametrize(("summaries", "expected"), CASES["warnings"])
def test_what_a_reader_is_warned_of(tmp_path, summaries, expected):
    for run, changes in summaries.items():
        split = changes.get("split", "val")
        write(tmp_path / run, f"summary_{split}.json", summary(split, 0.5, 0.5) | changes)
    assert warned(tmp_path) == expected
