"""Merged and copied models of LLaVA-1.5: they say what model and adapter say together, load by the ordinary means,
speak the release's words, tell what they were made of, and appear whole or not at all."""

import json
import shutil

import pytest
import torch
from families.recorded import Recorded
from helpers import MODEL, RECORDED, run
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from safeeraser import model as models
from safeeraser.benchmark.conversation import CHAT_TEMPLATE, prompt
from safeeraser.benchmark.files import sha256
from safeeraser.benchmark.pictures import open_picture

from .conftest import CHECKPOINT

PICTURE = next((RECORDED / "dataset" / "img").rglob("*.jpg"))
QUESTION = "Juliet delta Xray mike papa Echo?"
CHAT = [{"role": "user", "content": [{"type": "text", "text": QUESTION}, {"type": "image"}]}]
BASE = models.fingerprint(str(MODEL))["weights"]


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
    models.convert(CHECKPOINT, tmp_path / "adapter", model_path=str(MODEL))
    return tmp_path / "adapter"


def told(folder, name="run.json"):
    return json.loads((folder / name).read_text())


@torch.no_grad()
def test_it_says_what_model_and_adapter_say_together(merged, base, preprocessor):
    inputs = preprocessor.join([preprocessor.encode(models.Turn(open_picture(PICTURE), QUESTION))])
    untouched = base(**inputs).logits
    wanted = models.load_adapted(base, CHECKPOINT)(**inputs).logits
    model = LlavaForConditionalGeneration.from_pretrained(merged).eval()
    torch.testing.assert_close(model(**inputs).logits, wanted, atol=1e-4, rtol=1e-4)
    assert (wanted - untouched).abs().max() > 1e-2
    for load in (LlavaProcessor, AutoProcessor):  # what it makes of a chat is what inference asks
        processor = load.from_pretrained(merged)
        text = processor.apply_chat_template(CHAT, add_generation_prompt=True)
        assert text == prompt(QUESTION, "user")
        with Image.open(PICTURE) as picture:
            found = processor(images=picture.convert("RGB"), text=text, return_tensors="pt")
        assert all(torch.equal(found[name], value) for name, value in inputs.items())
    # A server that tokenizes the chat's text itself must add the special tokens: the template has no `<s>`.
    ids, asked = processor.tokenizer(text, add_special_tokens=True).input_ids, inputs["input_ids"][0].tolist()
    at = asked.index(500)
    assert ids == [*asked[:at], 500, *asked[at + asked.count(500) :]]
    assert ids == [1, *processor.tokenizer(text, add_special_tokens=False).input_ids]


def test_it_tells_what_it_was_made_of_and_in_the_words_of_the_oldest_readers(merged, adapter, tmp_path):
    made = {"adapter": str(CHECKPOINT), "adapter_sha256": sha256(CHECKPOINT), "lora_alpha": 256, "dtype": "float32"}
    assert told(merged) == {"parents": [], "merged": made | {"model_path": str(MODEL), "base": BASE}}
    config = told(merged, "config.json")
    assert config["torch_dtype"] == config["dtype"] == "float32"
    assert (config["text_config"]["rope_theta"], config["text_config"]["rope_scaling"]) == (10000.0, None)
    assert (
        "image_processor" not in told(merged, "processor_config.json")
        and (merged / "preprocessor_config.json").is_file()
    )
    words = told(merged, "tokenizer_config.json")
    assert words["tokenizer_class"] == "PreTrainedTokenizerFast" and words["model_input_names"][0] == "input_ids"
    assert load_file(merged / "model.safetensors").keys() == load_file(MODEL / "model.safetensors").keys()
    (adapter / "run.json").write_text(json.dumps({"began": "then"}))
    models.merge(adapter, tmp_path / "out", dtype="float16")
    run_of = told(tmp_path / "out")
    assert run_of["began"] == "then" and run_of["merged"]["model_path"] == str(MODEL)
    assert run_of["merged"]["adapter_sha256"] == sha256(adapter / "adapter_model.safetensors")
    # `auto` is the dtype in which the base model is stored.
    models.merge(adapter, tmp_path / "again", model_path=str(tmp_path / "out"), allow_other_base=True)
    for name in ("out", "again"):
        assert told(tmp_path / name, "config.json")["dtype"] == "float16"
        assert {value.dtype for value in load_file(tmp_path / name / "model.safetensors").values()} == {torch.float16}


