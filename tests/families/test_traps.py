"""What goes wrong without a word in one family or another, each by its name."""

import json
import re
import shutil
from unittest.mock import Mock

import pytest
import torch
from helpers import MODEL, RECORDED, TRAIN, refused, run, write_json
from PIL import Image
from transformers import AutoTokenizer

from safeeraser import model as vlm
from safeeraser.benchmark.files import read_json
from safeeraser.errors import BadInput

from .recorded import FAMILIES, IGNORE, Recorded, answers, logits, nlls, picture, start_of

# What stands for the picture in a text, as each processor counts it.
PLACEHOLDERS = {
    "gemma3": ["<start_of_image>", "<image_soft_token>"],
    "idefics3": ["<image>"],
    "internvl": ["<IMG_CONTEXT>"],
    "llava_next": ["<image>"],
    "llava_next_vicuna": ["<image>"],
    "qwen2_5_vl": ["<|image_pad|>"],
    "qwen3_vl": ["<|image_pad|>"],
    "smolvlm": ["<image>"],
}
TYPE_IDS = {"gemma3": "token_type_ids", "qwen2_5_vl": "mm_token_type_ids", "qwen3_vl": "mm_token_type_ids"}
# By the type of the model, which a family's name may write with other signs between.
KNOWN = ("gemma3", "idefics3", "internvl", "llava", "llavanext", "qwen25vl", "qwen3vl", "smolvlm")


def with_question(folder, question):
    """The recorded data file with another question in its first record."""
    records = json.loads(TRAIN.read_text(encoding="utf-8"))
    records[0]["unsafe_pairs"][1]["question"] = question
    for record in records:
        for key in ("image_path", "SDImage_path"):
            record[key] = str(RECORDED / record[key])
    shutil.copy(TRAIN.with_name("prompt.json"), folder)
    return write_json(folder / "all_train.json", records)


def copied(folder, family, file, **changed):
    """A copy of the family's model with some keys of one of its files changed; returns its folder."""
    shutil.copytree(Recorded(family).folder / "model", folder / "model")
    there = folder / "model" / file
    write_json(there, json.loads(there.read_text(encoding="utf-8")) | changed)
    return str(folder / "model")


# A placeholder in a text: processors count more pictures than they are given, and raise.


def test_a_placeholder_in_a_text_is_refused_by_name(family):
    shown = picture(family.rows[0]["picture"])
    for placeholder in PLACEHOLDERS[family.name]:
        text = f"What is {placeholder} here?"
        for turn in (vlm.Turn(shown, text), vlm.Turn(shown, "What?", text), vlm.Turn(None, text)):
            with pytest.raises(BadInput, match=re.escape(placeholder)):
                family.preprocessor.encode(turn)


@pytest.mark.parametrize("name", ["qwen3_vl", "gemma3", "internvl"])
def test_a_placeholder_in_a_question_is_refused_by_both_commands(tmp_path, name):
    family, placeholder = Recorded(name), PLACEHOLDERS[name][0]
    data = with_question(tmp_path, f"What is {placeholder}?")
    given = ("--model_path", family.path, "--eval_file", data, "--output_file", tmp_path / "p.json")
    line = refused(tmp_path, "ckpt_infer", *given, says=placeholder, before="loading")
    assert "record 0, unsafe_pairs.1" in line
    # The official recipe would write it in small letters, as which it stands for nothing.
    words = ("recipe=corrected", f"model_path={family.path}", f"data_path={data}", f"save_dir={tmp_path / 'run'}")
    line = refused(tmp_path, "forget", *words, says=placeholder, before="loading")
    assert "record 0, unsafe_pairs" in line


# Type ids of the picture's tokens: left out, two families compute something else without a word.


@pytest.mark.parametrize("name, without", [("qwen2_5_vl", 6.732), ("gemma3", 6.198)])
def test_type_ids_that_are_left_out_change_the_loss(name, without):
    family = Recorded(name)
    row = family.encode(family.rows[0])
    assert nlls(family, family.model, [row]) == pytest.approx([family.rows[0]["nll"]], abs=1e-5)
    batch = family.preprocessor.join([row])
    del batch[TYPE_IDS[name]]
    with torch.no_grad():
        said = family.model(**batch).logits[0, :-1]
    found = torch.nn.functional.cross_entropy(said, torch.tensor(row.labels[1:])).item()
    assert found == pytest.approx(without, abs=1e-3)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", TYPE_IDS)
def test_type_ids_go_on_behind_the_prompt_and_are_padded_with_the_rows(name, side):
    family = Recorded(name)
    rows = [family.encode(row, end_of_answer=True) for row in family.of_each_shape() + family.rows[:3]]
    batch = family.preprocessor.join(rows, side=side)
    types = batch[TYPE_IDS[name]]
    assert types.shape == batch["input_ids"].shape
    assert len({len(row.input_ids) for row in rows}) > 1
    image = family.figures["image_token_id"]
    assert torch.equal(types.bool(), batch["input_ids"] == image)


# Two bos: gemma3's template writes one and its tokenizer would add another; llava_next's tokenizer alone has one.


