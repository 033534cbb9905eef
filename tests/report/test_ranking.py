"""The order of the rows, and the one sentence that the figures allow: none is called best that is not clearly so."""

import pytest

from safeeraser.benchmark.metrics import Figure
from safeeraser.report.page import report
from safeeraser.report.ranking import finding, rank
from safeeraser.report.tables import Row

from .made_up_runs import metric, seeded_results, write


def row(name, asr, sarr, rouge, half=0.02, **more):
    """A row whose figures have intervals so wide to each side; None: no figure."""
    values = {"asr_gen": asr, "sarr": sarr, "rouge_l": rouge} | more
    figures = {
        key: Figure(value=value, low=max(0, value - half), high=min(1, value + half)) if half else Figure(value=value)
        for key, value in values.items()
        if value is not None
    }
    return Row(name, figures)


A, B = row("a", 0.1, 0.1, 0.7), row("b", 0.3, 0.2, 0.7)  # 16.7 and 26.7 points from perfect


def test_best_first_by_the_mean_of_what_is_lost():
    rows = [row("vanilla", 0.9, 0.1, 0.9), row("b", 0.1, 0.2, 0.6), A, row("none", None, 0, 1)]
    ranking = rank(rows, [row("p", 0.5, 0.5, 0.5), row("q", 0, 0, 1)])
    assert [one.name for one in ranking.rows] == ["a", "b", "vanilla", "none"]  # 16.7, 23.3, 36.7 points
    assert [one.name for one in ranking.published] == ["q", "p"] and ranking.utility == "rouge_l"


def test_utility_is_what_most_rows_have():
    rows = [row("a", 0.1, 0.1, None, specificity=0.5), row("b", 0.1, 0.1, 0.7, specificity=0.6)]
    ranking = rank(rows, [])
    assert ranking.utility == "specificity" and [one.name for one in ranking.rows] == ["b", "a"]


def test_asr_on_training_questions_stands_in():
    """But not for one that is withheld."""
    known = {"asr_eff": Figure(value=0.2), "sarr": Figure(value=0), "rouge_l": Figure(value=1)}
    gone = known | {"asr_gen": Figure(value=None, withheld="3% failed")}
    ranking = rank([Row("gone", gone), Row("a", known)], [])
    assert [one.name for one in ranking.rows] == ["a", "gone"] and ranking.rows[0].measured("asr_gen").value == 0.2


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [A, B, row("c", 0.9, 0.9, 0.1)],
            "a does best of 3: ASR 10.0% (8.0–12.0), SARR 10.0% (8.0–12.0), ROUGE-L 70.0% (68.0–72.0); the mean of "
            "ASR, SARR and 100 − ROUGE-L is 10.0 points (7.2 to 12.8) below that of the next, b.",
        ),
        (
            [row("a", 0.1, 0.1, 0.7, half=0.1), row("b", 0.1, 0.1, 0.69, half=0.1)],
            "No one is best: a and b are not told apart by the mean of ASR, SARR and 100 − ROUGE-L, 16.7 and 17.0, a "
            "difference of 0.3 points (-13.8 to 14.5).",
        ),
        # The next is far, the third near but so uncertain that it may be better.
        ([A, B, row("c", 0.3, 0.3, 0.5, half=0.3)], "No one is best: a and c are not told apart by"),
        # Who lacks a figure was not beaten.
        ([A, B, row("c", None, 0.1, 0.9)], "a does best of the 2 that have all three figures: ASR"),
        ([A], "a: ASR 10.0% (8.0–12.0), SARR 10.0% (8.0–12.0), ROUGE-L 70.0% (68.0–72.0)."),
        # Without intervals, or without any row that has all three figures, nothing is said.
        ([row("a", 0.1, 0.1, 0.7, half=0), B], None),
        ([row("a", 0.1, None, 0.7)], None),
    ],
)
def test_what_the_figures_allow_to_be_said(rows, said):
    found = finding(rank(rows, []))
    assert found.startswith(said) if said else found == ""


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, True),
        ({"judge": "gpt-4o"}, False),
        ({"protocol": "corrected"}, False),
        ({"category": "Privacy"}, False),
        ({"provenance": {"data_sha256": "1"}}, False),
    ],
)
def test_nothing_is_said_of_figures_that_do_not_compare(tmp_path, more, said):
    seeded_results(tmp_path)
    figures = {key: metric(0.5, 0.4, 0.6) for key in ("asr", "rr", "sarr", "rouge_l")}
    told = {"split": "val", **figures, "protocol": "official", "judge": "rules"}
    write(tmp_path / "seed0" / "gd", "summary_val.json", told | more)
    report(tmp_path)
    assert ('class="finding"' in (tmp_path / "report.html").read_text()) is said
