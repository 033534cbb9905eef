"""Turns become rows, and rows become batches: the release's wording and its answer mask token by token, other families'
wordings and system texts, and the model's inputs besides the tokens."""

import json
import pickle
import shutil

import pytest
import torch
from families.recorded import Recorded, picture
from helpers import llama_tokenizer, read_beside, write_json
from PIL import Image
from transformers import CLIPImageProcessorPil, LlavaProcessor

from safeeraser.benchmark.conversation import IGNORE, IMAGE, prompt
from safeeraser.benchmark.family import page_of_type
from safeeraser.model.load import load_preprocessor
from safeeraser.model.preprocess import Preprocessor
from safeeraser.model.turns import Row, Turn


@pytest.fixture(scope="module")
def llama():
    return llama_tokenizer()


def encode(tokenizer, question, answer=None, *, who="user", place=IMAGE, **how):
    """The row of a conversation about a picture, which `place` represents in the text."""
    processor = LlavaProcessor(CLIPImageProcessorPil(), tokenizer, 14, "default", num_additional_image_tokens=1)
    image_token = tokenizer.convert_tokens_to_ids(IMAGE)
    preprocessor = Preprocessor(processor, page_of_type("llava"), 4096, image_token, "")
    return preprocessor.encode_text(Turn(None, question, answer, who), place, **how)


def targets(encoded):
    """The targets in order, after a check that each label is the token at its position."""
    for token, label in zip(encoded.input_ids, encoded.labels, strict=True):
        assert label in (IGNORE, token)
    return [label for label in encoded.labels if label != IGNORE]


@pytest.mark.parametrize(
    ("question", "answer", "tokens"),
    read_beside(__file__, "tokens.yaml")["answers"],
)
def test_the_mask_on_the_llama_2_vocabulary_begins_behind_assistant_and_loses_no_token(llama, question, answer, tokens):
    encoded = encode(llama, question, answer, who="human")
    ids, first = encoded.input_ids, len(encoded.input_ids) - len(tokens)
    assert llama.convert_ids_to_tokens(targets(encoded)) == tokens and encoded.labels[first:] == ids[first:]
    assert llama.convert_ids_to_tokens(ids[first - 5 : first]) == ["▁A", "SS", "IST", "ANT", ":"]
    assert llama.decode(ids[1:first]).replace(" ", "") == prompt(question, "human").replace(" ", "")
    # The tokens that every LLaVA-1.5 prompt has around its picture: "USER:", "▁", the picture, "▁", newline.
    at = ids.index(32000)
    assert ids[at - 4 : at + 3] == [3148, 1001, 29901, 29871, 32000, 29871, 13] and ids[0] == 1
    # The token that ends the answer is the last target, and changes nothing else.
    ended = encode(llama, question, answer, who="human", end_of_answer=True)
    assert ended == Row([*ids, 2], [*encoded.labels, 2]) and 2 not in ids


def test_rows_of_the_recorded_model(preprocessor):
    """Its tokenizer has another pre-tokenizer (Metaspace). Padding, end and picture tokens are the model's own."""
    turn = Turn(Image.new("RGB", (90, 60)), "Sierra romeo?", "Uniform sierra.", "human")
    row = preprocessor.encode(turn, end_of_answer=True)
    assert preprocessor.tokenizer.decode(targets(row)).strip() == "Uniform sierra.</s>"
    assert preprocessor.tokenizer.decode(row.input_ids[: -len(targets(row))]).endswith("ASSISTANT:")
    assert row.input_ids.count(500) == 16 and (preprocessor.picture_token, preprocessor.pad_token) == (500, 501)
    assert row.inputs["pixel_values"].shape == (1, 3, 56, 56) and preprocessor.end_token == 2
    assert preprocessor.same_for_all and preprocessor.place(lambda: pytest.fail("needs no size")) == IMAGE * 16
    assert preprocessor.most_tokens(row.input_ids, 40) == 55 and preprocessor.most_tokens([1, 2], 40) == 40
    assert preprocessor.reserved == [IMAGE] and preprocessor.types is None and preprocessor.context == 1024
    again = pickle.loads(pickle.dumps(preprocessor))  # as a loading process receives it
    assert again.encode(turn, end_of_answer=True).input_ids == row.input_ids


