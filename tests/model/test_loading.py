"""Loading a model: which family a folder is of, what is taken for LLaVA-1.5 and what is refused by name, dtypes and
attention, and weights as transformers reads them, straight to where the model runs."""

import json
import re
import shutil
from contextlib import nullcontext, suppress

import pytest
import torch
from families.recorded import Recorded
from helpers import MODEL, ROOT
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from safeeraser import model as models
from safeeraser.benchmark.conversation import CHAT_TEMPLATE
from safeeraser.errors import BadInput
from safeeraser.model import loading

ONE_FORM = "of 'llava' models this project knows LLaVA-1.5's form alone"


@pytest.fixture
def folder(tmp_path):
    """A copy of the tiny model, to be changed."""
    return shutil.copytree(MODEL, tmp_path / "model")


def change(folder, name, **changes):
    """Change one of the folder's files; a key that is to be None goes."""
    told = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps({key: value for key, value in told.items() if value is not None}))


def test_the_family_is_told_by_the_model(folder):
    for name in ("gemma3", "smolvlm"):
        path = Recorded(name).path
        assert models.family_of(path).model_type == models.family_if_told(path).model_type == name
    assert (models.family_of(str(MODEL)).name, models.family_if_told("not/here")) == ("llava-1.5", None)
    assert models.family_if_told("Qwen/Qwen3-VL-2B-Instruct").name == "qwen3-vl-2b"
    change(folder, "config.json", model_family="llava-1.5-13b")
    assert models.family_of(str(folder)).name == models.load_preprocessor(str(folder)).family.name == "llava-1.5-13b"
    models.check_family(models.families()["llava-1.5-7b"], str(folder))
    with pytest.raises(BadInput, match=r"model_family=qwen3-vl-2b: of 'qwen3_vl' models, and .* is a 'llava'"):
        models.check_family(models.families()["qwen3-vl-2b"], str(folder))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "paligemma"}, "a 'paligemma' model, for which .*; known: gemma3, idefics3, .*docs/models.md"),
        ({"model_family": "qwen3-vl"}, "names model_family 'qwen3-vl', and .* no such page of 'llava' models"),
        ({"vision_config": {"model_type": "siglip_vision_model"}}, f"vision_config.model_type is 'sig.*; {ONE_FORM}"),
        ({"text_config": {"model_type": "mistral"}}, f"text_config.model_type is 'mistral', not 'llama'; {ONE_FORM}"),
        *(({"vision_feature_layer": layer}, "vision_feature_layer is .*, of a vision tower of 3 layers")
          for layer in (4, 0, -5, [-2, -5], [])),
        ({"vision_feature_layer": "last"}, "vision_feature_layer"),
        ({"model_type": None}, "no config.json that names a model_type|no model in this folder"),
    ],
)  # fmt: skip
def test_another_configuration_is_refused_by_name(folder, changes, says):
    change(folder, "config.json", **changes)
    with pytest.raises(BadInput, match=f"^model_path {folder}: .*({says})"):
        models.load_config(str(folder))


def test_what_is_no_model_is_told_from_one(folder, tmp_path):
    for layer in (3, -4, [1, 3]):
        change(folder, "config.json", vision_feature_layer=layer)
        assert models.load_config(str(folder)).vision_feature_layer == layer
    change(folder, "config.json", vision_feature_select_strategy="full")  # the class token too
    assert models.load_preprocessor(str(folder)).place(lambda: (64, 64)) == "<image>" * 17
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "checkpoint.pt").write_bytes(b"")
    with pytest.raises(BadInput, match="holds an adapter, not a model; --checkpoint_path"):
        models.family_of(str(tmp_path / "adapter"))


HUBS = (ROOT / "tests" / "data" / "hub_like" / "chat_template.jinja").read_text()  # without the system text
# For text alone, with words of its own before the chat; and one of another model.
PLAIN = "Be kind. {% for m in messages %}{{ m['role'].upper() + ': ' + m['content'] + '\n' }}{% endfor %}"
INST = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'][0]['text'] }}[/]{% endfor %}"


