"""The order of the rows, and the one sentence that the figures allow: none is called best that is not clearly so.

`made_up/ranking.json` holds the cases of the sentence: rows, and how it begins (null: nothing is said).
"""

import json

import pytest

from safeeraser.benchmark.metrics import Figure
from safeeraser.report.ranking import finding, rank
from safeeraser.report.tables import Row

from .made_up_runs import MADE_UP

CASES = json.loads((MADE_UP / "ranking.json").read_text(encoding="utf-8"))


def row(name, asr, sarr, rouge, half=0.02, **more):
    """A row whose figures have intervals so wide to each side; None: no figure."""
    known = {}
    for key, value in ({"asr_gen": asr, "sarr": sarr, "rouge_l": rouge} | more).items():
        interval = {"low": max(0, value - half), "high": min(1, value + half)} if half and value is not None else {}
        known |= {key: Figure(value=value, **interval)} if value is not None else {}
    return Row(name, known)


def test_best_first_by_the_mean_of_what_is_lost():
    rows = [row("vanilla", 0.9, 0.1, 0.9), row("b", 0.1, 0.2, 0.6), row("a", 0.1, 0.1, 0.7), row("none", None, 0, 1)]
    ranking = rank(rows, [row("p", 0.5, 0.5, 0.5), row("q", 0, 0, 1)])
    assert [one.name for one in ranking.rows] == ["a", "b", "vanilla", "none"]  # 16.7, 23.3, 36.7 points
    assert [one.name for one in ranking.published] == ["q", "p"] and ranking.utility == "rouge_l"
    # Utility is what most rows have.
    ranking = rank([row("a", 0.1, 0.1, None, specificity=0.5), row("b", 0.1, 0.1, 0.7, specificity=0.6)], [])
    assert ranking.utility == "specificity" and [one.name for one in ranking.rows] == ["b", "a"]
    # ASR on the training questions stands in, but not for one that is withheld.
    known = {"asr_eff": Figure(value=0.2), "sarr": Figure(value=0), "rouge_l": Figure(value=1)}
    gone = known | {"asr_gen": Figure(value=None, withheld="3% failed")}
    ranking = rank([Row("gone", gone), Row("a", known)], [])
    assert [one.name for one in ranking.rows] == ["a", "gone"] and ranking.rows[0].measured("asr_gen").value == 0.2


@pytest.mark.parametrize(("rows", "said"), CASES)
def test_what_the_figures_allow_to_be_said(rows, said):
    found = finding(rank([row(*one) for one in rows], []))
    assert found.startswith(said) if said else found == ""