def test_a_batch_by_hand(preprocessor):
    first, second = {"pixel_values": torch.ones(1, 3, 2, 2)}, {"pixel_values": torch.full((2, 3, 2, 2), 2.0)}
    rows = [Row([1, 5], [IGNORE, 5], first), Row([7], [7]), Row([1, 500, 500, 9], [IGNORE] * 3 + [9], second)]
    for side, ids in (
        ("right", [[1, 5, 501, 501], [7, 501, 501, 501], [1, 500, 500, 9]]),
        ("left", [[501, 501, 1, 5], [501, 501, 501, 7], [1, 500, 500, 9]]),
    ):
        batch = preprocessor.join(rows, side)
        assert batch.keys() == {"input_ids", "attention_mask", "pixel_values"} and batch["input_ids"].tolist() == ids
        assert batch["attention_mask"].tolist() == [[int(each != 501) for each in row] for row in ids]
        assert batch["pixel_values"][:, 0, 0, 0].tolist() == [1, 2, 2]
    for chosen, pictures in (([0], [0]), ([2, 0], [1, 2, 0]), ([1], None)):
        places = {name: each.tolist() for name, each in preprocessor.entries(rows, chosen).items()}
        expected = {"input_ids": chosen, "attention_mask": chosen} | ({"pixel_values": pictures} if pictures else {})
        assert places == expected
    # A picture with fewer tiles than another is filled up with zeros.
    tiles = preprocessor.lay_out([{"p": torch.ones(1, 3, 2)}, {}, {"p": torch.ones(1, 2, 2)}])["p"]
    assert tiles.tolist() == [[[1, 1]] * 3, [[1, 1], [1, 1], [0, 0]]]


def test_the_folder_bounds_a_pictures_pixels_and_processors_of_one_setting_share_outlines(tmp_path):
    """docs/reference/models.md describes the bound. Processors with equal settings share one cache of outlines."""
    folder, size = shutil.copytree(Recorded("qwen2_5_vl").path, tmp_path / "model"), lambda: (400, 300)
    told = json.loads((folder / "processor_config.json").read_text())
    told["image_processor"]["size"] = {"shortest_edge": 784, "longest_edge": 7840}
    write_json(folder / "processor_config.json", told)
    whole, same, bounded = (load_preprocessor(str(path)) for path in (*[Recorded("qwen2_5_vl").path] * 2, folder))
    assert whole.outline(size) is same.outline(size) and whole.place(size) == whole.show(Image.new("RGB", size())).text
    places = [each.place(size).count(each.processor.image_token) for each in (whole, bounded)]
    assert places[0] > 2 * places[1] > 0 and bounded.show(Image.new("RGB", size())).text == bounded.place(size)


@pytest.mark.parametrize("name", ["gemma3", "qwen3_vl"])
def test_a_family_with_a_template_of_its_own_is_asked_as_transformers_asks_it(name):
    """Ids (also from the picture's size alone) and token types equal transformers', with and without a system text."""
    prepared, shown = load_preprocessor(Recorded(name).path), picture(Recorded(name).rows[0]["picture"])
    processor = prepared.processor
    for question, system in (("\n What?", "Be brief."), ("A", None)):
        chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        if system:
            chat.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
        how = {"chat_template": processor.chat_template, "tokenize": False, "add_generation_prompt": True}
        text = prepared.tokenizer.apply_chat_template(chat, **how)
        whole = processor(text=[text], images=[shown], return_tensors="pt", add_special_tokens=name != "gemma3")
        row = prepared.encode(Turn(shown, question, system=system))
        assert row.input_ids == whole["input_ids"][0].tolist()
        place = prepared.place(lambda: shown.size)
        assert prepared.encode_text(Turn(None, question, system=system), place).input_ids == row.input_ids
    batch, pixels = prepared.join([row, Row([1], [1])], "left"), len(row.inputs["pixel_values"])
    assert prepared.types in whole and batch.keys() == whole.keys()
    assert batch[prepared.types].tolist() == [whole[prepared.types][0].tolist(), [0] * len(row.input_ids)]
    assert prepared.entries([row, row], [1])["pixel_values"].tolist() == list(range(pixels, 2 * pixels))
    for key, each in prepared.outline(lambda: shown.size).inputs.items():
        assert (each.shape, each.device.type) == (row.inputs[key].shape, "meta")
    assert prepared.same_for_all == (name == "gemma3") and len(prepared.reserved) == 2
