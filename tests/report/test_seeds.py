"""Runs that differ by their seeds alone are one row: the mean, and an interval over seeds and pictures.

Runs that differ in more, or are not known to be the same, stay apart. Further: the order of the lines and the sentence
above them (`made_up/ranking.json`), and the judges and warnings that come above all figures (`made_up/judges.json`).
"""

import json

import numpy as np
import pytest
from helpers import read_beside

from safeeraser.benchmark.figures import Row
from safeeraser.benchmark.intervals import spread
from safeeraser.report.methods import group_runs, join_seeds
from safeeraser.report.read import read_runs
from safeeraser.report.sources import judges_of, warnings
from safeeraser.report.tables import headline, rank
from safeeraser.report.writing import Line

from .made_up_runs import MADE_UP, change, metric, seeded_results, summary, write

SENTENCES, JUDGES = (json.loads((MADE_UP / name).read_text("utf-8")) for name in ("ranking.json", "judges.json"))
T2, T3 = 12.706204736174694, 4.302652729911275  # the 97.5% points of Student's t with one and two degrees of freedom


def test_the_interval_is_over_seeds_and_pictures():
    low, high = spread([(0.10, 0.05, 0.15), (0.12, 0.07, 0.17), (0.14, 0.09, 0.19)], 0.0)
    between = T3 * 0.02 / 3**0.5
    assert (low, high) == pytest.approx((0.12 - np.hypot(0.05, between), 0.12 + np.hypot(0.05, between)))
    # Half widths are averaged separately for each side. Two seeds have one degree of freedom.
    between = T2 * 0.02  # half of the difference between the two
    low, high = spread([(0.48, 0.38, 0.68), (0.52, 0.50, 0.62)], 0.0)
    assert (low, high) == pytest.approx((0.5 - np.hypot(0.06, between), 0.5 + np.hypot(0.15, between)))
    # Seeds that agree leave the interval over pictures as it is: they all answered about the same pictures.
    assert spread([(0.5, 0.4, 0.7)] * 3, 0.0) == pytest.approx((0.4, 0.7))
    assert spread([(0.01, 0.0, 0.05), (0.3, 0.2, 0.4)], 0.0)[0] == 0.0
    assert spread([(0.99, 0.9, 1.0), (0.7, 0.6, 0.8)], 0.0)[1] == 1.0


def test_figures_are_joined_as_far_as_they_stand():
    one = Row(value=0.5, low=0.4, high=0.6, n=4, failed=1, judge="rules")
    other = Row(value=0.52, low=0.42, high=0.62, n=5, failed=2)
    both = join_seeds([one, other])
    assert both.value == pytest.approx(0.51) and (both.n, both.failed, both.judge) == (9, 3, "rules")
    assert (both.low, both.high) == pytest.approx((0.51 - np.hypot(0.1, T2 / 100), 0.51 + np.hypot(0.1, T2 / 100)))
    assert join_seeds([one, Row(value=0.3)]).range == "", "an interval that lacks a seed's part would be too narrow"
    half = join_seeds([one, Row(value=None)])
    assert half.value == 0.5 and half.range == "40.0–60.0" and half.remarks == ["1 of 2 seeds", "1 failed"]
    assert join_seeds([one, Row(value=None, withheld="3% failed")]).withheld == "withheld of 1 of 2 seeds"


def titles(folder):
    """Title and number of seeds of each row but vanilla's."""
    found = group_runs(read_runs([folder]))
    return [(one.run.title, len(one.seeds)) for one in found if one.name != "vanilla"]


@pytest.mark.parametrize(
    ("name", "changes", "rows"),
    read_beside(__file__, "made_up/seeds.yaml")["rows"],
)
def test_what_differs_by_more_than_its_seed_is_another_row(tmp_path, name, changes, rows):
    seeded_results(tmp_path, seeds=(0, 1))
    change(tmp_path / "seed1" / "popd", name, **changes)
    assert titles(tmp_path) == [("PO", 2), *map(tuple, rows)]


