"""Merged folders of eight families: they hold what their base's hold, load by plain transformers, and answer letter by
letter as adapter and base together."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from helpers import RECORDED, ROOT, TRAIN, refused, run, write_json
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from safeeraser import model as vlm
from safeeraser.benchmark.files import read_json

from .recorded import FAMILIES, Recorded, answers, picture

WEIGHTS, CONFIG = "model.safetensors", "config.json"
RELEASED = RECORDED / "inference" / "checkpoint.pt"


def command(action: str, *words: object) -> None:
    """`python -m safeeraser.model`, which must go well."""
    done = run("safeeraser.model", action, *words)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def merged(family, tmp_path_factory):
    """The family's adapter merged into its model."""
    out = tmp_path_factory.mktemp(family.name) / "merged"
    command("merge", family.adapter, out, "--model_path", family.path)
    return out


def test_the_families_whose_processor_wants_torchvision_are_told(family):
    """Plain `AutoProcessor` loads the part for films too; a user of a merged folder is told by docs/models.md."""
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    named = re.search(r"wants torchvision for (.*?), merged or not", text, re.DOTALL)[1]
    kind = PROCESSOR_MAPPING[type(AutoConfig.from_pretrained(family.path))]
    model_type = read_json(Path(family.path) / CONFIG)["model_type"]
    assert ("video_processor" in kind.get_attributes()) == (f"`{model_type}`" in named)


def based_on(name: str, folder):
    """A copy of a family's model, to be changed, and its adapter."""
    family = Recorded(name)
    return shutil.copytree(family.path, folder), family.adapter


def files(folder) -> dict[str, bytes]:
    """A model's files but its weights, its configuration and what is noted of its making."""
    left_out = (WEIGHTS, CONFIG, "run.json")
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name not in left_out}


def test_it_holds_what_its_base_holds(family, merged):
    base = family.folder / "model"
    assert files(merged) == files(base)
    known = read_json(base / CONFIG)
    assert read_json(merged / CONFIG) == {"torch_dtype": known["dtype"]} | known
    wanted, found = (load_file(folder / WEIGHTS) for folder in (base, merged))
    assert {name: (t.dtype, t.shape) for name, t in found.items()} == {
        name: (t.dtype, t.shape) for name, t in wanted.items()
    }
    assert any(not torch.equal(found[name], wanted[name]) for name in found)


def test_inference_answers_as_by_adapter_and_base(family, merged, tmp_path):
    """Of the first record, whose 12 items are the first 12 rows."""
    found = answers(family, tmp_path / "p.json", "--categories", "HateSpeech", "--model_path", merged)
    expected = zip(family.rows, family.figures["with_adapter"], strict=False)
    assert found == {(row["view"], row["index"]): {adapted["response"]} for row, adapted in expected}


def test_plain_transformers_answer_as_by_adapter_and_base(family, merged):
    """With what the folder itself holds: weights, what prepares the input, and what ends an answer."""
    model = AutoModelForImageTextToText.from_pretrained(merged).eval()
    preprocessor = vlm.load_preprocessor(str(merged))
    greedy = GenerationConfig.from_pretrained(merged, do_sample=False, max_new_tokens=24)
    for row, adapted in zip(family.rows, family.figures["with_adapter"], strict=False):
        turn = vlm.Turn(picture(row["picture"]), row["question"])
        inputs = preprocessor.join([preprocessor.encode(turn)])
        output = model.generate(**inputs, generation_config=greedy)[0, inputs["input_ids"].shape[1] :]
        assert preprocessor.tokenizer.decode(output, skip_special_tokens=True).strip() == adapted["response"]


def test_a_copy_is_the_base_itself(family, tmp_path):
    command("copy", family.path, tmp_path / "copy")
    base = family.folder / "model"
    assert files(tmp_path / "copy") == files(base)
    wanted, found = (load_file(folder / WEIGHTS) for folder in (base, tmp_path / "copy"))
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_configuration_stays_in_the_words_of_its_base(tmp_path, dtype):
    """Those that the hub's folders have are of transformers 4, which reads no others."""
    base, adapter = based_on("qwen2_5_vl", tmp_path / "base")
    told = read_json(base / CONFIG)
    rope = told["text_config"].pop("rope_parameters")
    told["text_config"] |= {"rope_theta": rope["rope_theta"], "torch_dtype": told.pop("dtype")}
    told["text_config"]["rope_scaling"] = {"type": "default", "mrope_section": rope["mrope_section"]}
    del told["text_config"]["dtype"], told["vision_config"]["dtype"]
    write_json(base / CONFIG, told)
    command("merge", adapter, tmp_path / "out", "--model_path", base, "--dtype", dtype)
    told["text_config"]["torch_dtype"] = dtype
    assert read_json(tmp_path / "out" / CONFIG) == {"dtype": dtype, "torch_dtype": dtype} | told
    assert vlm.load_model(str(tmp_path / "out"), "auto").dtype == vlm.DTYPES[dtype]


