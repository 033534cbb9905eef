"""Whose answers a record holds: putting a model's own in and taking them out."""

from helpers import record

from safeeraser.benchmark.answered import mark_of, with_answers, without_answers

MARK = {"model": "m", "weights": None, "fields": ["model_response", "sd_response"]}
NEW = {("unsafe_pairs", n, field): f"New {n}." for n in range(4) for field in MARK["fields"]}


def test_a_record_is_what_it_was_without_its_answers():
    """Also where it had none, or where a key of the same name says something else."""
    value = record(0, answered_by="somebody")
    del value["unsafe_pairs"][1]["sd_response"]
    filled = with_answers(value, NEW, MARK)
    assert mark_of(value) is None and mark_of(filled).model == "m"
    both = {"model_response": "New 1.", "sd_response": "New 1.", "original_model_response": "Harm 1."}
    assert filled["unsafe_pairs"][1] == {"question": "Secret 1?"} | both
    del value["answered_by"]
    assert without_answers(filled) == value and without_answers(value) == value