@pytest.mark.parametrize("name", ["gemma3", "llava_next", "llava_next_vicuna", "idefics3", "smolvlm"])
def test_a_row_begins_with_one_bos(name):
    family = Recorded(name)
    bos = AutoTokenizer.from_pretrained(family.path).bos_token_id
    for row in (family.encode(family.rows[0]), family.encode(family.rows[0], answer=False)):
        assert row.input_ids[0] == bos and row.input_ids.count(bos) == 1


@pytest.mark.parametrize("name", ["gemma3", "llava_next"])
def test_a_row_without_a_picture_begins_with_one_bos(name):
    family = Recorded(name)
    bos = AutoTokenizer.from_pretrained(family.path).bos_token_id
    row = family.preprocessor.encode(vlm.Turn(None, "Bravo victor?", "Kilo."))
    assert row.input_ids[0] == bos and row.input_ids.count(bos) == 1
    assert family.figures["image_token_id"] not in row.input_ids


# Padding: left where an answer is written on, right in training, whatever the saved tokenizer or its class would do.


@pytest.mark.parametrize("saved", ["left", "right"])
def test_the_side_that_is_padded_is_not_the_saved_one(tmp_path, family, saved):
    path = copied(tmp_path, family.name, "tokenizer_config.json", padding_side=saved)
    preprocessor = vlm.load_preprocessor(path)
    rows = [family.encode(row) for row in family.rows[:3]]
    lengths = [len(row.input_ids) for row in rows]
    assert len(set(lengths)) > 1
    for side in ("right", "left"):
        batch = preprocessor.join(rows, side=side)
        for row, ids, mask in zip(rows, batch["input_ids"], batch["attention_mask"], strict=True):
            length = len(row.input_ids)
            there = slice(0, length) if side == "right" else slice(max(lengths) - length, None)
            assert ids[there].tolist() == row.input_ids
            assert mask[there].all() and mask.sum() == length


@pytest.mark.parametrize("name, saved", [("gemma3", "right"), ("internvl", "right"), ("llava_next", "left")])
def test_answers_do_not_depend_on_the_saved_side(tmp_path, name, saved):
    path = copied(tmp_path, name, "tokenizer_config.json", padding_side=saved)
    more = ("--model_path", path, "--categories", "HateSpeech,Privacy", "--only", "retain", "--batch_size", 6)
    found = answers(Recorded(name), tmp_path / "p.json", *more)
    assert len(found) == 8
    recorded = {(row["view"], row["index"]): {row["response"]} for row in Recorded(name).rows}
    assert found == {item: recorded[item] for item in found}


# Joining pictures: rows of tiles, tiles of all rows, patches of all rows; and pictures of several shapes in a batch.


@pytest.mark.parametrize("side", ["left", "right"])
def test_pictures_of_several_shapes_in_one_batch_leave_each_loss_alone(family, side):
    chosen = [*family.of_each_shape(), *family.rows[:3]]
    rows = [family.encode(row) for row in chosen]
    found = nlls(family, family.model, rows, size=len(rows), side=side)
    assert found == pytest.approx([row["nll"] for row in chosen], abs=1e-5, rel=0)


@pytest.mark.parametrize("name", ["llava_next", "llava_next_vicuna"])
def test_tiles_are_padded_to_the_most(name):
    family = Recorded(name)
    portrait, landscape = (family.encode(row) for row in family.of_each_shape())
    tiles = sorted(row.inputs["pixel_values"].shape[-4] for row in (portrait, landscape))
    assert tiles == [3, 4]
    pixels = family.preprocessor.join([portrait, landscape])["pixel_values"]
    assert pixels.shape[:2] == (2, 4)
    assert not pixels[:, 3].any(dim=(1, 2, 3)).all() and pixels[:, 3].any()


def test_several_shapes_are_there_where_the_family_knows_them():
    """What the two tests above stand on."""
    counts = {name: [row["image_tokens"] for row in Recorded(name).of_each_shape()] for name in FAMILIES}
    assert sorted(counts["llava_next"]) == [25, 27] and sorted(counts["internvl"]) == [4, 12]
    assert sorted(counts["qwen2_5_vl"]) == sorted(counts["qwen3_vl"]) == [12, 15]


def test_a_row_without_a_picture_joins_rows_that_have_none(family):
    turns = [vlm.Turn(None, "Bravo victor?", "Kilo."), vlm.Turn(None, "Sierra tango alpha kilo?", "LIMA mike.")]
    rows = [family.preprocessor.encode(turn) for turn in turns]
    alone = [nlls(family, family.model, [row])[0] for row in rows]
    assert nlls(family, family.model, rows) == pytest.approx(alone, abs=1e-5, rel=0)
    assert logits(family.model, family.preprocessor.join(rows)).isfinite().all()


# A picture is never cut.


