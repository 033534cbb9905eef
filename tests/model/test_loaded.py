"""A loaded model: logits where they are read, states of single layers, picture features, and its own properties."""

from dataclasses import replace

import pytest
import torch
from families.recorded import Recorded, picture
from helpers import MODEL

from safeeraser.model.states import begun_at, language_layers, logits_and_states
from safeeraser.model.turns import Row, Turn
from safeeraser.model.vision import features_of, picture_bytes, see
from safeeraser.model.vlm import VLM

from .conftest import attach


@pytest.fixture(scope="module", params=["llava_tiny", "gemma3", "qwen3_vl"])
def vlm(request):
    """LLaVA; a family with attention in both directions and a tied head; one that adds features in several layers."""
    path = str(MODEL) if request.param == "llava_tiny" else Recorded(request.param).path
    return VLM.load(path, torch.float32, "eager")


def rows_of(vlm):
    shown = picture(Recorded("gemma3").rows[0]["picture"])
    return [vlm.encode(Turn(shown, question)) for question in ("Alpha bravo?", "Mike?")]


@torch.no_grad()
def test_logits_and_states_are_those_of_the_whole_pass_and_no_more_is_run(vlm):
    batch = vlm.join(rows_of(vlm))
    shape, layers = batch["input_ids"].shape, language_layers(vlm.model, vlm.family)
    every, places, last = torch.arange(shape.numel()), torch.tensor([5, shape[1] + 2]), len(layers) - 1
    assert len(layers) == vlm.model.config.get_text_config().num_hidden_layers > 1
    ran, kept = [], {}
    for number, layer in enumerate(layers):
        layer.register_forward_hook(lambda *given, n=number: kept.update({n: given[-1].flatten(0, 1)}))
        layer.mlp.register_forward_hook(lambda *_, n=number: ran.append(n))
    whole = vlm.model(**batch).logits.flatten(0, 1)[places]
    own, states = dict(kept), {0: every, last: places}
    found, there = logits_and_states(vlm.model, batch, places, states, vlm.family)
    assert torch.equal(found, vlm.logits(batch, places)) and torch.allclose(found, whole, atol=1e-6)
    assert there.keys() == {0, last}
    assert torch.equal(there[0], own[0]) and torch.equal(there[last], own[last][places])
    ran.clear()  # if only the first layer is read, no other runs
    none, there = logits_and_states(vlm.model, batch, places[:0], {0: places}, vlm.family)
    assert (none.shape[0], ran) == (0, [0]) and torch.equal(there[0], own[0][places])
    for number in (0, last):  # begun at a layer, the pass continues from the given states
        ran.clear()
        with begun_at(vlm.model, vlm.family, number, own[number].unflatten(0, shape)):
            assert torch.equal(vlm.logits(batch, places), found)
        assert ran == list(range(number + 1, last + 1))
        with begun_at(vlm.model, vlm.family, number, 0 * own[number].unflatten(0, shape)):
            assert not torch.equal(vlm.logits(batch, places), found)


@torch.no_grad()
def test_what_the_vision_makes_of_a_picture_stands_for_its_pixels(vlm):
    """It does so if the model takes features. Memory: a picture's patches and one token, in all layers plus eight."""
    rows = rows_of(vlm)
    seen = [see(vlm, row.inputs) for row in rows]
    spared = vlm.join([replace(row, inputs=each.inputs) for row, each in zip(rows, seen, strict=True)])
    assert ("pixel_values" in spared) == (vlm.family.model_type == "qwen3_vl")
    whole, found = (vlm.model(**batch).logits for batch in (vlm.join(rows), spared | features_of(seen)))
    torch.testing.assert_close(found, whole)
    patches, layers = {"llava": (16, 3), "gemma3": (36, 2), "qwen3_vl": (60, 2)}[vlm.family.model_type]
    config, inputs = vlm.model.config, rows[0].inputs
    assert picture_bytes(config, inputs, 2) == (patches + 1) * 32 * (layers + 8) * 2


def test_what_a_model_says_of_itself(base, preprocessor):
    vlm = VLM(attach(base), preprocessor)
    assert (vlm.family.name, vlm.decoder, vlm.ends) == ("llava-1.5", "continuous", {2})
    for told, ends in ((None, {2}), (7, {2, 7}), ([7, 8], {2, 7, 8})):
        base.generation_config.eos_token_id = told
        assert VLM(base, preprocessor).ends == ends
    text = base.config.text_config
    for text.sliding_window, text.use_sliding_window, decoder in (
        *((1023, True, "batched"), (1024, True, "continuous"), (None, True, "continuous"), (9, False, "continuous")),
    ):
        assert VLM(base, preprocessor).decoder == decoder
    batch = VLM(base.bfloat16(), preprocessor).join([Row([1, 5], [5, 5], {"pixel_values": torch.ones(1, 3, 2, 2)})])
    assert (batch["input_ids"].dtype, batch["pixel_values"].dtype) == (torch.int64, torch.bfloat16)
