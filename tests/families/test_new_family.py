"""The page that docs/developing.md adds, on a model of that family: it computes what transformers does, and what is
wrong in a page is told."""

import json
import re
import shutil

import pytest
import torch
from helpers import MODEL, ROOT, TRAIN, VAL, refused, run, settings
from transformers import AutoModelForImageTextToText, AutoProcessor

from safeeraser import model as vlm
from safeeraser.benchmark import family as pages
from safeeraser.benchmark.pictures import open_picture
from safeeraser.errors import BadInput

from .recorded import RECORDED, nlls
from .stranger import END, REPEATED, write_model

pytestmark = pytest.mark.slow

GUIDE = (ROOT / "docs" / "developing.md").read_text(encoding="utf-8")
NAME, PAGE = re.search(r"^# config/model_family/(\S+)\.yaml\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL).groups()
FEW = (f"data_path={TRAIN}", "dtype=float32", "workers=0", "max_train_steps=1", "gradient_accumulation_steps=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("stranger") / "model")


@pytest.fixture
def add_page(tmp_path, monkeypatch):
    """Adds a page to those of the package, as a file beside them would."""
    shutil.copytree(pages.PAGES, tmp_path / "pages")
    monkeypatch.setattr(pages, "PAGES", tmp_path / "pages")

    def add(text=PAGE):
        (tmp_path / "pages" / f"{NAME}.yaml").write_text(text, encoding="utf-8")
        pages.families.cache_clear()

    yield add
    monkeypatch.undo()
    pages.families.cache_clear()


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ("decoder:", "decodr:", "no key 'decodr'; did you mean 'decoder'?"),
        ("decoder: batched", "decoder: batchd", "decoder: Input should be 'continuous' or 'batched'"),
        ("end_of_turn:", "# end_of_turn:", "end_of_turn: Field required"),
        ("name:", "defaults: [gema-3, _self_]\nname:", "defaults: no page 'gema-3'; did you mean 'gemma-3'?"),
        ("name:", "]name:", "not YAML ("),
        ("lora_targets:", "lmms_eval: {model: aya, dtyp: float16}\nlora_targets:", "did you mean 'dtype'?"),
    ],
)
def test_a_page_that_is_wrong_is_named_whatever_is_run(right, wrong, says, add_page, tmp_path):
    """Another model's run reads it too, to see which family that is of."""
    assert PAGE.count(right) == 1
    add_page(PAGE.replace(right, wrong))
    with pytest.raises(BadInput, match=re.escape(str(tmp_path / "pages" / f"{NAME}.yaml"))) as error:
        pages.page_of_type("qwen3_vl")
    assert says in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(BadInput, match=re.escape(says)):
        settings(f"model_path={MODEL}", "model_family=auto")


def turns():
    """A question with its answer about each picture of a record, which are of several shapes."""
    for record in json.loads(TRAIN.read_text(encoding="utf-8"))[:3]:
        first = record["unsafe_pairs"][0]
        for key in ("image_path", "SDImage_path"):
            yield vlm.Turn(open_picture(RECORDED / record[key]), first["question"], first["model_response"])


def plain(processor, turn, *, answered):
    """What transformers makes of a turn by itself."""
    chat = [{"role": "user", "content": [{"type": "image", "image": turn.picture}, text(turn.question)]}]
    if answered:
        chat.append({"role": "assistant", "content": [text(turn.answer)]})
    how = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    return processor.apply_chat_template(chat, add_generation_prompt=not answered, **how)


def text(words):
    return {"type": "text", "text": words}


def test_rows_and_losses_are_those_of_transformers(folder, add_page):
    add_page()
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    loaded, processor = vlm.VLM.load(str(folder), torch.float32), AutoProcessor.from_pretrained(folder)
    rows, losses = [], []
    for turn in turns():
        row, whole = loaded.encode(turn, end_of_answer=True), plain(processor, turn, answered=True)
        prompt = plain(processor, turn, answered=False)["input_ids"].shape[1]
        assert row.input_ids == whole["input_ids"][0].tolist() and processor.decode(row.input_ids[-1]) == END
        assert row.labels == [-100] * prompt + row.input_ids[prompt:]
        assert torch.equal(row.inputs["pixel_values"], whole["pixel_values"])
        losses.append(model(**whole, labels=torch.tensor([row.labels])).loss.item())
        rows.append(row)
    assert len({len(row.inputs["pixel_values"]) for row in rows}) > 1
    assert nlls(loaded, loaded.model, rows) == pytest.approx(losses, abs=1e-5)


def test_the_picture_counts_as_one_though_another_token_stands_for_it(folder, add_page):
    add_page()
    preprocessor = vlm.load_preprocessor(str(folder))
    turn = next(turns())
    row = preprocessor.encode(turn)
    pictured = row.input_ids.count(preprocessor.tokenizer.convert_tokens_to_ids(REPEATED))
    assert pictured > 4
    counted = len(row.input_ids) - pictured + 1
    assert preprocessor.encode(turn, max_length=counted).input_ids == row.input_ids
    assert preprocessor.encode(turn, max_length=counted - 1).input_ids == row.input_ids[:-1]
    for name in (REPEATED, "<image>"):
        with pytest.raises(BadInput, match=re.escape(f"'{name}'")):
            preprocessor.encode(vlm.Turn(turn.picture, f"What is {name}?"))


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ("[multi_modal_projector]", "[projector]", "no part 'projector'; did you mean 'multi_modal_projector'?"),
        ("tower: vision_tower", "tower: visual", "no part 'visual'; known: language_model, multi"),
        ("model: language_model", "model: text_model", "no part 'text_model'; did you mean 'language_model'?"),
        ("[q_proj,", "[query,", "no linear layer 'query' in the model's layers"),
        (END, "<|im_end|>", "its tokenizer lacks '<|im_end|>'"),
    ],
)
def test_what_is_wrong_in_a_page_is_told_before_anything_is_trained(folder, add_page, tmp_path, right, wrong, says):
    assert PAGE.count(right) == 1
    add_page(PAGE.replace(right, wrong))
    words = (*FEW, f"model_path={folder}", f"save_dir={tmp_path / 'run'}")
    refused(tmp_path, "forget", *words, "dry_run=true", says=says, before="note")
    refused(tmp_path, "forget", *words, says=says, before="records")


def test_the_untouched_model_answers_as_generate_does(folder, add_page, tmp_path):
    add_page()
    asked = ("--only", "retain", "--limit", 1, "--greedy", "--max_new_tokens", 24, "--dtype", "float32")
    done = run("ckpt_infer", "--model_path", folder, "--eval_file", VAL, *asked, "--output_file", tmp_path / "p.json")
    assert done.returncode == 0, done.stderr
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    for record in json.loads((tmp_path / "p.json").read_text(encoding="utf-8")):
        pair = record["UnharmPair_text1"]
        picture = open_picture(RECORDED / record["image_path"])
        prompt = plain(processor, vlm.Turn(picture, pair["Question"]), answered=False)
        said = model.generate(**prompt, do_sample=False, max_new_tokens=24)[0, prompt["input_ids"].shape[1] :]
        assert pair["Prediction"] == processor.decode(said, skip_special_tokens=True).strip() != ""
