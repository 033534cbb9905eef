"""Merged models: they say what model and adapter say together, load by the ordinary means, and appear whole or not."""

import json
import shutil
import sys

import pytest
import torch
from helpers import MODEL, RECORDED
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from safeeraser import model as models
from safeeraser.benchmark.conversation import CHAT_TEMPLATE, prompt
from safeeraser.benchmark.files import sha256
from safeeraser.benchmark.pictures import open_picture
from safeeraser.errors import BadInput
from safeeraser.model import __main__ as command

CHECKPOINT = RECORDED / "inference" / "checkpoint.pt"
PICTURE = next((RECORDED / "dataset" / "img").rglob("*.jpg"))
ANOTHER = CHAT_TEMPLATE.replace("A chat between", "The chat between")
QUESTION = "Juliet delta Xray mike papa Echo?"
CHAT = [{"role": "user", "content": [{"type": "text", "text": QUESTION}, {"type": "image"}]}]


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """The tiny model with the recorded checkpoint merged into it."""
    out = tmp_path_factory.mktemp("merged") / "model"
    models.merge(CHECKPOINT, out, model_path=str(MODEL))
    return out


@pytest.fixture
def adapter(tmp_path):
    """The recorded checkpoint as a PEFT folder that names its base model."""
    models.convert(CHECKPOINT, tmp_path / "adapter", model_path=str(MODEL))
    return tmp_path / "adapter"


@torch.no_grad()
def logits(model, inputs):
    return model.eval()(**inputs).logits


def inputs():
    """A question about a picture, as this project's inference puts it to a model."""
    preprocessor = models.load_preprocessor(str(MODEL))
    return preprocessor.join([preprocessor.encode(models.Turn(open_picture(PICTURE), QUESTION))])


def test_it_says_what_model_and_adapter_say_together(merged):
    base = models.load_model(str(MODEL), torch.float32)
    untouched = logits(base, inputs())
    wanted = logits(models.load_adapted(base, CHECKPOINT), inputs())
    model = LlavaForConditionalGeneration.from_pretrained(merged)
    torch.testing.assert_close(logits(model, inputs()), wanted, atol=1e-4, rtol=1e-4)
    assert (wanted - untouched).abs().max() > 1e-2
    assert not any("lora" in name or "modules_to_save" in name for name in model.state_dict())


@pytest.mark.parametrize("load", [LlavaProcessor, AutoProcessor])
def test_its_processor_makes_of_a_chat_what_inference_asks(merged, load):
    processor = load.from_pretrained(merged)
    text = processor.apply_chat_template(CHAT, add_generation_prompt=True)
    assert text == prompt(QUESTION, "user")
    with Image.open(PICTURE) as picture:
        found = processor(images=picture.convert("RGB"), text=text, return_tensors="pt")
    for name, value in inputs().items():
        assert torch.equal(found[name], value), name


def test_the_dtype_and_the_image_processor_stand_where_the_oldest_readers_look(merged):
    """transformers before 4.56 and 4.52; what 4.57 looks for tests/test_hub_like.py has it read itself."""
    config = json.loads((merged / "config.json").read_text())
    assert config["torch_dtype"] == config["dtype"] == "float32"
    assert "image_processor" not in json.loads((merged / "processor_config.json").read_text())
    assert (merged / "preprocessor_config.json").is_file()


def test_a_server_that_tokenizes_the_chats_text_must_add_the_special_tokens(merged):
    """As transformers does of itself, and vLLM where a request says `add_special_tokens`: the template has no `<s>`."""
    processor = AutoProcessor.from_pretrained(merged)
    text = processor.apply_chat_template(CHAT, add_generation_prompt=True)
    ids = processor.tokenizer(text, add_special_tokens=True).input_ids
    assert ids[0] == processor.tokenizer.bos_token_id
    assert ids[1:] == processor.tokenizer(text, add_special_tokens=False).input_ids
    asked = inputs()["input_ids"][0].tolist()
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    at = asked.index(image)
    assert ids == [*asked[:at], image, *asked[at + asked.count(image) :]]


def test_a_template_of_the_base_models_own_is_replaced(merged, adapter, tmp_path):
    base = shutil.copytree(merged, tmp_path / "base")
    (base / "chat_template.jinja").write_text(ANOTHER)
    models.merge(adapter, tmp_path / "out", model_path=str(base), allow_other_base=True)
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    assert AutoProcessor.from_pretrained(tmp_path / "out").tokenizer.chat_template == CHAT_TEMPLATE


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_merge_into_16_bits_rounds_each_weight_once(merged, adapter, tmp_path, dtype):
    """As a merge in float32 that is rounded at the end: the adapter's product is never rounded alone."""
    precise = models.load_model(str(MODEL), models.DTYPES[dtype]).float()
    precise = models.load_adapted(precise, adapter).merge_and_unload().to(models.DTYPES[dtype])
    precise.save_pretrained(tmp_path / "precise")
    models.merge(adapter, tmp_path / "out", dtype=dtype)
    wanted = load_file(tmp_path / "precise" / "model.safetensors")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert wanted.keys() == found.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_auto_is_the_dtype_in_which_the_base_model_is_stored(adapter, tmp_path):
    models.merge(adapter, tmp_path / "half", dtype="float16")
    models.merge(adapter, tmp_path / "again", model_path=str(tmp_path / "half"), allow_other_base=True)
    for name in ("half", "again"):
        assert json.loads((tmp_path / name / "config.json").read_text())["dtype"] == "float16"
        assert {value.dtype for value in load_file(tmp_path / name / "model.safetensors").values()} == {torch.float16}


