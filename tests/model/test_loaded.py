"""A loaded model: logits where they are read, states of single layers, places of tokens, what its vision makes of
pictures and takes for it; and the projector trained otherwise than whole."""

from types import SimpleNamespace

import pytest
import torch
from families.recorded import Recorded, picture
from helpers import MODEL
from safetensors.torch import load_file

from safeeraser import model as models
from safeeraser.errors import BadInput
from safeeraser.model import VLM, Row, Turn

from .conftest import FAMILY, attach, said, shaken


@pytest.fixture(scope="module", params=["llava_tiny", "gemma3", "qwen3_vl"])
def vlm(request):
    """LLaVA; attention in both directions and a tied head; features that go into the layers' depth."""
    path = str(MODEL) if request.param == "llava_tiny" else Recorded(request.param).path
    return VLM.load(path, torch.float32, "eager")


def rows_of(vlm):
    shown = picture(Recorded("gemma3").rows[0]["picture"])
    return [vlm.encode(Turn(shown, question)) for question in ("Alpha bravo?", "Mike?")]


@torch.no_grad()
def test_logits_and_states_are_those_of_the_whole_pass_and_no_more_is_run(vlm):
    batch = vlm.join(rows_of(vlm))
    shape, layers = batch["input_ids"].shape, models.language_layers(vlm.model, vlm.family)
    every, places, last = torch.arange(shape.numel()), torch.tensor([5, shape[1] + 2]), len(layers) - 1
    assert len(layers) == vlm.model.config.get_text_config().num_hidden_layers > 1
    ran, kept = [], {}
    for number, layer in enumerate(layers):
        layer.register_forward_hook(lambda *given, n=number: kept.update({n: given[-1].flatten(0, 1)}))
        layer.mlp.register_forward_hook(lambda *_, n=number: ran.append(n))
    whole = vlm.model(**batch).logits.flatten(0, 1)[places]
    own, states = dict(kept), {0: every, last: places}
    found, there = models.logits_and_states(vlm.model, batch, places, states, vlm.family)
    assert torch.equal(found, vlm.logits(batch, places)) and torch.allclose(found, whole, atol=1e-6)
    assert there.keys() == {0, last}
    assert torch.equal(there[0], own[0]) and torch.equal(there[last], own[last][places])
    ran.clear()  # alone the first layer is all that runs
    none, there = models.logits_and_states(vlm.model, batch, places[:0], {0: places}, vlm.family)
    assert (none.shape[0], ran) == (0, [0]) and torch.equal(there[0], own[0][places])
    for number in (0, last):  # begun at a layer the rest goes on from the states it is given
        ran.clear()
        with models.begun_at(vlm.model, vlm.family, number, own[number].unflatten(0, shape)):
            assert torch.equal(vlm.logits(batch, places), found)
        assert ran == list(range(number + 1, last + 1))
        with models.begun_at(vlm.model, vlm.family, number, 0 * own[number].unflatten(0, shape)):
            assert not torch.equal(vlm.logits(batch, places), found)
    with pytest.raises((TypeError, ValueError)), models.up_to(vlm.model, vlm.family, 0):
        vlm.model(no=1)
    assert torch.equal(vlm.logits(batch, places), found) and ran[-last - 1 :] == list(range(last + 1))


@torch.no_grad()
def test_pictures_are_seen_once_and_tokens_have_their_places(vlm):
    rows = rows_of(vlm)
    batch = vlm.join(rows, "left")
    seen = models.see(vlm, rows[0].inputs)
    deep = vlm.family.model_type == "qwen3_vl"
    if deep:  # more than its features go into the model: pictures are encoded anew
        assert seen.features is None and seen.inputs is rows[0].inputs and models.features_of([seen]) == {}
    else:
        assert "pixel_values" not in seen.inputs
        features = models.features_of([seen, seen])["mm_encoder_outputs"]["image"].pooler_output
        looked = models.look(vlm.model, vlm.place(vlm.preprocessor.lay_out([row.inputs for row in rows]))).pooler_output
        assert torch.equal(torch.cat(list(features)), torch.cat(list(looked)))
    text = {key: value for key, value in batch.items() if key not in ("input_ids", "attention_mask")}
    places, offsets = models.positions(vlm.model, batch["input_ids"], batch["attention_mask"], text)
    length, pad = batch["input_ids"].shape[1], int((batch["attention_mask"][1] == 0).sum())
    if deep:  # a picture's 15 tokens lie in 3 rows of 5, so what follows goes on 5 places behind the first
        first = rows[0].input_ids.index(vlm.preprocessor.picture_token)
        assert places.shape == (3, 2, length) and offsets.tolist() == [5 - 15] * 2
        assert places[0, 0].tolist()[:first] == list(range(first)) and places[:, 0, -1].tolist() == [length - 11] * 3
    else:
        assert places.tolist() == [list(range(length)), [0] * pad + list(range(length - pad))]
        assert offsets.tolist() == [0, 0]
    alone = models.positions(vlm.model, batch["input_ids"][:1], batch["attention_mask"][:1], {})
    assert (alone[0].tolist(), alone[1].tolist()) == ([list(range(length))], [0])


