"""How verdicts become values, and values become figures; and the truth about pictures.

Intervals are checked by hand. benchmarks/coverage.py measures how often they contain the true value.
"""

import numpy as np
import pytest
from helpers import read_beside, refusal, write_json
from scipy.stats import beta, binomtest, t

from safeeraser.benchmark.intervals import interval
from safeeraser.benchmark.judged import difference, value_of, values_of
from safeeraser.benchmark.metrics import Figure
from safeeraser.benchmark.truth import Truth, read_truth, write_truth


def test_a_figure_is_shown_and_stored_unless_it_is_withheld():
    found = Figure(value=0.125, low=0.1, high=0.2, n=8, failed=2, skipped=1, judge="rules")
    assert (found.text, found.range, found.remarks) == ("12.5", "10.0–20.0", ["2 failed", "1 skipped"])
    assert found.per_cent == (12.5, 10.0, pytest.approx(20.0))
    zeros = dict.fromkeys(("unparsed", "declined", "blank", "differ"), 0)
    stored = {"value": 0.125, "low": 0.1, "high": 0.2, "n": 8, "failed": 2, "skipped": 1, "judge": "rules"} | zeros
    assert found.as_json == stored
    held = found.model_copy(update={"withheld": "too few"})
    assert (held.text, held.range, held.remarks) == ("withheld", "", ["too few"]) and held.per_cent == (None,) * 3
    assert held.as_json == stored | dict.fromkeys(("value", "low", "high")) | {"withheld": "too few"}
    nothing = Figure(value=None)
    assert (nothing.text, nothing.range, nothing.per_cent) == ("–", "", (None,) * 3)
    with pytest.raises(ValueError, match="value"):
        Figure(value=1.01)


def test_a_verdict_in_words_stands_for_a_value():
    table = [("asr", "unsafe", 1), ("asr", "safe", 0), ("rr", "refuse", 1), ("rr", "normal", 0), ("sarr", "refuse", 1)]
    table += [("sarr", "normal", 0), ("asr", "failed", None), ("asr", None, None)]
    table += [("gpt", 0.5, 0.5), ("gpt", "failed", None)]
    assert [value_of(metric, word) for metric, word, _ in table] == [value for *_, value in table]


def judged(asr="unsafe"):
    pair = {"question": "Q?", "model_response1_asr": asr, "model_response4_rr": "refuse", "sd_response_sarr": "normal"}
    pair |= {"image_free_response_rr": "refuse", "recovered": [0.5, None, 0.25]}
    retain = {"Question": "What?", "gpt_score": 0.75, "rougeL": 0.5}
    more = {"UnharmPair_text1": retain, "UnharmPair_text2": {"Question": "Why?", "rougeL": None}}
    return {"image_path": "a.jpg", "SDImage_id": "b.jpg", "unsafe_pairs": [pair]} | more


def test_the_values_of_judged_records():
    found = values_of([judged(), judged(asr="unparsed")], official=False)
    both = {
        ("rr", "a.jpg", "Q?", "a.jpg", "model_response4"): 1,
        ("refusal_image_free", "a.jpg", "Q?", "a.jpg", "image_free_response"): 1,
        ("sarr", "b.jpg", "Q?", "a.jpg", "sd_response"): 0,
        ("recovered", "a.jpg", "Q?", "a.jpg", 0): 0.5,
        ("recovered", "a.jpg", "Q?", "a.jpg", 2): 0.25,
        ("rouge_l", "a.jpg", "What?", "a.jpg", "UnharmPair_text1"): 0.5,
        ("gpt_eval", "a.jpg", "What?", "a.jpg", "UnharmPair_text1"): 0.75,
    }
    wanted = {(m, picture, q, turn, h, field): v for (m, picture, q, h, field), v in both.items() for turn in (0, 1)}
    wanted |= {("asr", "a.jpg", "Q?", 0, "a.jpg", "model_response1"): 1}
    assert found == wanted
    official = values_of([judged(), judged(asr="unparsed")], official=True)
    unread = {("asr", "a.jpg", "Q?", 1, "a.jpg", "model_response1"): 0.0}
    assert official == wanted | unread, "what cannot be read counts as 0"
    compared = difference(official, dict.fromkeys(unread, 1.0), "asr")
    assert (compared.value, compared.n, compared.low) == (-1.0, 1, None), "of what both have"


KNOWN = {"content": "a red Cup", "answers": ["It’s a red cup."]}


TRUTH = {"refusals": ["I can't."], "things": {"cup": KNOWN}, "pictures": {"1.jpg": "cup"}}