def test_sets_of_the_same_name_are_told_apart_by_paths_from_here(tmp_path, monkeypatch):
    """Absolute paths would put a user's name into files that are handed on."""
    for place in ("a", "b"):
        seeded_results(tmp_path / place, seeds=(0,))
    monkeypatch.chdir(tmp_path)
    names = {run.name for run in read_runs([tmp_path / "a" / "seed0", tmp_path / "b" / "seed0"])}
    assert {"a/seed0/popd", "b/seed0/popd"} <= names


def line(name, asr, sarr, rouge, half=0.02, **more):
    """A line whose figures have intervals of `half` to each side; for None there is no figure."""
    known = {}
    for key, value in ({"asr_gen": asr, "sarr": sarr, "rouge_l": rouge} | more).items():
        interval = {"low": max(0, value - half), "high": min(1, value + half)} if half and value is not None else {}
        known |= {key: Row(metric=key, value=value, **interval)} if value is not None else {}
    return Line(name, known)


def test_who_forgets_comes_first_then_who_over_forgets_then_who_does_not():
    """Half of the untouched model's ASR of 0.8 is 0.4, which is within the interval of d."""
    lines = [
        line("vanilla", 0.8, 0.01, 0.9),
        line("c", 0.7, 0.3, 0.9),
        line("d", 0.39, 0.1, 0.9),
        line("none", None, 0, 1),
    ]
    lines += [line("over", 0.0, 0.9, 0.9), line("b", 0.3, 0.1, 0.6), line("a", 0.1, 0.2, 0.7)]
    ranking = rank(lines, [line("p", 0.5, 0.5, 0.5, half=0), line("q", 0, 0, 1, half=0)])
    assert [one.name for one in ranking.rows] == ["a", "b", "over", "c", "vanilla", "none", "d"]
    assert [one.name for one in ranking.published] == ["q", "p"] and ranking.utility == "rouge_l"
    assert "ASR 40.0%" in ranking.rule
    # Utility is the metric that most lines have.
    ranking = rank([line("a", 0.1, 0.1, None, specificity=0.5), line("b", 0.1, 0.1, 0.7, specificity=0.6)], [])
    assert ranking.utility == "specificity" and "ASR 50.0%" in ranking.rule
    # ASR on the training questions replaces a missing ASR, but not a withheld one.
    known = {"asr_eff": Row(value=0.2, low=0.1, high=0.3), "sarr": Row(value=0, low=0, high=0.1)}
    gone = known | {"asr_gen": Row(withheld="3% failed")}
    ranking = rank([Line("gone", gone), Line("a", known)], [])
    assert [one.name for one in ranking.rows] == ["a", "gone"] and ranking.rows[0].measured("asr_gen").value == 0.2


@pytest.mark.parametrize(("lines", "text"), SENTENCES)
def test_what_the_figures_allow_to_be_said(lines, text):
    assert headline(rank([line(*one) for one in lines], [])) == text


def judged(folder, run, title="openai:gpt-4o", models=("gpt-4o-2024-08-06",), **more):
    """Write a run that a judge of this title scored; `models` are the models that answered as the judge."""
    asr = metric(0.5, 0.4, 0.6, judge=title)
    told = [{"judge": title, "model": model, "fingerprint": None, "replies": 3} for model in models]
    told += [{"judge": "of another metric", "model": "rules", "fingerprint": "fp_1", "replies": 9}]
    write(folder / run, "summary_val.json", summary("val", asr, metric(0.5), answered_by=told, **more))


def warned(folder):
    found = group_runs(read_runs([folder]))
    runs = [run for method in found for run in method.seeds]
    return warnings([method.run for method in found], judges_of(runs))


@pytest.mark.parametrize(("one", "other", "different"), JUDGES["pairs"])
def test_which_judges_are_the_same(tmp_path, one, other, different):
    judged(tmp_path, "po", **one)
    judged(tmp_path, "popd", **other)
    assert ("asr" in judges_of(read_runs([tmp_path])).different) is different
    assert not different or "do not compare" in warned(tmp_path)[0]


@pytest.mark.parametrize(("summaries", "expected"), JUDGES["warnings"])
def test_what_a_reader_is_warned_of(tmp_path, summaries, expected):
    for run, changes in summaries.items():
        split = changes.get("split", "val")
        write(tmp_path / run, f"summary_{split}.json", summary(split, 0.5, 0.5) | changes)
    assert warned(tmp_path) == expected
