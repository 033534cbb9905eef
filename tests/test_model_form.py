"""What is taken for LLaVA-1.5: what is not, in tower, text model or chat, is refused by name; what works, works."""

import json
import shutil

import pytest
import torch
from helpers import MODEL, record, refused, run, write_dataset, write_json
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    GenerationConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    SiglipVisionConfig,
)

from safeeraser import model as models
from safeeraser.benchmark.conversation import CHAT_TEMPLATE
from safeeraser.benchmark.pictures import open_picture
from safeeraser.errors import BadInput
from safeeraser.generation.decoder import Asked, Decoder
from safeeraser.generation.sampling import Generation

# As the hub's own LLaVA-1.5 writes a chat: roles in capitals, pictures first, no system text, a space behind each part.
ROLES = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}"
    "{% generation %}{{ part['text'] + ' ' }}{% endgeneration %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
# For text alone, and with words of its own before the chat.
PLAIN = "Be kind. {% for m in messages %}{{ m['role'].upper() + ': ' + m['content'] + '\n' }}{% endfor %}"
INST = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'][0]['text'] }}[/]{% endfor %}"
ONE_FORM = "of 'llava' models this project knows LLaVA-1.5's form alone"


@pytest.fixture
def folder(tmp_path):
    """A copy of the tiny model, to be changed."""
    return shutil.copytree(MODEL, tmp_path / "model")


def told(folder, **changes):
    """Change the folder's configuration."""
    write_json(folder / "config.json", json.loads((folder / "config.json").read_text()) | changes)


def picture_tokens(preprocessor):
    """How many tokens a picture takes."""
    return preprocessor.place(lambda: (64, 64)).count(preprocessor.processor.image_token)


def part(config):
    return json.loads(config(num_hidden_layers=3).to_json_string())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"vision_config": part(SiglipVisionConfig)},
            "vision_config.model_type is 'siglip_vision_model', not 'clip_vision_model'",
        ),
        ({"text_config": part(MistralConfig)}, "text_config.model_type is 'mistral', not 'llama'"),
        ({"vision_feature_layer": 4}, "vision_feature_layer is 4, of a vision tower of 3 layers"),
        ({"vision_feature_layer": 0}, "vision_feature_layer is 0, of a vision tower of 3 layers"),
        ({"vision_feature_layer": [-2, -5]}, "vision_feature_layer is [-2, -5], of a vision tower of 3 layers"),
        ({"vision_feature_layer": []}, "vision_feature_layer is [], of a vision tower of 3 layers"),
    ],
)
def test_another_form_is_refused_by_name(folder, changes, says):
    told(folder, **changes)
    with pytest.raises(BadInput) as error:
        models.load_config(str(folder))
    assert str(error.value) == f"model_path {folder}: {says}; {ONE_FORM}"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"crop_size": {"height": 28, "width": 28}}, "its picture processor makes (3, 28, 28), its vision tower sees"),
        ({"do_center_crop": False}, "its picture processor makes (3, "),
        (
            {"image_processor_type": "SiglipImageProcessor"},
            "its picture processor is 'SiglipImageProcessor'",
        ),
    ],
)
def test_another_picture_processor_is_refused(folder, changes, says):
    file = folder / "preprocessor_config.json"
    write_json(file, json.loads(file.read_text()) | changes)
    with pytest.raises(BadInput) as error:
        models.load_preprocessor(str(folder))
    assert str(error.value).startswith(f"model_path {folder}: {says}")


@pytest.mark.parametrize("kind", [None, "CLIPFeatureExtractor", "CLIPImageProcessorFast"])
def test_the_picture_processor_is_the_releases_whichever_word_a_folder_has_for_it(folder, kind):
    """Without one transformers would choose a LLaVA of later days, which pads; an older one it does not know."""
    file, picture = folder / "preprocessor_config.json", Image.linear_gradient("L").resize((90, 50)).convert("RGB")
    expected = models.load_preprocessor(str(MODEL)).show(picture).inputs["pixel_values"]
    given = json.loads(file.read_text())
    del given["image_processor_type"]
    write_json(file, given | ({"image_processor_type": kind} if kind else {}))
    assert models.load_preprocessor(str(folder)).show(picture).inputs["pixel_values"].equal(expected)