def test_what_it_was_made_of_is_recorded(merged, adapter, tmp_path):
    told = {"adapter": str(CHECKPOINT), "adapter_sha256": sha256(CHECKPOINT), "lora_alpha": 256}
    told |= {"model_path": str(MODEL), "base": models.fingerprint(str(MODEL))["weights"], "dtype": "float32"}
    assert json.loads((merged / "run.json").read_text()) == {"parents": [], "merged": told}
    (adapter / "run.json").write_text(json.dumps({"settings": {"seed": 1}}))
    models.merge(adapter, tmp_path / "out")
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["settings"] == {"seed": 1} and run["merged"]["model_path"] == str(MODEL)
    assert run["merged"]["adapter_sha256"] == sha256(adapter / "adapter_model.safetensors")


def test_a_copy_holds_the_base_models_weights_under_the_same_template(monkeypatch, capsys, merged, tmp_path):
    base = shutil.copytree(merged, tmp_path / "base")
    (base / "chat_template.jinja").write_text(ANOTHER)
    code, said = run(monkeypatch, capsys, "copy", base, tmp_path / "out")
    assert code == 0 and said.out.startswith(f"done: {tmp_path / 'out'}")
    made_of = json.loads((merged / "run.json").read_text())  # what is known of the model goes along
    copied = {"model_path": str(base), "dtype": "float32"}
    assert json.loads((tmp_path / "out" / "run.json").read_text()) == made_of | {"copied": copied}
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    wanted, found = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "out"))
    assert wanted.keys() == found.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def run(monkeypatch, capsys, *arguments):
    """Exit code and output of the command."""
    monkeypatch.setattr(sys, "argv", ["safeeraser.model", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        command.main()
    return stop.value.code, capsys.readouterr()


def test_the_command_says_where_it_is_done(monkeypatch, capsys, tmp_path):
    code, said = run(monkeypatch, capsys, "merge", CHECKPOINT, tmp_path / "out", "--model_path", MODEL)
    assert code == 0 and said.out.startswith(f"done: {tmp_path / 'out'}") and said.out.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("{here}/foreign.safetensors", "{here}/out", "--model_path", MODEL), "this adapter does not fit the model"),
        (("{here}/nowhere", "{here}/out", "--model_path", MODEL), "no adapter there"),
        ((CHECKPOINT, "{here}/out", "--model_path", "{here}/nowhere"), "no model in this folder"),
        ((CHECKPOINT, "{here}/taken", "--model_path", MODEL), "taken: exists; name another"),
        ((CHECKPOINT, "{here}/out", "--dtype", "float8"), "unknown dtype 'float8'"),
    ],
)
def test_what_cannot_be_merged_is_one_line_and_leaves_nothing(monkeypatch, capsys, tmp_path, arguments, says):
    (tmp_path / "taken").mkdir()
    tensors = load_file(RECORDED / "initial_adapter.safetensors")
    save_file(
        {name.replace("layers.1", "layers.7"): value for name, value in tensors.items()},
        tmp_path / "foreign.safetensors",
    )
    there = {path.name for path in tmp_path.rglob("*")}
    code, said = run(monkeypatch, capsys, "merge", *(str(word).format(here=tmp_path) for word in arguments))
    assert code == 2 and said.out == ""
    line = said.err.strip().splitlines()[-1]
    assert line.startswith("error: ") and says in line
    assert {path.name for path in tmp_path.rglob("*")} == there


def test_a_base_model_that_the_adapter_names_and_that_is_gone_is_not_replaced_by_another(tmp_path):
    models.convert(CHECKPOINT, tmp_path / "adapter", model_path=str(tmp_path / "gone"))
    with pytest.raises(BadInput, match="gone: no model in this folder"):
        models.merge(tmp_path / "adapter", tmp_path / "out")


def test_a_failure_while_writing_leaves_nothing(monkeypatch, tmp_path):
    def full(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(LlavaProcessor, "save_pretrained", full)
    with pytest.raises(BadInput, match=r"out: cannot be written \(disk full\)"):
        models.merge(CHECKPOINT, tmp_path / "out", model_path=str(MODEL))
    assert not list(tmp_path.iterdir())
