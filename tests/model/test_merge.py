"""Merged and copied models of LLaVA-1.5 answer as model and adapter together, and load with plain transformers. They
use the release's wording, record the parts that they were made from, and are written completely or not at all."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from families.recorded import Recorded
from helpers import CHECKPOINT, MODEL, RECORDED, read_beside, refused, run
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, LlavaForConditionalGeneration

from safeeraser.benchmark.conversation import CHAT_TEMPLATE, prompt
from safeeraser.benchmark.files import sha256
from safeeraser.benchmark.pictures import open_picture
from safeeraser.model.lineage import fingerprint
from safeeraser.model.load import load_model
from safeeraser.model.merge import merge
from safeeraser.model.stored import convert, load_adapted
from safeeraser.model.turns import Turn

PICTURE = next((RECORDED / "dataset" / "img").rglob("*.jpg"))
QUESTION = "Juliet delta Xray mike papa Echo?"
CHAT = [{"role": "user", "content": [{"type": "text", "text": QUESTION}, {"type": "image"}]}]
BASE = fingerprint(str(MODEL))["weights"]


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """The tiny model with the recorded checkpoint merged into it."""
    out = tmp_path_factory.mktemp("merged") / "model"
    done = run("safeeraser.model", "merge", CHECKPOINT, out, "--model_path", MODEL)
    assert not done.returncode and f"done: {out}" in done.stdout, done.stderr
    assert [path.name for path in out.parent.iterdir()] == ["model"]
    return out


@pytest.fixture
def adapter(tmp_path):
    """The recorded checkpoint as a PEFT folder that names its base model."""
    convert(CHECKPOINT, tmp_path / "adapter", model_path=str(MODEL))
    return tmp_path / "adapter"


def told(folder, name="run.json"):
    return json.loads((folder / name).read_text())


def assert_same_weights(*folders):
    one, two = (load_file(folder / "model.safetensors") for folder in folders)
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@torch.no_grad()
def test_it_says_what_model_and_adapter_say_together(merged, base, preprocessor):
    inputs = preprocessor.join([preprocessor.encode(Turn(open_picture(PICTURE), QUESTION))])
    untouched = base(**inputs).logits
    wanted = load_adapted(base, CHECKPOINT)(**inputs).logits
    model = LlavaForConditionalGeneration.from_pretrained(merged).eval()
    torch.testing.assert_close(model(**inputs).logits, wanted, atol=1e-4, rtol=1e-4)
    assert (wanted - untouched).abs().max() > 1e-2
    processor = AutoProcessor.from_pretrained(merged)  # it writes a chat as inference does
    text = processor.apply_chat_template(CHAT, add_generation_prompt=True)
    assert text == prompt(QUESTION, "user")
    with Image.open(PICTURE) as picture:
        found = processor(images=picture.convert("RGB"), text=text, return_tensors="pt")
    assert all(torch.equal(found[name], value) for name, value in inputs.items())
    # A server that tokenizes the chat's text itself must add the special tokens: the template has no `<s>`.
    ids, asked = processor.tokenizer(text, add_special_tokens=True).input_ids, inputs["input_ids"][0].tolist()
    at = asked.index(500)
    assert ids == [*asked[:at], 500, *asked[at + asked.count(500) :]]


def test_it_tells_what_it_was_made_of_and_in_the_words_of_the_oldest_readers(merged, adapter, tmp_path):
    made = {"adapter": str(CHECKPOINT), "adapter_sha256": sha256(CHECKPOINT), "lora_alpha": 256, "dtype": "float32"}
    assert told(merged) == {"parents": [], "merged": made | {"model_path": str(MODEL), "base": BASE}}
    config, words = told(merged, "config.json"), told(merged, "tokenizer_config.json")
    assert config["torch_dtype"] == config["dtype"] == "float32"
    assert (config["text_config"]["rope_theta"], config["text_config"]["rope_scaling"]) == (10000.0, None)
    assert "image_processor" not in told(merged, "processor_config.json")
    assert (merged / "preprocessor_config.json").is_file()
    assert words["tokenizer_class"] == "PreTrainedTokenizerFast" and words["model_input_names"][0] == "input_ids"
    assert load_file(merged / "model.safetensors").keys() == load_file(MODEL / "model.safetensors").keys()
    (adapter / "run.json").write_text(json.dumps({"began": "then"}))
    merge(adapter, tmp_path / "out", dtype="float16")
    run_of = told(tmp_path / "out")
    assert run_of["began"] == "then" and run_of["merged"]["model_path"] == str(MODEL)
    # `auto` is the dtype in which the base model is stored.
    assert run("safeeraser.model", "copy", tmp_path / "out", tmp_path / "again").returncode == 0
    for name in ("out", "again"):
        assert told(tmp_path / name, "config.json")["dtype"] == "float16"
        assert {value.dtype for value in load_file(tmp_path / name / "model.safetensors").values()} == {torch.float16}


@pytest.mark.slow
def test_a_merge_into_16_bits_rounds_each_weight_once(adapter, tmp_path):
    """It equals a merge in float32 that is rounded at the end: the adapter's product is never rounded by itself."""
    precise = load_model(str(MODEL), torch.bfloat16).float()
    precise = load_adapted(precise, adapter).merge_and_unload().bfloat16()
    precise.save_pretrained(tmp_path / "precise")
    merge(adapter, tmp_path / "out", dtype="bfloat16")
    assert_same_weights(tmp_path / "precise", tmp_path / "out")