def test_weights_that_lack_a_tensor_are_refused(folder):
    """transformers makes up random ones, and a run on them would look like any other."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    gone = next(name for name in tensors if "q_proj" in name)
    del tensors[gone]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"its weights lack model\.\S+q_proj\.weight"):
        models.load_model(str(folder), torch.float32)


def test_weights_of_other_shapes_and_damaged_ones_are_one_line(folder):
    told(folder, vision_feature_layer=[-2, -1])
    with pytest.raises(BadInput, match="cannot be loaded"):
        models.load_model(str(folder), torch.float32)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"junk")
    with pytest.raises(BadInput, match="cannot be loaded"):
        models.load_model(str(folder), torch.float32)


def test_a_feature_layer_that_is_no_number_is_named(folder):
    told(folder, vision_feature_layer="last")
    with pytest.raises(BadInput, match="vision_feature_layer"):
        models.load_config(str(folder))


@pytest.mark.parametrize("script", ["forget", "ckpt_infer"])
def test_commands_refuse_another_form(folder, tmp_path, script):
    told(folder, vision_config=part(SiglipVisionConfig))
    data = write_dataset(tmp_path / "data", record(0))
    arguments = {
        "forget": (f"model_path={folder}", f"data_path={data}", f"save_dir={tmp_path / 'run'}"),
        "ckpt_infer": ("--model_path", folder, "--eval_file", data, "--output_file", tmp_path / "p.json"),
    }[script]
    before = "the requests are told first" if script == "ckpt_infer" else ""
    refused(
        tmp_path, script, *arguments, says=f"'siglip_vision_model', not 'clip_vision_model'; {ONE_FORM}", before=before
    )


@pytest.mark.parametrize("name", ["chat_template.jinja", "chat_template.json", "tokenizer_config.json"])
@pytest.mark.parametrize("template", [ROLES, CHAT_TEMPLATE, PLAIN, INST])
def test_a_chat_template_must_write_vicunas_form(folder, name, template):
    """Wherever it lies. One without the system text is the hub's own."""
    file = folder / name
    value = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(template) if name.endswith("jinja") else write_json(file, value | {"chat_template": template})
    if template != INST:
        assert picture_tokens(models.load_preprocessor(str(folder))) == 16
        return
    with pytest.raises(BadInput) as error:
        models.load_preprocessor(str(folder))
    said = "its chat template writes '[user][/][assistant]That.[/]' where Vicuna v1 asks"
    assert str(error.value) == f"model_path {folder}: {said}; {ONE_FORM}"


def test_a_template_that_cannot_be_rendered_is_refused(folder):
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no') }}")
    with pytest.raises(BadInput, match="its chat template writes 'nothing at all'"):
        models.load_preprocessor(str(folder))


@pytest.mark.parametrize(
    ("changes", "length"),
    [
        ({"vision_feature_select_strategy": "full"}, 17),
        ({"vision_feature_layer": -1}, 16),
        ({"vision_feature_layer": [-4, -1]}, 16),
    ],
)
def test_other_layers_and_the_class_token_work(folder, tmp_path, changes, length):
    """A step of training, and answers as transformers itself gives them."""
    config = AutoConfig.from_pretrained(MODEL)
    for key, value in changes.items():
        setattr(config, key, value)
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    data = write_dataset(tmp_path / "data", record(0))
    done = run("forget", f"model_path={folder}", f"data_path={data}", f"save_dir={tmp_path / 'run'}", "forget_loss=kl",
               "max_train_steps=1", "gradient_accumulation_steps=1", "workers=0", "dtype=float32")  # fmt: skip
    assert done.returncode == 0, done.stderr
    preprocessor = models.load_preprocessor(str(folder))
    assert picture_tokens(preprocessor) == length
    model = models.load_adapted(models.load_model(str(folder), torch.float32), tmp_path / "run").merge_and_unload()
    picture = data.parent / "img/Weapon/0.jpg"
    decoder = Decoder(models.VLM(model.eval(), preprocessor), Generation(greedy=True, max_new_tokens=12), 2)
    ((_, answer),) = next(decoder.answer([Asked(picture, "Alpha bravo?")]))
    inputs = preprocessor.join([preprocessor.encode(models.Turn(open_picture(picture), "Alpha bravo?"))])
    output = model.generate(
        **inputs,
        generation_config=GenerationConfig(do_sample=False, max_new_tokens=12, eos_token_id=2, pad_token_id=0),
    )
    assert (
        answer
        == preprocessor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    )


@pytest.mark.parametrize("size", [0, 5, 1000, -1])
def test_weights_that_are_cut_off_are_named(folder, tmp_path, size):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:size])
    with pytest.raises(BadInput) as error:
        models.load_model(str(folder), torch.float32)
    assert str(error.value) == f"{folder / 'model.safetensors'}: not readable as safetensors; is it cut off?"
