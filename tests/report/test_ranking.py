"""The order of the rows, and the one sentence that the figures allow."""

import pytest

from safeeraser.benchmark.metrics import Figure
from safeeraser.report.page import report
from safeeraser.report.ranking import finding, rank
from safeeraser.report.tables import Row

from .made_up_runs import metric, seeded_results, summary, write


def row(name, asr, sarr, rouge, half=0.02, **more):
    """A row whose figures have intervals so wide to each side; None: no figure."""
    values = {"asr_gen": asr, "sarr": sarr, "rouge_l": rouge} | more
    figures = {
        key: Figure(value=value, low=max(0, value - half), high=min(1, value + half)) if half else Figure(value=value)
        for key, value in values.items()
        if value is not None
    }
    return Row(name, figures)


def test_best_first_by_the_mean_of_what_is_lost():
    rows = [row("vanilla", 0.9, 0.1, 0.9), row("b", 0.1, 0.2, 0.6), row("a", 0.1, 0.1, 0.7), row("none", None, 0, 1)]
    ranking = rank(rows, [row("p", 0.5, 0.5, 0.5), row("q", 0, 0, 1)])
    assert [one.name for one in ranking.rows] == ["a", "b", "vanilla", "none"]  # 16.7, 23.3, 36.7 points
    assert [one.name for one in ranking.published] == ["q", "p"]
    assert ranking.rule.startswith("Best first, by the mean of ASR, SARR and 100 − ROUGE-L")


def test_utility_is_what_most_rows_have():
    rows = [row("a", 0.1, 0.1, None, specificity=0.5), row("b", 0.1, 0.1, 0.7, specificity=0.6)]
    ranking = rank(rows, [])
    assert ranking.utility == "specificity" and [one.name for one in ranking.rows] == ["b", "a"]


def test_asr_on_training_questions_stands_in():
    ranking = rank([Row("a", {"asr_eff": Figure(value=0.2), "sarr": Figure(value=0), "rouge_l": Figure(value=1)})], [])
    assert ranking.rows[0].measured("asr_gen").value == 0.2


def test_the_best_is_named_where_it_clearly_is():
    told = finding(rank([row("a", 0.1, 0.1, 0.7), row("b", 0.3, 0.2, 0.7), row("c", 0.9, 0.9, 0.1)], []))
    assert told == (
        "a does best of 3: ASR 10.0% (8.0–12.0), SARR 10.0% (8.0–12.0), ROUGE-L 70.0% (68.0–72.0); the mean of ASR, "
        "SARR and 100 − ROUGE-L is 10.0 points (7.2 to 12.8) below that of the next, b."
    )


def test_what_is_within_chance_is_called_so():
    """The next is far, the third near but so uncertain that it may be better: no best is named either."""
    told = finding(rank([row("a", 0.1, 0.1, 0.7, half=0.1), row("b", 0.1, 0.1, 0.69, half=0.1)], []))
    assert told == (
        "No one is best: a and b are not told apart by the mean of ASR, SARR and 100 − ROUGE-L, 16.7 and 17.0, a "
        "difference of 0.3 points (-13.8 to 14.5)."
    )
    wide = row("c", 0.3, 0.3, 0.5, half=0.3)
    told = finding(rank([row("a", 0.1, 0.1, 0.7), row("b", 0.3, 0.2, 0.7), wide], []))
    assert told.startswith("No one is best: a and c are not told apart by") and "points (-" in told


def test_who_lacks_a_figure_was_not_beaten():
    told = finding(rank([row("a", 0.1, 0.1, 0.7), row("b", 0.3, 0.2, 0.7), row("c", None, 0.1, 0.9)], []))
    assert told.startswith("a does best of the 2 that have all three figures: ASR")


@pytest.mark.parametrize(
    "rows", [[row("a", 0.1, 0.1, 0.7, half=0), row("b", 0.3, 0.2, 0.7)], [row("a", 0.1, None, 0.7)]]
)
def test_without_intervals_or_figures_nothing_is_said(rows):
    assert finding(rank(rows, [])) == ""


def test_a_run_alone_is_told_as_it_is():
    told = finding(rank([row("a", 0.1, 0.1, 0.7)], []))
    assert told == "a: ASR 10.0% (8.0–12.0), SARR 10.0% (8.0–12.0), ROUGE-L 70.0% (68.0–72.0)."


def test_nothing_is_said_of_figures_of_different_judges(tmp_path):
    page = tmp_path / "report.html"
    report(seeded_results(tmp_path))
    assert '<p class="finding">PO+PD (3 seeds) does best of 3: ASR 12.0% (5.0–19.0)' in page.read_text()
    known = {"rouge": metric(0.7, 0.6, 0.8), "rr": metric(0.5, 0.4, 0.6), "sarr": metric(0.5, 0.4, 0.6)}
    write(tmp_path / "seed0" / "gd", "summary_val.json", summary("val", metric(0.5, 0.4, 0.6), judge="gpt-4o", **known))
    report(tmp_path)
    assert "GD" in page.read_text() and 'class="finding"' not in page.read_text()
