"""Loading a model: its family, the folders that are accepted as LLaVA-1.5 or refused by name, dtypes and attention, and
weights as transformers reads them, directly to the model's device."""

import json
import shutil

import pytest
import torch
from families.recorded import Recorded
from helpers import MODEL, ROOT, read_beside
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from safeeraser.benchmark.conversation import CHAT_TEMPLATE
from safeeraser.benchmark.family import families
from safeeraser.errors import BadInput
from safeeraser.model import load as loading
from safeeraser.model.load import (
    check_family,
    choose_attention,
    choose_dtype,
    family_if_known,
    family_of,
    load_config,
    load_model,
    load_preprocessor,
)

CONFIG, PICTURES = "config.json", "preprocessor_config.json"
REFUSED = read_beside(__file__, "refused.yaml")


@pytest.fixture
def folder(tmp_path):
    """A copy of the tiny model, to be changed."""
    return shutil.copytree(MODEL, tmp_path / "model")


def change(folder, name, **changes):
    """Change keys of one of the folder's JSON files; a key that becomes None is removed."""
    told = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps({key: value for key, value in told.items() if value is not None}))


def test_the_family_is_told_by_the_model(folder):
    path = Recorded("gemma3").path
    assert family_of(path).model_type == family_if_known(path).model_type == "gemma3"
    assert (family_of(str(MODEL)).name, family_if_known("not/here")) == ("llava-1.5", None)
    assert family_if_known("Qwen/Qwen3-VL-2B-Instruct").name == "qwen3-vl-2b"
    change(folder, "config.json", model_family="llava-1.5-13b")
    assert family_of(str(folder)).name == load_preprocessor(str(folder)).family.name == "llava-1.5-13b"
    check_family(families()["llava-1.5-7b"], str(folder))
    with pytest.raises(BadInput, match=r"model_family=qwen3-vl-2b: is for 'qwen3_vl' models, and .* is a 'llava'"):
        check_family(families()["qwen3-vl-2b"], str(folder))


@pytest.mark.parametrize(("file", "changes", "says"), REFUSED["configuration"], ids=str)
def test_another_configuration_is_refused_by_name(folder, file, changes, says):
    change(folder, file, **changes)
    with pytest.raises(BadInput, match=f"^model_path {folder}: .*({says})"):
        load_config(str(folder)) if file == CONFIG else load_preprocessor(str(folder))


def test_what_differs_from_the_release_in_form_alone_is_taken(folder, preprocessor, tmp_path):
    wide = Image.linear_gradient("L").resize((90, 50)).convert("RGB")
    for kind in ("CLIPFeatureExtractor", None):  # an older name; without one, transformers would choose one that pads
        change(folder, PICTURES, image_processor_type=kind)
        found = load_preprocessor(str(folder)).show(wide).inputs["pixel_values"]
        assert torch.equal(found, preprocessor.show(wide).inputs["pixel_values"])
    for layer in (3, -4, [1, 3]):
        change(folder, CONFIG, vision_feature_layer=layer)
        assert load_config(str(folder)).vision_feature_layer == layer
    change(folder, CONFIG, vision_feature_select_strategy="full")  # the class token too
    assert load_preprocessor(str(folder)).place(lambda: (64, 64)) == "<image>" * 17
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "checkpoint.pt").write_bytes(b"")
    with pytest.raises(BadInput, match="holds an adapter, not a model; --checkpoint_path"):
        family_of(str(tmp_path / "adapter"))


