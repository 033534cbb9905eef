"""Steps of fixed shapes on each family: the recorded answers, and a step that a GPU can record."""

import pytest
import torch
from generation.test_fixed import asks_for_nothing

from safeeraser.generation import Asked, Decoder
from safeeraser.generation.sampling import Generation
from safeeraser.model.load import load_model
from safeeraser.model.vlm import VLM

from .recorded import picture


def test_fixed_steps_give_the_recorded_answers_and_ask_for_nothing(family):
    """Few rows at a time, so that rows are replaced."""
    loaded = VLM(load_model(family.path, torch.float32).eval(), family.preprocessor)
    if loaded.decoder == "batched":
        pytest.skip("has no steps of its own")
    asked = [Asked(row["picture"], row["question"], str(number)) for number, row in enumerate(family.rows)]
    how = {"show": picture, "size": lambda path: picture(path).size, "fixed": True}
    decoder = Decoder(loaded, Generation(greedy=True, max_new_tokens=24), 10, **how)
    found = {asked[number].key: text for ended in decoder.answer(asked) for number, text in ended}
    assert found == {str(number): row["response"] for number, row in enumerate(family.rows)}
    asks_for_nothing(loaded.model)