def test_a_picture_that_is_too_long_is_refused(family):
    row = family.rows[0]
    inside = row["input_ids"].index(family.figures["image_token_id"]) + 1
    assert inside < start_of(row["labels"])
    with pytest.raises(BadInput, match=f"max_length.*{inside}|{inside}.*max_length"):
        family.encode(row, max_length=inside)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_a_picture_of_a_shape_that_the_processor_refuses_is_told_by_its_place(tmp_path, name):
    family = Recorded(name)
    data = with_question(tmp_path, "What is it?")
    records = json.loads(data.read_text(encoding="utf-8"))
    Image.new("RGB", (2010, 10)).save(tmp_path / "narrow.png")
    write_json(data, [records[0] | {"image_path": str(tmp_path / "narrow.png")}, records[1]])
    words = ("recipe=corrected", f"model_path={family.path}", f"data_path={data}", f"save_dir={tmp_path / 'run'}")
    line = refused(tmp_path, "forget", *words, says="2010 x 10 pixels", before="loading")
    assert "record 0, " in line
    out = tmp_path / "p.json"
    given = ("--model_path", family.path, "--eval_file", data, "--output_file", out, "--max_new_tokens", "1")
    done = run("ckpt_infer", *given, "--only", "forget")
    assert done.returncode == 3 and f"{tmp_path / 'narrow.png'}: a picture of 2010 x 10 pixels" in done.stderr
    first, second = ([pair["model_response1"] for pair in record["unsafe_pairs"]] for record in read_json(out))
    assert first == [None] * 4 and None not in second


# What stands behind an answer is left out, whatever letters it has.


def test_what_a_template_writes_behind_an_answer_is_no_target():
    prepared = vlm.load_preprocessor(Recorded("qwen3_vl").path)
    prepared.processor.chat_template = (
        "{% for message in messages %}[{{ message['role'] }}]"
        "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
        "<|END OF AN ANSWER|>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    row = prepared.encode(vlm.Turn(None, "What is it?", "A picture."))
    assert prepared.tokenizer.decode([label for label in row.labels if label != IGNORE]) == "A picture."


# A picture's tokens are read as runs.


@pytest.mark.parametrize("name", ["llava_tiny", *FAMILIES])
def test_a_run_of_a_pictures_tokens_is_read_as_one_and_counts_as_all(name):
    prepared = vlm.load_preprocessor(str(MODEL) if name == "llava_tiny" else Recorded(name).path)
    read = []

    def tokenize(text, **how):
        read.append(text)
        return tokenizer(text, **how)

    tokenizer, repeated = prepared.tokenizer, prepared.tokenizer.convert_ids_to_tokens(prepared.picture_token)
    prepared.tokenizer = Mock(wraps=tokenizer, side_effect=tokenize, bos_token=tokenizer.bos_token)
    for size in ((64, 64), (300, 40), (40, 300)):
        place = prepared.place(lambda size=size: size)
        for question in ("What is it?", "\n What?", "", "A"):
            prompt, _ = prepared._texts(vlm.Turn(None, question), place)
            bos = tokenizer.bos_token
            expected = tokenizer(prompt, add_special_tokens=not (bos and prompt.startswith(bos)))["input_ids"]
            read.clear()
            assert prepared.encode_text(vlm.Turn(None, question), place).input_ids == expected
            assert read and all(repeated * 2 not in text for text in read)


# Which family a folder is of.


@pytest.mark.parametrize("kind", ["paligemma", "model_of_tomorrow"])
def test_an_unknown_model_type_is_refused_with_those_that_are_known(tmp_path, kind):
    path = copied(tmp_path, "smolvlm", "config.json", model_type=kind)
    words = (f"model_path={path}", f"data_path={TRAIN}", f"save_dir={tmp_path / 'run'}")
    lines = [refused(tmp_path, "forget", *words, says=kind)]
    given = ("--model_path", path, "--eval_file", TRAIN, "--output_file", tmp_path / "p.json")
    lines.append(refused(tmp_path, "ckpt_infer", *given, says=kind))
    for line in lines:
        told = re.sub(r"[-_.]", "", line.lower())
        assert [name for name in KNOWN if name not in told] == [], line
        assert "model_family" in line, "the way to add one"


@pytest.mark.parametrize(
    "chosen, name",
    [
        ("qwen3-vl-2b", "gemma3"),
        ("gemma-3-4b", "qwen2_5_vl"),
        ("llava-1.5-7b", "llava_next"),
        ("smolvlm-256m", "llava-tiny"),
    ],
)
def test_a_family_that_contradicts_the_folder_is_refused(tmp_path, chosen, name):
    path = str(MODEL) if name == MODEL.name else Recorded(name).path
    words = (f"model_family={chosen}", f"model_path={path}", f"data_path={TRAIN}", f"save_dir={tmp_path / 'run'}")
    line = refused(tmp_path, "forget", *words, says="model_family")
    assert path in line and chosen.split("-")[0] in line.replace(path, "")


@pytest.mark.parametrize("chosen, name", [("gemma-3-4b", "gemma3"), ("smolvlm-256m", "smolvlm")])
def test_a_family_that_is_the_folders_own_is_not_refused(tmp_path, chosen, name):
    words = (f"model_family={chosen}", f"model_path={Recorded(name).path}", f"data_path={TRAIN}", "dry_run=true")
    done = run("forget", *words, f"save_dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
