"""Runs that differ by their seeds alone are one row: the mean, and an interval over seeds and pictures.

What differs by more, or is not known to be the same, stays apart.
"""

import json
import shutil

import numpy as np
import pytest

from safeeraser.benchmark.intervals import of_totals
from safeeraser.benchmark.metrics import Figure
from safeeraser.report.page import report
from safeeraser.report.runs import read_runs
from safeeraser.report.seeds import join, methods, spread

from .made_up_runs import change, metric, seeded_results, summary, write

T2, T3 = 12.706204736174694, 4.302652729911275  # the 97.5% points of Student's t with one and two degrees of freedom


def titles(folder):
    """The rows of PO and PO+PD: title and number of seeds."""
    found = methods(read_runs([folder]))
    return [(one.run.title, len(one.seeds)) for one in found if one.name != "vanilla"]


def test_the_interval_is_over_seeds_and_pictures():
    low, high = spread([(0.10, 0.05, 0.15), (0.12, 0.07, 0.17), (0.14, 0.09, 0.19)], 0.0)
    between = T3 * 0.02 / 3**0.5
    assert (low, high) == pytest.approx((0.12 - np.hypot(0.05, between), 0.12 + np.hypot(0.05, between)))
    # Half widths are averaged, to each side by itself; two seeds have one degree of freedom.
    between = T2 * 0.02  # half of what the two differ by
    low, high = spread([(0.48, 0.38, 0.68), (0.52, 0.50, 0.62)], 0.0)
    assert (low, high) == pytest.approx((0.5 - np.hypot(0.06, between), 0.5 + np.hypot(0.15, between)))
    # Seeds that agree leave the interval over pictures as it is: they all answered about the same ones.
    assert spread([(0.5, 0.4, 0.7)] * 3, 0.0) == pytest.approx((0.4, 0.7))
    assert spread([(0.5, 0.4, 0.7)], 0.0) == pytest.approx((0.4, 0.7))
    assert spread([(0.01, 0.0, 0.05), (0.3, 0.2, 0.4)], 0.0)[0] == 0.0
    assert spread([(0.01, 0.0, 0.05), (0.3, 0.2, 0.4)], -1.0)[0] < -0.5
    assert spread([(0.99, 0.9, 1.0), (0.7, 0.6, 0.8)], 0.0)[1] == 1.0


@pytest.mark.parametrize("between, within", [(0.0, 0.0), (0.3, 0.5), (1.0, 0.5)])
def test_it_holds_the_truth(between, within):
    """Pictures and seeds drawn at random: the interval of one seed alone is too narrow where seeds differ."""
    rng = np.random.default_rng(0)
    spreads = np.sqrt(1 + between**2 + within**2)
    truth = np.mean(1 / (1 + np.exp(1 - spreads * rng.normal(size=1_000_000))))
    held, alone, trials = 0, 0, 150
    for _ in range(trials):
        pictures, seeds = rng.normal(size=48), between * rng.normal(size=3)
        found = []
        for seed in seeds:
            odds = pictures + seed + within * rng.normal(size=48) - 1
            sums = rng.binomial(4, 1 / (1 + np.exp(-odds))).astype(float)
            found.append((sums.mean() / 4, *of_totals(sums, np.full(48, 4.0), "rate")))
        low, high = spread(found, 0.0)
        held += low <= truth <= high
        alone += found[0][1] <= truth <= found[0][2]
    assert held >= 0.93 * trials and held >= alone
    assert between < 1 or alone < 0.7 * trials


def test_figures_are_joined_as_far_as_they_stand():
    one = Figure(value=0.5, low=0.4, high=0.6, n=4, failed=1, judge="rules")
    other = Figure(value=0.52, low=0.42, high=0.62, n=5, failed=2)
    both = join([one, other])
    assert both.value == pytest.approx(0.51) and (both.n, both.failed, both.judge) == (9, 3, "rules")
    assert (both.low, both.high) == pytest.approx((0.51 - np.hypot(0.1, T2 / 100), 0.51 + np.hypot(0.1, T2 / 100)))
    assert join([one, Figure(value=0.3)]).range == "", "an interval that lacks a seed's part would be too narrow"
    half = join([one, Figure(value=None)])
    assert half.value == 0.5 and half.range == "40.0–60.0" and half.remarks == ["1 of 2 seeds", "1 failed"]
    withheld = join([one, Figure(value=None, withheld="3% failed", failed=2)])
    assert (withheld.withheld, withheld.failed, withheld.value) == ("withheld of 1 of 2 seeds", 3, None)
    none = join([Figure(value=None, n=1)] * 2)
    assert none.value is None and none.n == 2 and none.remarks == []


def _other_rate(folder):
    settings = json.loads((folder / "seed1" / "popd" / "run.json").read_text())["settings"]
    change(folder / "seed1" / "popd", "run.json", settings=settings | {"lr": 0.002})


def _other_places(folder):
    """What decides no result may differ; so may the other rows of a table that settings were taken from."""
    settings = json.loads((folder / "seed1" / "popd" / "run.json").read_text())["settings"]
    free = {"workers": 3, "save_steps": 9, "tables": {"po": {"lr": 0.5}}}
    change(folder / "seed1" / "popd", "run.json", title="PO+PD", settings=settings | free)


def _two_variants(folder):
    """Each of two rates with two seeds, in folders by seed: both names are there twice, and so is each folder."""
    for seed in (0, 1):
        one, other = (folder / f"seed{seed}" / name for name in ("popd", "popd_low"))
        shutil.copytree(one, other)
        settings = json.loads((one / "run.json").read_text())["settings"]
        write(other, "run.json", {"title": "PO+PD", "settings": settings | {"lr": 0.0001}})