@pytest.mark.parametrize(
    ("template", "says"),
    [(HUBS, ""), (CHAT_TEMPLATE, ""), (PLAIN, ""), (INST, r"writes '\[user\]\[/\]\[assistant\]That.\[/\]'"),
     ("{{ raise_exception('no') }}", "writes 'nothing at all'")],
)  # fmt: skip
def test_a_chat_template_must_write_vicunas_form(folder, template, says):
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(BadInput, match=f"^model_path {folder}: its chat template {says}") if says else nullcontext():
        assert models.load_preprocessor(str(folder)).place(lambda: (64, 64)) == "<image>" * 16


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"crop_size": {"height": 28, "width": 28}}, "its picture processor makes (3, 28, 28), its vision tower sees"),
        ({"do_center_crop": False}, "its picture processor makes (3, "),
        (
            {"image_processor_type": "SiglipImageProcessor"},
            "its picture processor is 'SiglipImageProcessor'",
        ),
        ({"image_processor_type": "CLIPFeatureExtractor"}, ""),  # an older word
        ({"image_processor_type": None}, ""),  # transformers would choose one that pads
    ],
)
def test_pictures_are_prepared_as_the_release_does_or_refused(folder, preprocessor, changes, says):
    change(folder, "preprocessor_config.json", **changes)
    if says:
        with pytest.raises(BadInput, match=f"^model_path {folder}: {re.escape(says)}"):
            models.load_preprocessor(str(folder))
        return
    wide, prepared = Image.linear_gradient("L").resize((90, 50)).convert("RGB"), models.load_preprocessor(str(folder))
    one, two = (each.show(wide).inputs["pixel_values"] for each in (preprocessor, prepared))
    assert one.equal(two)


def test_weights_are_what_transformers_loads_and_what_they_lack_is_named(folder):
    """To the bit, buffers too, and frozen; transformers makes up random weights for those that lack."""
    plain = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    model, file = models.load_model(str(folder), torch.float32), folder / "model.safetensors"
    one, two = ({**dict(each.named_parameters()), **dict(each.named_buffers())} for each in (model, plain))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert not any(each.requires_grad for each in model.parameters())
    tensors, whole = load_file(file), file.read_bytes()
    gone = sorted(name for name in tensors if "layers.1.self_attn.q" in name)
    save_file({name: value for name, value in tensors.items() if name not in gone}, file, metadata={"format": "pt"})
    with pytest.raises(BadInput, match=rf"its weights lack model\.\S+q_proj\.weight and {len(gone) - 1} more"):
        models.load_model(str(folder), torch.float32)
    for size in (0, 5, 1000, -1):
        file.write_bytes(whole[:size])
        with pytest.raises(BadInput, match=f"^{file}: not readable as safetensors; is it cut off"):
            models.load_model(str(folder), torch.float32)
    file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"junk")
    with pytest.raises(BadInput, match=f"^model_path {folder}: cannot be loaded"):
        models.load_model(str(folder), torch.float32)


def test_dtypes_and_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (models.choose_dtype("auto"), models.choose_dtype("float16")) == (torch.float32, torch.float16)
    with pytest.raises(BadInput, match="dtype float8: must be one of auto, float32, bfloat16, float16"):
        models.choose_dtype("float8")
    model = models.load_model(str(MODEL), torch.bfloat16, device="meta")
    assert {(each.device.type, each.dtype) for each in model.parameters()} == {("meta", torch.bfloat16)}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert models.choose_dtype("auto") == torch.bfloat16


def test_auto_is_the_fastest_attention_to_train_with(monkeypatch):
    single, half = torch.float32, torch.bfloat16
    for dtype, gpu, flash, runs in (
        *((single, False, False, "sdpa"), (single, True, True, "sdpa"), (half, False, False, "eager")),
        *((half, True, False, "sdpa"), (half, True, True, "flash_attention_2")),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        monkeypatch.setattr(loading, "is_flash_attn_2_available", lambda flash=flash: flash)
        assert (models.choose_attention("auto", dtype), models.choose_attention("eager", dtype)) == (runs, "eager")


def test_cudnns_attention_runs_only_when_asked_for(caplog):
    """It is settled for the process at each load, and logged where a GPU runs it, which need not be here."""
    caplog.set_level("INFO")
    for attention, said in (("sdpa_cudnn", "among others"), ("sdpa", "left out"), ("eager", None)):
        caplog.clear()
        model = models.load_model(str(MODEL), torch.float32, attention)
        assert model.config._attn_implementation == attention.removesuffix("_cudnn")
        assert torch.backends.cuda.cudnn_sdp_enabled() == (attention == "sdpa_cudnn")
        with suppress(BadInput):
            models.load_model(str(MODEL), torch.float32, attention, device="cuda:0")
        logged = [f"attention on the GPU: SDPA, cuDNN's kernels {said}"] if said else []
        assert [message for message in caplog.messages if message.startswith("attention")] == logged


def test_nf4_packs_the_language_model_alone():
    """Neither the vision tower, nor the projector within it, nor the head."""
    model = models.load_model(Recorded("qwen3_vl").path, torch.float32, quantization="nf4")
    packed = {name for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"}
    family, names = models.family_of(Recorded("qwen3_vl").path), dict(model.named_modules())
    assert packed == {name for name in names if family.in_layers(name) and name.endswith("_proj")} != set()
    assert not any(getattr(module, "support_avx512bf16_for_cpu", False) for module in model.modules())
