"""The family that a guide in docs/ adds, tested on a model of that family. It computes the same as transformers, and
each fault in its config file is named."""

import json
import re
import shutil

import pytest
import torch
from helpers import MODEL, RECORDED, ROOT, TRAIN, VAL, ran, read_beside, refusal
from transformers import AutoModelForImageTextToText, AutoProcessor
from unlearn.given import settings

from safeeraser.benchmark import family as pages
from safeeraser.benchmark.pictures import open_picture
from safeeraser.errors import BadInput
from safeeraser.model.turns import Turn
from safeeraser.model.vlm import VLM

from .recorded import nlls
from .stranger import END, REPEATED, write_model

pytestmark = pytest.mark.slow

GUIDE = (ROOT / "docs" / "guides" / "add-a-method-a-family-a-judge.md").read_text(encoding="utf-8")
NAME, PAGE = re.search(r"^# config/model_family/(\S+)\.yaml\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL).groups()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("stranger") / "model")


@pytest.fixture
def add_page(tmp_path, monkeypatch):
    """A function that adds the guide's config file to the package's files, with `right` replaced by `wrong`."""
    shutil.copytree(pages.PAGES, tmp_path / "pages")
    monkeypatch.setattr(pages, "PAGES", tmp_path / "pages")

    def add(right="", wrong=""):
        assert not right or PAGE.count(right) == 1
        (tmp_path / "pages" / f"{NAME}.yaml").write_text(PAGE.replace(right, wrong), encoding="utf-8")
        pages.families.cache_clear()

    yield add
    monkeypatch.undo()
    pages.families.cache_clear()


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    read_beside(__file__, "refused.yaml")["page"],
)
def test_a_page_that_is_wrong_is_named_whatever_is_run(right, wrong, says, add_page, tmp_path):
    """A run of another model reads the file too, to find that model's family."""
    add_page(right, wrong)
    for read in (lambda: pages.page_of_type("qwen3_vl"), lambda: settings(f"model_path={MODEL}", "model_family=auto")):
        said = refusal(read)
        assert str(tmp_path / "pages" / f"{NAME}.yaml") in said and says in said and "\n" not in said


def plain(processor, turn, *, answered):
    """The inputs that transformers alone makes from a turn."""
    asked = [{"type": "image", "image": turn.picture}, {"type": "text", "text": turn.question}]
    chat = [{"role": "user", "content": asked}]
    if answered:
        chat.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
    how = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    return processor.apply_chat_template(chat, add_generation_prompt=not answered, **how)


def test_it_computes_what_transformers_does(folder, add_page, tmp_path):
    """Rows and losses agree for pictures of several shapes. A picture counts as one token, although the token that
    marks it is not the repeated one. The untouched model answers as `generate` does."""
    add_page()
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    loaded, processor = VLM.load(str(folder), torch.float32), AutoProcessor.from_pretrained(folder)
    rows, losses = [], []
    for record in json.loads(TRAIN.read_text(encoding="utf-8"))[:3]:
        said = record["unsafe_pairs"][0]
        for key in ("image_path", "SDImage_path"):
            turn = Turn(open_picture(RECORDED / record[key]), said["question"], said["model_response"])
            row, whole = loaded.encode(turn, end_of_answer=True), plain(processor, turn, answered=True)
            prompt = plain(processor, turn, answered=False)["input_ids"].shape[1]
            assert row.input_ids == whole["input_ids"][0].tolist() and processor.decode(row.input_ids[-1]) == END
            assert row.labels == [-100] * prompt + row.input_ids[prompt:]
            assert torch.equal(row.inputs["pixel_values"], whole["pixel_values"])
            losses.append(model(**whole, labels=torch.tensor([row.labels])).loss.item())
            rows.append(row)
    assert len({len(row.inputs["pixel_values"]) for row in rows}) > 1
    assert nlls(loaded, loaded.model, rows) == pytest.approx(losses, abs=1e-5)
    counted = len(row.input_ids) - row.input_ids.count(processor.tokenizer.convert_tokens_to_ids(REPEATED)) + 1
    assert loaded.encode(turn, end_of_answer=True, max_length=counted).input_ids == row.input_ids
    assert loaded.encode(turn, end_of_answer=True, max_length=counted - 1).input_ids == row.input_ids[:-1]
    for name in (REPEATED, "<image>"):
        with pytest.raises(BadInput, match=re.escape(f"'{name}'")):
            loaded.encode(Turn(turn.picture, f"What is {name}?"))
    asked = ("--only", "retain", "--limit", 1, "--greedy", "--max_new_tokens", 24, "--dtype", "float32")
    ran("ckpt_infer", "--model_path", folder, "--eval_file", VAL, *asked, "--output_file", tmp_path / "p.json")
    for record in json.loads((tmp_path / "p.json").read_text(encoding="utf-8")):
        pair = record["UnharmPair_text1"]
        inputs = plain(processor, Turn(open_picture(RECORDED / record["image_path"]), pair["Question"]), answered=False)
        said = model.generate(**inputs, do_sample=False, max_new_tokens=24)[0, inputs["input_ids"].shape[1] :]
        assert pair["Prediction"] == processor.decode(said, skip_special_tokens=True).strip() != ""