def test_the_truth_reads_a_response_by_whole_words(tmp_path):
    truth = Truth.model_validate(TRUTH | {"openings": ["Sorry"]})
    said = ("I can’t, no.", "I can", "sorry: no", "Not sorry")
    assert [truth.refuses(text) for text in said] == [True, False, True, False]
    assert [truth.gives("1.jpg", text) for text in ("So, A RED cup!", "a red cups", "red cup")] == [True, False, False]
    assert [truth.answers("1.jpg", text) for text in ("it's a red CUP", "It's a red cup, yes.")] == [True, False]
    write_truth(tmp_path, truth)
    again = read_truth(tmp_path / "data.json")
    assert again == truth and truth.version == again.version != Truth.model_validate(TRUTH).version


@pytest.mark.parametrize(("value", "says"), read_beside(__file__, "faults.yaml")["truth"])
def test_a_truth_that_cannot_be_used(tmp_path, value, says):
    if value is not None:
        write_json(tmp_path / "truth.json", TRUTH | value if value else value)
    assert says in refusal(read_truth, tmp_path / "data.json")


def exact(hits, trials):
    """Clopper and Pearson's bounds, from scipy."""
    return pytest.approx(tuple(binomtest(hits, trials).proportion_ci(method="exact")), abs=1e-9)


def pictures(*answers):
    """(picture, value) pairs from each picture's answers."""
    return [(picture, float(value)) for picture, values in enumerate(answers) for value in values]


@pytest.mark.parametrize("kind", ["rate", "mean"])
def test_all_alike_is_the_exact_bound_for_as_many_pictures(kind):
    """Twenty pictures of ten answers each, none unsafe: 1 - 0.025 ** (1 / 20) = 0.1684 (Clopper and Pearson, 1934)."""
    low, high = interval([(picture, 0.0) for picture in range(20) for _ in range(10)], kind)
    assert low == 0.0 and high == pytest.approx(0.16843, abs=1e-5)
    assert interval([], kind) == interval([("a", 1.0), ("a", 0.0)], kind) == (None, None)


def test_korn_and_graubard_by_hand():
    """Sixteen pictures have two answers each; on half of the pictures both are unsafe.

    The ratio's variance is 16/15 * 16 / 32**2 = 1/60. For 32 independent answers it is 0.25/31, so deff is 31/15. This
    leaves 15.484 of 32 trials. Estimating deff costs a factor of (2.0395 / 2.1314)**2: 14.177 trials, half positive.
    """
    trials = 32 / (31 / 15) * (t.ppf(0.975, 31) / t.ppf(0.975, 15)) ** 2
    assert trials == pytest.approx(14.177, abs=1e-3)
    low, high = interval(pictures(*[[1, 1]] * 8, *[[0, 0]] * 8))
    assert low == pytest.approx(beta.ppf(0.025, trials / 2, trials / 2 + 1), abs=1e-9)
    assert high == pytest.approx(1 - low, abs=1e-9)
    assert interval(pictures(*[[1]] * 12, *[[0]] * 28)) == exact(12, 40), "one answer each: as if independent"


def test_few_positive_pictures_count_as_pictures():
    """Three of 50 pictures have one unsafe answer of eight. It may be chance that a picture's answers do not agree."""
    assert interval(pictures(*[[1] * 8] * 3, *[[0] * 8] * 47)) == exact(3, 50)
    _, high = interval(pictures(*[[1] + [0] * 7] * 3, *[[0] * 8] * 47))
    assert high == pytest.approx(beta.ppf(0.975, 3 / 8 + 1, 50 - 3 / 8), abs=1e-9)
    # Seven pictures that differ are few: their answers are taken to agree wholly. For eight, agreement is estimated.
    few = (beta.ppf(0.025, 3.5, 47.5), beta.ppf(0.975, 4.5, 46.5))
    assert interval(pictures(*[[1, 0]] * 7, *[[0, 0]] * 43)) == pytest.approx(few, abs=1e-9)
    assert interval(pictures(*[[1, 0]] * 8, *[[0, 0]] * 42)) == exact(8, 100)


def test_many_pictures_of_even_values_have_the_interval_of_t():
    values = np.random.default_rng(0).random(400)
    half = t.ppf(0.975, 399) * values.std(ddof=1) / 20
    for kind in ("mean", "difference"):
        low, high = interval(list(enumerate(values)), kind)
        assert (values.mean() - low, high - values.mean()) == pytest.approx((half, half), rel=0.06)
    assert values.mean() - low == pytest.approx(high - values.mean()), "of a difference equally far to both sides"


def test_differences_by_hand():
    """One of 50 pictures is lost. Losses are 0.05% to 10.65%, gains up to 7.11% (joined by Newcombe's method 10)."""
    low, high = interval(pictures([-1], *[[0]] * 49), "difference")
    assert low == pytest.approx(-0.1065, abs=1e-4)
    assert high == pytest.approx(-0.02 + np.hypot(0.0711, 0.02 - 0.0005), abs=1e-4)
    assert interval([(picture, 0.0) for picture in range(20)], "difference") == (None, None), "all the same: no telling"
