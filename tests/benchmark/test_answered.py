"""Whose answers a record holds: putting a model's own in and taking them out, and what is told."""

from helpers import ROOT, TRAIN, record, settings

from safeeraser.benchmark.answered import answerer, mark_of, with_answers, without_answers
from safeeraser.unlearn.job import note_other_answers

MARK = {"model": "m", "weights": None, "fields": ["model_response", "sd_response"]}
NEW = {("unsafe_pairs", n, field): f"New {n}." for n in range(4) for field in MARK["fields"]}
QWEN = ROOT / "tests" / "data" / "families" / "qwen3_vl" / "model"


def test_a_record_is_what_it_was_without_its_answers():
    """Also where it had none, or where a key of the same name says something else."""
    value = record(0, answered_by="somebody")
    del value["unsafe_pairs"][1]["sd_response"]
    filled = with_answers(value, NEW, MARK)
    assert mark_of(value) is None and mark_of(filled).model == "m"
    both = {"model_response": "New 1.", "sd_response": "New 1.", "original_model_response": "Harm 1."}
    assert filled["unsafe_pairs"][1] == {"question": "Secret 1?"} | both
    assert answerer(filled, "sd_response").model == "m" and answerer(record(0), "sd_response").model == "LLaVA-1.5"
    assert answerer(record(0), "Prediction") is None
    del value["answered_by"]
    assert without_answers(filled) == value and without_answers(value) == value


def test_training_on_llavas_answers_is_told_of_where_the_model_is_another(caplog):
    """What is not marked is LLaVA's. Of answers that are marked: unlearn/test_forget.py."""
    given = settings("forget_loss=gdpd", f"model_path={QWEN}")
    note_other_answers(given, {"model_path": given.model_path, "revision": None, "weights": None})
    (line,) = caplog.messages
    assert line.startswith(f"note: {TRAIN}: record 0, model_response is of LLaVA-1.5, not of {QWEN}; ")