@pytest.mark.parametrize("name", ["gemma3", "internvl"])
def test_a_head_of_its_own_stays_one(tmp_path, name):
    """Though the base's configuration says that it is tied: its weights say otherwise, and so does the merged one's."""
    base, adapter = based_on(name, tmp_path / "base")
    weights = load_file(base / WEIGHTS)
    embedded = next(weight for key, weight in weights.items() if key.endswith("embed_tokens.weight"))
    head = weights["language_model.lm_head.weight"] = embedded + 0.1 * torch.randn(embedded.shape)
    save_file(weights, base / WEIGHTS, {"format": "pt"})
    command("merge", adapter, tmp_path / "out", "--model_path", base)
    assert read_json(base / CONFIG)["tie_word_embeddings"] is True
    assert read_json(tmp_path / "out" / CONFIG)["tie_word_embeddings"] is False
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert torch.equal(model.get_output_embeddings().weight, head)


def test_files_that_this_machine_has_no_use_for_go_along(tmp_path):
    """The part for films, which is loaded nowhere here, and how a server is to sample."""
    base, adapter = based_on("qwen3_vl", tmp_path / "base")
    write_json(base / "video_preprocessor_config.json", {"video_processor_type": "Qwen3VLVideoProcessor"})
    write_json(base / "generation_config.json", {"do_sample": False, "temperature": 0.9, "eos_token_id": [2, 0]})
    for name in ("vocab.json", "merges.txt", "added_tokens.json", "tokenizer.model"):
        (base / name).write_text("{}")
    command("merge", adapter, tmp_path / "out", "--model_path", base)
    assert files(tmp_path / "out") == files(base)


def test_a_model_that_was_trained_whole_is_a_model(tmp_path):
    """`finetune=full` leaves what `model_path` takes, with all that a server asks for."""
    family = Recorded("smolvlm")
    words = (f"model_path={family.path}", f"data_path={TRAIN}", "finetune=full", "dtype=float32", "workers=0")
    done = run("forget", *words, "max_train_steps=2", "gradient_accumulation_steps=1", f"save_dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    made, base = tmp_path / "run", family.folder / "model"
    assert files(base).items() <= files(made).items()
    wanted, found = (load_file(folder / WEIGHTS) for folder in (base, made))
    assert found.keys() == wanted.keys() and any(not torch.equal(found[name], wanted[name]) for name in found)
    said = answers(family, tmp_path / "p.json", "--categories", "HateSpeech", "--model_path", made)
    assert len(said) == 12
    command("copy", made, tmp_path / "copy")
    assert files(tmp_path / "copy").items() >= files(base).items()


@pytest.mark.parametrize("name", ["llava_next", "qwen3_vl"])
def test_the_releases_form_takes_no_adapter_of_another_family(tmp_path, name):
    """Also where the names are those that it knows."""
    says = f"an adapter of '{name}' models; the release's form is LLaVA-1.5's alone"
    refused(tmp_path, "safeeraser.model", "convert", Recorded(name).adapter, tmp_path / "checkpoint.pt", says=says)


@pytest.mark.parametrize(("name", "other"), [("idefics3", "smolvlm"), ("gemma3", "qwen3_vl"), ("llava_next", "llava")])
def test_an_adapter_of_another_family_is_refused_by_name(tmp_path, name, other):
    """Also where parts and shapes are alike, as those of the first two are."""
    adapter = Recorded(other).adapter if other in FAMILIES else RELEASED
    line = refused(
        tmp_path,
        "safeeraser.model",
        *("merge", adapter, tmp_path / "out", "--model_path", Recorded(name).path),
        says=f"an adapter of '{other}' models, and this is a '{name}'",
        before="merging",
    )
    assert str(adapter) in line