def _a_copy(folder):
    shutil.rmtree(folder / "seed1" / "popd")
    shutil.copytree(folder / "seed0" / "popd", folder / "seed1" / "popd")
    (folder / "seed1" / "popd" / "summary_train.json").unlink()


def _a_judge_of_one_metric(folder):
    for seed, judge in ((0, "rules"), (1, "openai:gpt-4o")):
        change(folder / f"seed{seed}" / "popd", "summary_val.json", sarr=metric(0.9, 0.8, 1.0, judge=judge))


def _one_lacks_it(folder):
    """What was scored of one seed alone tells of no other judge."""
    _a_judge_of_one_metric(folder)
    change(folder / "seed1" / "popd", "summary_val.json", sarr={"value": None, "n": 0})


def _unknown_training(folder):
    for seed in (0, 1):
        (folder / f"seed{seed}" / "popd" / "run.json").unlink()


def _unknown_answering(folder):
    for seed in (0, 1):
        change(folder / f"seed{seed}" / "popd", "summary_val.json", inputs={})


def _popd(name, **more):
    return lambda folder: change(folder / "seed1" / "popd", name, **more)


APART = [("PO+PD (seed0)", 1), ("PO+PD (seed1)", 1)]
TOGETHER = [("PO+PD", 2)]


@pytest.mark.parametrize(
    ("changed", "rows"),
    [
        (lambda folder: None, TOGETHER),
        (_other_places, TOGETHER),
        (_one_lacks_it, TOGETHER),
        (_other_rate, APART),
        (_popd("run.json", data={"sha256": "0"}), APART),
        (_popd("summary_val.json", category="Privacy"), APART),
        (_popd("summary_val.json", protocol="corrected"), APART),
        (_popd("summary_val.json", judge="openai", judge_model="gpt-4o"), APART),
        (_popd("summary_val.json", rules="b"), APART),
        (_popd("summary_train.json", rules="b"), APART),
        (_a_judge_of_one_metric, APART),
        (_a_copy, APART),
        (_unknown_training, APART),
        (_unknown_answering, APART),
        (_two_variants, [("PO+PD (popd)", 2), ("PO+PD (popd_low)", 2)]),
    ],
)
def test_what_differs_by_more_than_its_seed_is_another_row(tmp_path, changed, rows):
    seeded_results(tmp_path, seeds=(0, 1))
    changed(tmp_path)
    assert titles(tmp_path) == [("PO", 2), *rows]


def test_folders_may_be_named_for_their_seeds_or_methods(tmp_path):
    seeded_results(tmp_path / "all")
    for seed in (0, 1):
        (tmp_path / "all" / f"seed{seed}" / "popd").rename(tmp_path / f"s{seed}")
    assert titles(tmp_path) == [("PO+PD", 2)]
    (tmp_path / "all" / "seed2" / "popd").rename(tmp_path / "popd-seed2")
    assert titles(tmp_path) == [("PO+PD", 3)]


def test_responses_of_another_seed_than_the_trainings_are_both_told(tmp_path):
    seeded_results(tmp_path, seeds=(0,))
    made_with = {"model_path": "a/model", "checkpoint": "x", "seed": 7}
    change(tmp_path / "seed0" / "popd", "summary_val.json", inputs={"made_with": {"settings": made_with}})
    report(tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["provenance"]["seeds"]["PO+PD"] == ["0/7"]


def test_a_seed_that_lacks_a_split_is_told_and_all_else_is_joined(tmp_path):
    seeded_results(tmp_path, seeds=(0, 1))
    (tmp_path / "seed1" / "popd" / "summary_train.json").unlink()
    for seed, value in ((0, 0.2), (1, 0.4)):
        more = {"by_category": {"asr": {"Weapon": {"value": value, "n": 2}}}, "blank": {"forget": metric(value)}}
        change(tmp_path / f"seed{seed}" / "popd", "summary_val.json", **more)
        write(tmp_path / f"seed{seed}" / "popd", "specificity.json", {"value": value, "n": 3})
    run = methods(read_runs([tmp_path]))[-1].run
    assert run.val.by_category["asr"]["Weapon"].value == pytest.approx(0.3)
    assert run.by_view("blank")["forget"].value == pytest.approx(0.3) and run.by_view("blank")["forget"].n == 8
    assert run.specificity.value == pytest.approx(0.3) and run.specificity.n == 6
    assert run.figures["asr_eff"].remarks == ["1 of 2 seeds"]


def test_methods_are_named_by_their_titles_and_stand_in_the_papers_order(tmp_path):
    """Others by name; the same title is told apart by folders."""
    for run, title in (("mine", "Mine"), ("a_run", "PO+PD"), ("other", None), ("popd", None), ("gd", "GD"), ("x", "X")):
        write(tmp_path / run, "summary_val.json", summary("val", 0.5, 0.5))
        write(tmp_path / run, "run.json", {"settings": {}, **({"title": title} if title else {})})
    write(tmp_path / "vanilla", "summary_val.json", summary("val", 1.0, 0.0))
    found = methods(read_runs([tmp_path]))
    names = ["vanilla", "GD", "PO+PD (a_run)", "PO+PD (popd)", "Mine", "other", "X"]
    assert [one.run.title for one in found] == names
    assert [one.run.name for one in found] == ["vanilla", "gd", "a_run", "popd", "mine", "other", "x"]
