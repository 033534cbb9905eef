"""Runs that differ by their seeds alone are one row: the mean, and an interval over seeds and pictures.

What differs by more, or is not known to be the same, stays apart.
"""

import numpy as np
import pytest
from helpers import read_beside

from safeeraser.benchmark.figures import Row
from safeeraser.benchmark.intervals import spread
from safeeraser.report.methods import group_runs, join_seeds
from safeeraser.report.read import read_runs

from .made_up_runs import change, seeded_results

T2, T3 = 12.706204736174694, 4.302652729911275  # the 97.5% points of Student's t with one and two degrees of freedom


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
    """The rows but for vanilla's: title and number of seeds."""
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
    """Not by absolute ones, which carry a user's name into what is handed on."""
    for place in ("a", "b"):
        seeded_results(tmp_path / place, seeds=(0,))
    monkeypatch.chdir(tmp_path)
    names = {run.name for run in read_runs([tmp_path / "a" / "seed0", tmp_path / "b" / "seed0"])}
    assert {"a/seed0/popd", "b/seed0/popd"} <= names
