"""Runs that differ by their seeds alone: one row, an interval over seeds and pictures, and each seed to be seen."""

import csv
import json
import re
import shutil

import numpy as np
import pytest

from safeeraser.benchmark.intervals import of_totals
from safeeraser.benchmark.metrics import Figure
from safeeraser.report.page import report
from safeeraser.report.runs import read_runs
from safeeraser.report.seeds import join, methods, spread

from .made_up_runs import metric, seeded_results, write
from .test_page import Page

T3 = 4.302652729911275  # the 97.5% point of Student's t with two degrees of freedom


def change(folder, name, **changes):
    value = json.loads((folder / name).read_text())
    write(folder, name, value | changes)


def titles(folder):
    return [(method.run.title, len(method.seeds)) for method in methods(read_runs([folder]))]


def test_the_interval_is_over_seeds_and_pictures():
    low, high = spread([(0.10, 0.05, 0.15), (0.12, 0.07, 0.17), (0.14, 0.09, 0.19)], 0.0)
    between = T3 * 0.02 / 3**0.5
    assert (low, high) == pytest.approx((0.12 - np.hypot(0.05, between), 0.12 + np.hypot(0.05, between)))
    # Seeds that agree leave the interval over pictures as it is: they all answered about the same ones.
    assert spread([(0.5, 0.4, 0.7)] * 3, 0.0) == pytest.approx((0.4, 0.7))
    assert spread([(0.01, 0.0, 0.05), (0.3, 0.2, 0.4)], 0.0)[0] == 0.0


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
    one, other = (
        Figure(value=0.1, low=0.0, high=0.2, n=4, failed=1),
        Figure(value=0.3, low=0.2, high=0.4, n=5, failed=2),
    )
    both = join([one, other])
    assert both.value == pytest.approx(0.2) and (both.n, both.failed) == (9, 3) and both.range
    assert join([one, Figure(value=0.3)]).range == "", "an interval that lacks a seed's part would be too narrow"
    half = join([one, Figure(value=None)])
    assert half.value == 0.1 and half.remarks == ["1 of 2 seeds", "1 failed"]
    assert join([one, Figure(value=None, withheld="3% failed")]).withheld == "withheld of 1 of 2 seeds"
    assert join([Figure(value=None)] * 2).value is None


def test_seeds_are_one_row_everywhere_and_each_can_be_seen(tmp_path):
    report(seeded_results(tmp_path))
    text = (tmp_path / "report.html").read_text()
    rows = Page(text).rows
    joined = next(row for row in rows if row[:2] == ["PO+PD", "3 seeds"])
    assert joined[2:5] == ["12.0", "95% interval", "5.0–19.0"]
    assert ["PO+PD, seed 1", "12.0", "95% interval", "7.0–17.0"] in [row[:4] for row in rows]
    assert text.count('class="seed"') == 3 * 3 * 3
    assert "PO+PD (3 seeds): ASR 12.0 (5.0 to 19.0)" in re.search(r'aria-label="(Forest[^"]+)"', text)[1]
    assert "| PO+PD (3 seeds) | 12.0 [5.0–19.0] |" in (tmp_path / "table.md").read_text()
    assert "PO+PD (3 seeds) & 12.0 &" in (tmp_path / "table.tex").read_text()
    with open(tmp_path / "table.csv", encoding="utf-8", newline="") as handle:
        lines = list(csv.DictReader(handle))
    assert [(line["method"], line["seeds"], line["asr_gen_value"]) for line in lines] == [
        ("vanilla", "3", "92"), ("PO", "3", "4"), ("PO+PD", "3", "12")
    ]  # fmt: skip
    told = json.loads((tmp_path / "summary.json").read_text())
    assert len(told["runs"]) == 9 and told["runs"]["seed2/popd"]["generality"]["asr"] == 0.14
    assert told["pooled"]["PO+PD"]["runs"] == ["seed0/popd", "seed1/popd", "seed2/popd"]
    assert told["pooled"]["PO+PD"]["figures"]["asr_gen"]["value"] == pytest.approx(0.12)


def test_folders_may_be_named_for_their_seeds(tmp_path):
    seeded_results(tmp_path / "all")
    for seed in (0, 1):
        (tmp_path / "all" / f"seed{seed}" / "popd").rename(tmp_path / f"s{seed}")
    assert titles(tmp_path) == [("PO+PD", 2)]


def test_a_run_named_for_its_method_and_seed_is_the_methods(tmp_path):
    seeded_results(tmp_path / "all", seeds=(1,))
    for method in ("vanilla", "popd"):
        (tmp_path / "all" / "seed1" / method).rename(tmp_path / f"{method}-seed1")
    assert titles(tmp_path) == [("vanilla", 1), ("PO+PD", 1)]


def test_what_differs_by_more_than_its_seed_is_another_row(tmp_path):
    seeded_results(tmp_path)
    settings = json.loads((tmp_path / "seed1" / "popd" / "run.json").read_text())["settings"]
    write(tmp_path / "seed1" / "popd", "run.json", {"settings": settings | {"lr": 0.002}})
    change(tmp_path / "seed2" / "po", "summary_val.json", judge="openai", judge_model="gpt-4o")
    assert titles(tmp_path) == [
        ("vanilla", 3), ("PO (seed0)", 2), ("PO (seed2)", 1), ("PO+PD (seed0)", 2), ("PO+PD (seed1)", 1)
    ]  # fmt: skip