def test_what_a_model_says_of_itself(base, preprocessor):
    vlm = VLM(attach(base), preprocessor)
    assert vlm.bare.model.language_model.layers and VLM(vlm.bare, preprocessor).bare is vlm.bare
    assert (vlm.family.name, vlm.decoder, vlm.ends) == ("llava-1.5", "continuous", {2})
    for told, ends in ((None, {2}), (7, {2, 7}), ([7, 8], {2, 7, 8})):
        base.generation_config.eos_token_id = told
        assert VLM(base, preprocessor).ends == ends
    for window, more, decoder in (
        (1023, {}, "batched"), (1024, {}, "continuous"), (None, {}, "continuous"),
        (9, {"use_sliding_window": False}, "continuous"), (9, {"use_sliding_window": True}, "batched"),
    ):  # fmt: skip
        text = SimpleNamespace(sliding_window=window, **more)
        told = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda text=text: text))
        assert VLM(told, preprocessor).decoder == decoder
    batch = VLM(base.bfloat16(), preprocessor).join([Row([1, 5], [5, 5], {"pixel_values": torch.ones(1, 3, 2, 2)})])
    assert [(key, each.dtype) for key, each in batch.items()] == [
        *(("input_ids", torch.int64), ("attention_mask", torch.int64)), ("pixel_values", torch.bfloat16)
    ]  # fmt: skip


def test_memory_of_a_picture_by_hand(loaded):
    """56 x 56 pixels are 16 patches of 14 and one for the whole; 32 numbers in 3 layers and 8 more, of 2 bytes."""
    inputs = {"pixel_values": torch.zeros(1, 3, 56, 56), "image_sizes": torch.tensor([[56, 56]])}
    assert models.picture_bytes(loaded.config, inputs, 2) == 17 * 32 * (3 + 8) * 2
    tokens, made = models.picture_by_numbers(loaded.config)
    assert tokens == 16 and made["pixel_values"].shape == (1, 3, 56, 56)
    config = models.load_config(Recorded("qwen3_vl").path)
    vision = config.vision_config
    patches = torch.zeros(12, 3 * vision.temporal_patch_size * vision.patch_size**2)
    assert (
        models.picture_bytes(config, {"pixel_values": patches}, 4) == 13 * vision.hidden_size * (vision.depth + 8) * 4
    )
    assert models.picture_by_numbers(config) is None


def test_lora_reaches_the_projector(base):
    config = models.lora_config(FAMILY, r=4, alpha=8, projector=False)
    models.reach_projector(config, base, FAMILY)
    names = list(models.adapter_parameters(models.attach(base, config, FAMILY)))
    inside = {name.partition(".lora_")[0].rpartition(".")[2] for name in names if "projector" in name}
    assert inside == {"linear_1", "linear_2"}
    assert len(names) == 2 * (14 + 2) and models.stored_as(names, FAMILY) == "lora"
    assert models.stored_as([name for name in names if "projector" not in name], FAMILY) == "frozen"
    with pytest.raises(BadInput, match="projector=lora: the projector of gemma-3 models has no linear layer"):
        models.reach_projector(config, Recorded("gemma3").load(), models.families()["gemma-3"])


@torch.no_grad()
def test_sines_are_trained_about_what_the_projector_was(base, loaded, tmp_path):
    """W + sin(D) in the layers and in what is stored, under the projector's own names; D is kept to the bit."""
    model = attach(base)
    before, plain = said(model), set(models.adapter_parameters(model))
    models.modulate(model, FAMILY)
    assert torch.equal(said(model), before), "D begins at zero"
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad and "projector" in name}
    assert len(trained) == 4 and all(name.endswith(".original") and not each.any() for name, each in trained.items())
    shaken(model)
    with models.plainly_named(model):
        names = {name for name in model.state_dict() if "multi_modal" in name and "modules" in name}
        assert names == {name for name in plain if "multi_modal" in name}
    stored = models.baked(dict(model.named_parameters()))
    name = next(name for name in plain if name.endswith("default.linear_1.weight"))
    moved = next(each for key, each in trained.items() if "linear_1" in key and "weight" in key)
    untouched = loaded.model.multi_modal_projector.linear_1.weight
    assert plain < stored.keys() and torch.equal(stored[name], untouched + torch.sin(moved)) and moved.any()
    assert models.stored_as(plain, FAMILY) == "full"
    models.save_sines(model, tmp_path)
    kept = {name: each.clone() for name, each in trained.items()}
    assert load_file(tmp_path / "sines.safetensors").keys() == trained.keys()
    shaken(model)
    models.load_sines(model, tmp_path)
    assert all(torch.equal(each, kept[name]) for name, each in trained.items())
    (tmp_path / "sines.safetensors").write_bytes(b"")
    with pytest.raises(BadInput, match=r"sines.safetensors: not what the projector was moved by"):
        models.load_sines(model, tmp_path)
    models.load_sines(loaded, tmp_path / "nowhere")  # it has none, and asks for none
