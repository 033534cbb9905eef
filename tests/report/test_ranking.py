"""The order of the lines, and the sentence over them: each method in the group that its whole intervals bear.

`made_up/ranking.json` holds the cases of the sentence: lines, and the sentence (empty: nothing is said).
"""

import json

import pytest

from safeeraser.benchmark.figures import Row
from safeeraser.report.tables import headline, rank
from safeeraser.report.writing import Line

from .made_up_runs import MADE_UP

CASES = json.loads((MADE_UP / "ranking.json").read_text(encoding="utf-8"))


def line(name, asr, sarr, rouge, half=0.02, **more):
    """A line whose figures have intervals so wide to each side; None: no figure."""
    known = {}
    for key, value in ({"asr_gen": asr, "sarr": sarr, "rouge_l": rouge} | more).items():
        interval = {"low": max(0, value - half), "high": min(1, value + half)} if half and value is not None else {}
        known |= {key: Row(metric=key, value=value, **interval)} if value is not None else {}
    return Line(name, known)


def test_who_forgets_comes_first_then_who_over_forgets_then_who_does_not():
    """Half of the untouched model's ASR of 0.8 is 0.4; d's interval is on both sides of it."""
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
    # Utility is what most lines have.
    ranking = rank([line("a", 0.1, 0.1, None, specificity=0.5), line("b", 0.1, 0.1, 0.7, specificity=0.6)], [])
    assert ranking.utility == "specificity" and "ASR 50.0%" in ranking.rule
    # ASR on the training questions stands in, but not for one that is withheld.
    known = {"asr_eff": Row(value=0.2, low=0.1, high=0.3), "sarr": Row(value=0, low=0, high=0.1)}
    gone = known | {"asr_gen": Row(withheld="3% failed")}
    ranking = rank([Line("gone", gone), Line("a", known)], [])
    assert [one.name for one in ranking.rows] == ["a", "gone"] and ranking.rows[0].measured("asr_gen").value == 0.2


@pytest.mark.parametrize(("lines", "text"), CASES)
def test_what_the_figures_allow_to_be_said(lines, text):
    assert headline(rank([line(*one) for one in lines], [])) == text