def test_other_rows_of_a_table_of_settings_make_no_other_row(tmp_path):
    """What was taken from it stands among the settings themselves."""
    seeded_results(tmp_path)
    run = tmp_path / "seed1" / "popd"
    settings = json.loads((run / "run.json").read_text())["settings"]
    write(run, "run.json", {"title": "PO+PD", "settings": settings | {"tables": {"po": {"lr": 0.5}}}})
    assert titles(tmp_path)[-1] == ("PO+PD", 3)


def test_two_variants_of_several_seeds_are_told_apart(tmp_path):
    """Each of two rates with two seeds, in folders by seed: both names are there twice, and so is each folder."""
    seeded_results(tmp_path, seeds=(0, 1))
    for seed in (0, 1):
        folder, other = (tmp_path / f"seed{seed}" / name for name in ("popd", "popd_low"))
        shutil.copytree(folder, other)
        settings = json.loads((folder / "run.json").read_text())["settings"]
        write(other, "run.json", {"title": "PO+PD", "settings": settings | {"lr": 0.0001}})
    assert titles(tmp_path)[2:] == [("PO+PD (popd)", 2), ("PO+PD (popd_low)", 2)]


def test_runs_on_other_data_are_other_rows(tmp_path):
    seeded_results(tmp_path, seeds=(0, 1))
    settings = json.loads((tmp_path / "seed1" / "popd" / "run.json").read_text())["settings"]
    write(tmp_path / "seed1" / "popd", "run.json", {"settings": settings, "data": {"sha256": "0"}})
    assert titles(tmp_path)[2:] == [("PO+PD (seed0)", 1), ("PO+PD (seed1)", 1)]


def test_a_copy_is_no_second_seed(tmp_path):
    seeded_results(tmp_path, seeds=(0,))
    shutil.copytree(tmp_path / "seed0" / "popd", tmp_path / "seed1" / "popd")
    (tmp_path / "seed1" / "popd" / "summary_train.json").unlink()
    assert titles(tmp_path)[2:] == [("PO+PD (seed0)", 1), ("PO+PD (seed1)", 1)]


@pytest.mark.parametrize("lack", ["seed", "run", "made_with"])
def test_runs_of_which_too_little_is_known_stay_apart(tmp_path, lack):
    seeded_results(tmp_path, seeds=(0, 1))
    for seed in (0, 1):
        folder = tmp_path / f"seed{seed}" / "popd"
        if lack == "run":  # with which settings were they trained?
            (folder / "run.json").unlink()
        elif lack == "made_with":
            change(folder, "summary_val.json", inputs={})
        else:  # the same seed twice
            change(folder, "run.json", settings={"forget_loss": {"name": "popd"}, "seed": 7})
            told = {"made_with": {"settings": {"checkpoint": str(seed), "seed": 7}}}
            for split in ("train", "val"):
                change(folder, f"summary_{split}.json", inputs=told)
    assert [title for title in titles(tmp_path) if "PD" in title[0]] == [("PO+PD (seed0)", 1), ("PO+PD (seed1)", 1)]


def test_a_seed_that_was_not_scored_on_a_split_is_told(tmp_path):
    seeded_results(tmp_path)
    (tmp_path / "seed1" / "popd" / "summary_train.json").unlink()
    report(tmp_path)
    assert "- PO+PD, ASR-Eff: 2 of 3 seeds" in (tmp_path / "table.md").read_text()


def test_categories_and_blank_responses_are_joined_too(tmp_path):
    seeded_results(tmp_path, seeds=(0, 1))
    for seed, value in ((0, 0.2), (1, 0.4)):
        more = {"by_category": {"asr": {"Weapon": {"value": value, "n": 2}}}, "blank": {"forget": metric(value)}}
        change(tmp_path / f"seed{seed}" / "popd", "summary_val.json", **more)
    run = next(method.run for method in methods(read_runs([tmp_path])) if method.run.title == "PO+PD")
    assert run.val.by_category["asr"]["Weapon"].value == pytest.approx(0.3)
    assert run.by_view("blank")["forget"].value == pytest.approx(0.3) and run.by_view("blank")["forget"].n == 8


def test_seeds_that_another_judge_decided_in_part_stay_apart(tmp_path):
    seeded_results(tmp_path, seeds=(0, 1))
    assert ("PO", 2) in titles(tmp_path)
    for seed, judge in ((0, "rules"), (1, "openai:gpt-4o")):
        change(tmp_path / f"seed{seed}" / "po", "summary_val.json", sarr=metric(0.9, 0.8, 1.0, judge=judge))
    assert [count for title, count in titles(tmp_path) if title.startswith("PO (")] == [1, 1]
    assert ("PO+PD", 2) in titles(tmp_path)
    # What was scored of one seed alone tells of no other judge.
    change(tmp_path / "seed1" / "po", "summary_val.json", sarr={"value": None, "n": 0})
    assert ("PO", 2) in titles(tmp_path)
    change(tmp_path / "seed1" / "po", "summary_val.json", category="Privacy")
    assert ("PO", 2) not in titles(tmp_path)
