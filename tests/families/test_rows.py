"""Rows of eleven families equal the rows that transformers alone gave: token ids, labels, pixels, inputs and losses.

Answers from steps of fixed shapes, which a GPU can record as a CUDA graph, equal the recorded answers too.
"""

import pytest
import torch
from generation.test_context import asks_for_nothing

from safeeraser.errors import BadInput
from safeeraser.generation import Asked, Decoder
from safeeraser.generation.sampling import Generation
from safeeraser.model.load import load_model
from safeeraser.model.vlm import VLM

from .recorded import CLOSE, IGNORE, bounds, label_losses, nlls, picture


def test_ids_labels_and_pixels(family):
    """The picture's tokens, the template's words and the answer's bounds, with and without the token that ends it."""
    end, means = family.figures["end_token_id"], []
    assert len(family.rows) == 72
    for row, ended in zip(family.rows, family.ended, strict=True):
        begins, upto = bounds(row["labels"])
        ids, labels = row["input_ids"][:upto], row["labels"][:upto]
        found, asked = family.encode_by_size(row), family.encode_by_size(row, answer=False)
        assert (asked.input_ids, asked.labels) == (ids[:begins], [IGNORE] * begins)
        assert (found.input_ids, found.labels) == (ids, labels), row["full"]
        assert (ended.input_ids, ended.labels) == ([*ids, end], [*labels, end]), row["full"]
        means.append(ended.inputs["pixel_values"].double().mean().item())
    assert means == pytest.approx([row["pixel_mean"] for row in family.rows], abs=1e-6, rel=0)


def test_inputs_of_the_model(family):
    """The first row's inputs have exactly the recorded names and dtypes, and without padding the recorded shapes."""
    batch, length = family.preprocessor.join(family.ended[:1]), len(family.rows[0]["input_ids"])
    expected = {}
    for name, (kind, shape) in family.figures["inputs"].items():
        # The recorded text includes the tokens that the template writes after the end-of-turn token.
        text = len(shape) == 2 and shape[1] == length
        expected[name] = (kind, [shape[0], len(family.ended[0].input_ids)] if text else shape)
    assert {name: (str(value.dtype), list(value.shape)) for name, value in batch.items()} == expected


def test_losses(family):
    """The losses of an answer, without and with the token that ends it."""
    found = label_losses(family, family.model, family.ended)
    for name, last in (("nll", -1), ("nll_with_end", None)):
        means = [losses[:last].mean().item() for losses in found]
        assert means == pytest.approx([row[name] for row in family.rows], abs=CLOSE, rel=0), name


def test_losses_with_an_adapter(family):
    found = nlls(family, family.adapted(family.adapter), [family.encode(row) for row in family.rows[:12]])
    assert found == pytest.approx([row["nll"] for row in family.figures["with_adapter"]], abs=CLOSE, rel=0)
    # The adapter is so large that the test would notice its absence.
    assert max(abs(one - row["nll"]) for one, row in zip(found, family.rows, strict=False)) > 0.05


def test_a_long_answer_is_shortened_and_a_picture_never(family):
    row, whole = family.rows[0], family.encode(family.rows[0])
    kept, pictures = bounds(row["labels"])[0] + 3, row["image_tokens"]
    cut = family.encode(row, max_length=kept - pictures + 1)  # `max_length` counts the picture as one token
    assert (cut.input_ids, cut.labels) == (whole.input_ids[:kept], whole.labels[:kept])
    inside = row["input_ids"].index(family.figures["image_token_id"]) + 1
    with pytest.raises(BadInput, match=f"max_length.*{inside}|{inside}.*max_length"):
        family.encode(row, max_length=inside)
    (losses,) = label_losses(family, family.model, [whole])
    assert nlls(family, family.model, [cut]) == pytest.approx([losses[:3].mean().item()], abs=1e-5)


def test_fixed_steps_give_the_recorded_answers_and_ask_for_nothing(family):
    """Few rows run at a time, so that ended rows are replaced."""
    loaded = VLM(load_model(family.path, torch.float32).eval(), family.preprocessor)
    if loaded.decoder == "batched":
        pytest.skip("has no steps of its own")
    asked = [Asked(row["picture"], row["question"], str(number)) for number, row in enumerate(family.rows)]
    how = {"show": picture, "size": lambda path: picture(path).size, "fixed": True}
    decoder = Decoder(loaded, Generation(greedy=True, max_new_tokens=24), 10, **how)
    found = {asked[number].key: text for ended in decoder.answer(asked) for number, text in ended}
    assert found == {str(number): row["response"] for number, row in enumerate(family.rows)}
    asks_for_nothing(loaded.model)
