"""Faults that would pass unnoticed in some families: placeholders, tiles, a first token."""

import json
import re
import shutil

import pytest
from helpers import RECORDED, TRAIN, refused, run, write_json
from PIL import Image

from safeeraser.benchmark.files import read_json
from safeeraser.errors import BadInput
from safeeraser.model.load import load_preprocessor
from safeeraser.model.turns import Turn

from .recorded import FAMILIES, label_losses, nlls, on, picture

# The tokens in a text that each family's processor would take for pictures, videos or sounds.
PLACEHOLDERS = {name: ["<image>"] for name in FAMILIES} | {
    "gemma3": ["<start_of_image>", "<image_soft_token>"],
    "gemma4": ["<|image|>", "<|audio|>", "<|video|>"],
    "internvl": ["<IMG_CONTEXT>"],
    **{name: ["<|image_pad|>"] for name in FAMILIES if name.startswith("qwen")},
}


def test_a_placeholder_in_a_text_is_refused_by_name(family):
    """With it, a processor would count more pictures than it gets."""
    shown = picture(family.rows[0]["picture"])
    for placeholder in PLACEHOLDERS[family.name]:
        text = f"What is {placeholder} here?"
        for turn in (Turn(shown, text), Turn(shown, "What?", text), Turn(None, text)):
            with pytest.raises(BadInput, match=re.escape(placeholder)):
                family.preprocessor.encode(turn)


@on("qwen3_vl")
@pytest.mark.slow
def test_both_commands_name_a_picture_of_a_shape_that_the_processor_refuses(tmp_path, family):
    """Training refuses it. Inference loses only the record with this picture."""
    records = json.loads(TRAIN.read_text(encoding="utf-8"))
    for record in records:
        record |= {key: str(RECORDED / record[key]) for key in ("image_path", "SDImage_path")}
    Image.new("RGB", (2010, 10)).save(tmp_path / "narrow.png")
    records[0]["image_path"] = str(tmp_path / "narrow.png")
    data = write_json(tmp_path / "all_train.json", records)
    shutil.copy(TRAIN.with_name("prompt.json"), tmp_path)
    words = ("recipe=corrected", f"model_path={family.path}", f"data_path={data}", f"save_dir={tmp_path / 'run'}")
    assert "record 0, " in refused(tmp_path, "forget", *words, says="2010 x 10 pixels", before="loading")
    asked = ("--model_path", family.path, "--eval_file", data, "--output_file", tmp_path / "p.json")
    done = run("ckpt_infer", *asked, "--max_new_tokens", "1", "--only", "forget")
    assert done.returncode == 3 and f"{tmp_path / 'narrow.png'}: a picture of 2010 x 10 pixels" in done.stderr
    first, second, *_ = read_json(tmp_path / "p.json")
    for record, lost in ((first, True), (second, False)):
        assert all((pair["model_response1"] is None) == lost for pair in record["unsafe_pairs"])


@on("qwen3_5")
def test_a_thought_that_a_template_may_leave_open_is_closed(family, tmp_path):
    """Larger models of the family have such a template. An open thought would swallow the answer."""
    folder, empty = shutil.copytree(family.path, tmp_path / "model"), "<think>\n\n</think>\n\n"
    before, _, behind = (folder / "chat_template.jinja").read_text(encoding="utf-8").rpartition(f"{empty}' }}}}")
    either = f"' + ('<think>\n' if enable_thinking | default(true) else '{empty}') }}}}"
    (folder / "chat_template.jinja").write_text(before + either + behind, encoding="utf-8")
    turn = Turn(None, "What?", "That.")
    assert load_preprocessor(str(folder)).encode(turn) == family.preprocessor.encode(turn)


def test_pictures_of_several_shapes_in_one_batch_leave_each_loss_alone(family):
    shapes = list({row["image_tokens"]: row for row in reversed(family.rows)}.values())  # the first row of each
    counts = {"llava_next": {25, 27}, "internvl": {4, 12}, "qwen3_vl": {12, 15}}
    assert {row["image_tokens"] for row in shapes} == counts.get(family.name, {row["image_tokens"] for row in shapes})
    chosen = [*shapes, *family.rows[:3]]
    found = nlls(family, family.model, [family.encode(row) for row in chosen], size=len(chosen), side="left")
    assert found == pytest.approx([row["nll"] for row in chosen], abs=1e-5, rel=0)


def test_rows_without_a_picture_stand_beside_rows_that_have_one(family):
    turns = [Turn(None, "Bravo victor?", "Kilo."), Turn(None, "Sierra tango alpha kilo?", "LIMA mike.")]
    rows = [family.preprocessor.encode(turn) for turn in turns]
    alone, first = [nlls(family, family.model, [row])[0] for row in rows], family.rows[0]["input_ids"][0]
    assert all(row.input_ids.count(first) == family.rows[0]["input_ids"].count(first) for row in rows), "of <bos> one"
    assert nlls(family, family.model, rows) == pytest.approx(alone, abs=1e-5, rel=0)
    first, second = label_losses(family, family.model, [rows[0], family.encode(family.rows[0])], size=2)
    assert first.mean().item() == pytest.approx(alone[0], abs=1e-5)
    assert second.mean().item() == pytest.approx(family.rows[0]["nll"], abs=1e-5)
