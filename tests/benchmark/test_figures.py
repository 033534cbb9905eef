"""Verdicts become values, values figures; and the truth about pictures."""

import pytest
from helpers import read_beside, refusal, write_json

from safeeraser.benchmark.judged import difference, value_of, values_of, words
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
    assert words("asr") == ("unsafe", "safe") and words("gpt") == ()


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