def test_a_copy_holds_the_base_models_weights_under_the_releases_template(merged, tmp_path):
    base = shutil.copytree(merged, tmp_path / "base")
    (base / "chat_template.jinja").write_text(CHAT_TEMPLATE.replace("A chat between", "The chat between"))
    run("safeeraser.model", "copy", base, tmp_path / "out")
    # The copy keeps the model's record.
    assert told(tmp_path / "out") == told(merged) | {"copied": {"model_path": str(base), "dtype": "float32"}}
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    assert_same_weights(base, tmp_path / "out")


def test_a_copy_of_another_family_holds_what_the_hub_has(tmp_path, downloaded):
    """Files that prepare its input are equal byte by byte. Weights and configuration have the hub's names and keys."""
    base, out = Path(Recorded("qwen3_vl").path), tmp_path / "out"
    downloaded(base)
    assert run("safeeraser.model", "copy", "someone/model", out, "--dtype", "bfloat16").returncode == 0
    for file in (file for file in base.iterdir() if file.name not in ("model.safetensors", "config.json", "README.md")):
        assert (out / file.name).read_bytes() == file.read_bytes(), file.name
    wanted = told(base, "config.json") | dict.fromkeys(("dtype", "torch_dtype"), "bfloat16")
    for part in (each for each in wanted.values() if isinstance(each, dict)):
        part |= dict.fromkeys(part.keys() & {"dtype", "torch_dtype"}, "bfloat16")
    assert told(out, "config.json") == wanted
    old, new = (load_file(folder / "model.safetensors") for folder in (base, out))
    assert old.keys() == new.keys() and all(torch.equal(each.bfloat16(), new[name]) for name, each in old.items())
    assert told(out) == {"copied": {"model_path": "someone/model", "dtype": "bfloat16"}}


def test_what_cannot_be_merged_copied_or_converted_is_one_line_and_leaves_nothing(tmp_path):
    (tmp_path / "taken").mkdir()
    save_file({"foreign": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    convert(CHECKPOINT, tmp_path / "gone", model_path=str(tmp_path / "elsewhere"))
    for words, says in read_beside(__file__, "refused.yaml")["command"]:
        given = words.format(model=MODEL, checkpoint=CHECKPOINT, long="n" * 300).split()
        refused(tmp_path, "safeeraser.model", *given, says=says, before="loading", cwd=tmp_path)