def test_a_chat_template_must_write_vicunas_form(folder):
    hubs = (ROOT / "tests" / "data" / "hub_like" / "chat_template.jinja").read_text()  # without the system text
    # A template for text alone, with its own words before the chat; and a template of another model.
    plain = "Be kind. {% for m in messages %}{{ m['role'].upper() + ': ' + m['content'] + '\n' }}{% endfor %}"
    other = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'][0]['text'] }}[/]{% endfor %}"
    for template in (hubs, CHAT_TEMPLATE, plain):
        (folder / "chat_template.jinja").write_text(template)
        assert load_preprocessor(str(folder)).place(lambda: (64, 64)) == "<image>" * 16
    for template, says in (
        (other, r"writes '\[user\]\[/\]\[assistant\]That.\[/\]'"),
        ("{{ raise_exception('no') }}", "writes 'nothing at all'"),
    ):
        (folder / "chat_template.jinja").write_text(template)
        with pytest.raises(BadInput, match=f"^model_path {folder}: its chat template {says}"):
            load_preprocessor(str(folder))


def test_weights_are_what_transformers_loads_and_what_they_lack_is_named(folder):
    """Weights and buffers are equal to the bit, weights frozen. transformers would draw missing weights at random."""
    plain = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    model, file = load_model(str(folder), torch.float32), folder / "model.safetensors"
    one, two = ({**dict(each.named_parameters()), **dict(each.named_buffers())} for each in (model, plain))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert not any(each.requires_grad for each in model.parameters())
    tensors, whole = load_file(file), file.read_bytes()
    gone = sorted(name for name in tensors if "layers.1.self_attn.q" in name)
    save_file({name: value for name, value in tensors.items() if name not in gone}, file, metadata={"format": "pt"})
    with pytest.raises(BadInput, match=rf"its weights lack model\.\S+q_proj\.weight and {len(gone) - 1} more"):
        load_model(str(folder), torch.float32)
    for size in (0, 1000, -1):
        file.write_bytes(whole[:size])
        with pytest.raises(BadInput, match=f"^{file}: not readable as safetensors; is it cut off"):
            load_model(str(folder), torch.float32)
    file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"junk")
    with pytest.raises(BadInput, match=f"^model_path {folder}: cannot be loaded"):
        load_model(str(folder), torch.float32)


def test_auto_is_the_fastest_dtype_and_attention(monkeypatch):
    single, half = torch.float32, torch.bfloat16
    llava, gemma = (families()[name] for name in ("llava-1.5-7b", "gemma-3-4b"))
    for dtype, gpu, flash, family, runs in (
        *(
            (single, False, False, llava, "sdpa"),
            (single, True, True, llava, "sdpa"),
            (half, False, False, llava, "eager"),
        ),
        *((half, True, False, llava, "sdpa"), (half, True, True, llava, "flash_attention_2")),
        *((half, True, True, gemma, "sdpa"), (half, False, False, gemma, "eager")),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        monkeypatch.setattr(loading, "is_flash_attn_2_available", lambda flash=flash: flash)
        assert [choose_attention(name, dtype, family) for name in ("auto", "eager")] == [runs, "eager"]
        assert choose_dtype("auto") == (half if gpu else single)
        if runs == "flash_attention_2":  # it would set the states of padding to 0
            assert choose_attention("auto", dtype, family, padding=True) == "sdpa"
    monkeypatch.setattr(loading, "is_flash_attn_2_available", lambda: False)
    with pytest.raises(BadInput, match=r"attention=flash_attention_2: .* attention=auto takes"):
        choose_attention("flash_attention_2", half, llava)
    assert choose_dtype("float16") == torch.float16
    with pytest.raises(BadInput, match="dtype float8: must be one of auto, float32, bfloat16, float16"):
        choose_dtype("float8")


def test_cudnns_attention_runs_only_when_asked_for():
    """Each load decides this for the entire process."""
    for attention in ("sdpa_cudnn", "sdpa", "eager"):
        model = load_model(str(MODEL), torch.bfloat16, attention, device="meta")
        assert {(each.device.type, each.dtype) for each in model.parameters()} == {("meta", torch.bfloat16)}
        assert model.config._attn_implementation == attention.removesuffix("_cudnn")
        assert torch.backends.cuda.cudnn_sdp_enabled() == (attention == "sdpa_cudnn")
