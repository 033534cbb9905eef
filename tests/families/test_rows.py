"""Rows of eight families against what transformers alone recorded: token ids, labels, pixels, losses."""

import pytest
import torch
from helpers import ROOT

from .recorded import FAMILIES, IGNORE, end_of, nlls, start_of

# The figures' own spread between batched and single rows, and between kinds of attention, is below 2e-6.
CLOSE = 1e-4


def test_all_families_have_their_folder():
    folders = [path.name for path in (ROOT / "tests" / "data" / "families").iterdir() if path.is_dir()]
    assert sorted(folders) == sorted(FAMILIES)


def test_ids_and_labels(family):
    """The picture's tokens, the template's words and the answer's bounds; with its end-of-turn token and without."""
    end = family.figures["end_token_id"]
    assert len(family.rows) == 72
    for row in family.rows:
        upto = end_of(row["labels"])
        ids, labels = row["input_ids"][:upto], row["labels"][:upto]
        found = family.encode(row)
        assert (found.input_ids, found.labels) == (ids, labels), row["full"]
        ended = family.encode(row, end_of_answer=True)
        assert (ended.input_ids, ended.labels) == ([*ids, end], [*labels, end]), row["full"]


def test_a_prompt_is_what_stands_before_the_answer(family):
    for row in family.rows[:12]:
        found, prompt = family.encode(row, answer=False), row["input_ids"][: start_of(row["labels"])]
        assert found.input_ids == prompt
        assert found.labels == [IGNORE] * len(prompt)


def test_pixels(family):
    means = [family.encode(row).inputs["pixel_values"].double().mean().item() for row in family.rows]
    assert means == pytest.approx([row["pixel_mean"] for row in family.rows], abs=1e-6, rel=0)


def test_what_the_model_takes(family):
    """The first row's inputs: no name is missing, none is more; without padding their shapes are the recorded ones."""
    batch = family.preprocessor.join([family.encode(family.rows[0], end_of_answer=True)])
    # Recorded with what the template writes behind the end-of-turn token.
    more = len(family.rows[0]["input_ids"]) - batch["input_ids"].shape[1]
    expected = family.figures["inputs"]
    assert {name: str(value.dtype) for name, value in batch.items()} == {
        name: kind for name, (kind, _) in expected.items()
    }
    for name, value in batch.items():
        shape = expected[name][1]
        if len(shape) == 2 and shape[1] == len(family.rows[0]["input_ids"]):
            shape = [shape[0], shape[1] - more]
        assert list(value.shape) == shape, name


def test_losses(family):
    found = nlls(family, family.model, [family.encode(row) for row in family.rows])
    assert found == pytest.approx([row["nll"] for row in family.rows], abs=CLOSE, rel=0)


def test_losses_with_the_end_of_turn(family):
    found = nlls(family, family.model, [family.encode(row, end_of_answer=True) for row in family.rows])
    assert found == pytest.approx([row["nll_with_end"] for row in family.rows], abs=CLOSE, rel=0)


def test_losses_with_an_adapter(family):
    rows = [family.encode(row) for row in family.rows[:12]]
    found = nlls(family, family.adapted(family.adapter), rows)
    expected = [row["nll"] for row in family.figures["with_adapter"]]
    assert found == pytest.approx(expected, abs=CLOSE, rel=0)
    # The adapter is not so small that it could be left out unseen.
    assert max(abs(one - row["nll"]) for one, row in zip(found, family.rows, strict=False)) > 0.05


@torch.no_grad()
def test_a_long_answer_is_shortened(family):
    row, whole = family.rows[0], family.encode(family.rows[0])
    kept, pictures = start_of(row["labels"]) + 3, row["image_tokens"]
    cut = family.encode(row, max_length=kept - pictures + 1)  # which counts the picture as one token
    assert (cut.input_ids, cut.labels) == (whole.input_ids[:kept], whole.labels[:kept])
    (loss,) = nlls(family, family.model, [cut])
    said = family.model(**family.preprocessor.join([whole])).logits[0].log_softmax(-1)
    tokens = whole.input_ids[kept - 3 : kept]
    assert loss == pytest.approx(-said[range(kept - 4, kept - 1), tokens].mean().item(), abs=1e-5)