def test_a_merge_into_16_bits_rounds_each_weight_once(adapter, tmp_path):
    """As a merge in float32 that is rounded at the end: the adapter's product is never rounded alone."""
    precise = models.load_model(str(MODEL), torch.bfloat16).float()
    precise = models.load_adapted(precise, adapter).merge_and_unload().bfloat16()
    precise.save_pretrained(tmp_path / "precise")
    models.merge(adapter, tmp_path / "out", dtype="bfloat16")
    wanted, found = (load_file(tmp_path / name / "model.safetensors") for name in ("precise", "out"))
    assert wanted.keys() == found.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_copy_holds_the_base_models_weights_under_the_releases_template(merged, tmp_path):
    base = shutil.copytree(merged, tmp_path / "base")
    (base / "chat_template.jinja").write_text(CHAT_TEMPLATE.replace("A chat between", "The chat between"))
    run("safeeraser.model", "copy", base, tmp_path / "out")
    # What is known of the model goes along.
    assert told(tmp_path / "out") == told(merged) | {"copied": {"model_path": str(base), "dtype": "float32"}}
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    wanted, found = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "out"))
    assert wanted.keys() == found.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_copy_of_another_family_has_its_files_and_its_words(tmp_path):
    base, out = Recorded("gemma3").folder / "model", tmp_path / "out"
    assert not run("safeeraser.model", "copy", base, out, "--dtype", "bfloat16").returncode
    others = [file for file in base.iterdir() if file.name not in ("config.json", "model.safetensors")]
    assert len(others) > 3 and all((out / file.name).read_bytes() == file.read_bytes() for file in others)
    words = json.loads((base / "config.json").read_text().replace('"float32"', '"bfloat16"'))
    assert told(out, "config.json") == {"torch_dtype": "bfloat16"} | words
    one, two = (load_file(folder / "model.safetensors") for folder in (base, out))
    assert one.keys() == two.keys() and all(torch.equal(two[name], each.bfloat16()) for name, each in one.items())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("merge", "{here}/foreign.safetensors", "{here}/out", "--model_path", MODEL),
            "holds no LoRA of one rank",
        ),
        (("merge", "{here}/nowhere", "{here}/out", "--model_path", MODEL), "no adapter there"),
        (("merge", CHECKPOINT, "{here}/out", "--model_path", "{here}/nowhere"), "no model in this folder"),
        (("merge", CHECKPOINT, "{here}/taken", "--model_path", MODEL), "taken: exists; name another"),
        (("merge", CHECKPOINT, "{here}/out", "--dtype", "float8"), "unknown dtype 'float8'"),
        (("merge", "{here}/gone", "{here}/out"), "elsewhere: no model in this folder"),
        (("copy", MODEL, "{here}/taken"), "taken: exists; name another"),
        *(
            (("convert", "LONG", "{here}/out"), "File name too long"),
            (("convert", CHECKPOINT, "LONG"), "File name too long"),
        ),
        *((("merge", "LONG", "{here}/out"), "File name too long"), (("copy", MODEL, "LONG"), "File name too long")),
    ],
)
def test_what_cannot_be_merged_is_one_line_and_leaves_nothing(tmp_path, words, says):
    (tmp_path / "taken").mkdir()
    save_file({"foreign": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    models.convert(CHECKPOINT, tmp_path / "gone", model_path=str(tmp_path / "elsewhere"))
    there = {path.name for path in tmp_path.rglob("*")}
    words = (str(word).format(here=tmp_path).replace("LONG", f"{tmp_path}/{'n' * 300}") for word in words)
    done = run("safeeraser.model", *words)
    assert done.returncode == 2 and done.stdout == ""
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ") and says in line
    assert {path.name for path in tmp_path.rglob("*")} == there
