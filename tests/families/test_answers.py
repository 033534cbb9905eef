"""Greedy answers of eight families letter by letter, by ckpt_infer.py: one at a time, batched, and with an adapter."""

import pytest

from .recorded import answers


@pytest.mark.parametrize("batch_size", [1, 6])
def test_greedy_answers_letter_by_letter(family, tmp_path, batch_size):
    found = answers(family, tmp_path / "predictions.json", "--batch_size", batch_size)
    assert found == {(row["view"], row["index"]): {row["response"]} for row in family.rows}


def test_greedy_answers_with_an_adapter(family, tmp_path):
    """Of the first record, whose 12 items are the first 12 rows."""
    more = ("--categories", "HateSpeech", "--checkpoint_path", family.adapter)
    found = answers(family, tmp_path / "predictions.json", *more)
    expected = zip(family.rows, family.figures["with_adapter"], strict=False)
    assert found == {(row["view"], row["index"]): {adapted["response"]} for row, adapted in expected}
