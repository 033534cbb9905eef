"""A folder as the hub has it, through the commands; and what they make of it, as transformers 4 reads it.

The older version is fetched once a machine, by pip and into the user's cache. Where it cannot be had, those tests are
skipped and say why.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import hub_like
import pytest
import torch
from as_read import OLDER, install, read
from helpers import MODEL, RECORDED, ROOT, TRAIN, VAL, config, refused, run, write_json
from safetensors import safe_open
from transformers import AutoTokenizer, LlavaConfig, LlavaForConditionalGeneration

from safeeraser import model as models
from safeeraser.benchmark.files import read_json
from safeeraser.model import __main__ as command

pytestmark = pytest.mark.slow

PICTURE = next((RECORDED / "dataset" / "img").rglob("*.jpg"))
CHECKPOINT = RECORDED / "inference" / "checkpoint.pt"
DTYPES = ("float32", "bfloat16")
TRAINING = (f"data_path={TRAIN}", "workers=0", "max_train_steps=2", "gradient_accumulation_steps=2", "lr=0.001")
ASKING = ("--eval_file", VAL, "--greedy", "--max_new_tokens", 6, "--limit", 1)
ROPE = {"rope_theta": 500.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}  # not LLaVA-1.5's


def model_command(*words):
    """Run `python -m safeeraser.model`."""
    with pytest.MonkeyPatch.context() as patched, pytest.raises(SystemExit) as stop:
        patched.setattr(sys, "argv", ["safeeraser.model", *map(str, words)])
        command.main()
    assert stop.value.code == 0, words


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The hub's folder, and beside it what runs, merges and copies make of it and of the recorded model."""
    place = tmp_path_factory.mktemp("hub")
    hub = hub_like.write(place / "hub")
    scaled = dict(hub_like.FILES)
    scaled["config.json"] = scaled["config.json"] | {"text_config": scaled["config.json"]["text_config"] | ROPE}
    hub_like.write(place / "scaled", scaled)
    write_json(place / "sparse" / "config.json", hub_like.CONFIG)
    for dtype in DTYPES:
        done = run("forget", f"model_path={hub}", *TRAINING, f"dtype={dtype}", f"save_dir={place / dtype}")
        assert done.returncode == 0, done.stderr
        model_command("merge", place / dtype, place / f"merged_{dtype}", "--dtype", dtype)
    model_command("merge", place / "float32", place / "merged")
    full = (f"model_path={hub}", *TRAINING, "dtype=float32", "finetune=full", f"save_dir={place / 'full'}")
    assert (done := run("forget", *full)).returncode == 0, done.stderr
    model_command("copy", hub, place / "copy")
    model_command("copy", place / "scaled", place / "scaled_copy")
    model_command("merge", CHECKPOINT, place / "recorded", "--model_path", MODEL)
    preprocessor = models.load_preprocessor(str(hub))
    fresh = LlavaForConditionalGeneration(LlavaConfig.from_dict(hub_like.FILES["config.json"]))
    models.write_model(place / "fresh", fresh, preprocessor)
    shutil.copytree(place / "copy", place / "fives")
    models.load_model(str(hub), "auto").save_pretrained(place / "fives", save_original_format=False)
    model_command("copy", place / "fives", place / "fives_copy")
    return place


def answers(out, *words):
    """What `ckpt_infer.py` writes of the validation data's first records."""
    done = run("ckpt_infer", *ASKING, "--output_file", out, *words)
    assert done.returncode == 0, done.stderr
    return read_json(out)


def responses(records):
    """All that a model said there."""
    said = [pair[key] for record in records for pair in record["unsafe_pairs"] for key in pair if "response" in key]
    return said + [record[key]["Prediction"] for record in records for key in record if key.startswith("UnharmPair")]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_merged_run_answers_as_its_adapter_on_the_hubs_folder(place, tmp_path, dtype):
    asked = ("--dtype", dtype)
    adapted = answers(tmp_path / "adapter.json", *asked, "--checkpoint_path", place / dtype)
    merged = answers(tmp_path / "merged.json", *asked, "--model_path", place / f"merged_{dtype}")
    untouched = answers(tmp_path / "base.json", *asked, "--model_path", place / "hub")
    assert adapted == merged
    assert adapted != untouched and len(set(responses(adapted))) > 20


def weights(folder):
    """Name, dtype and shape of each tensor in a model's files."""
    found = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            slices = [(name, tensors.get_slice(name)) for name in tensors.keys()]  # noqa: SIM118
            found |= {(name, each.get_dtype(), tuple(each.get_shape())) for name, each in slices}
    return found


def test_a_merge_keeps_the_hubs_dtype(place):
    assert weights(place / "merged") == weights(place / "hub")


@pytest.mark.parametrize("name", ["merged_bfloat16", "full", "fresh", "fives_copy"])
def test_the_names_are_the_hubs_whatever_the_model_was_loaded_from(place, name):
    """Fresh from its configuration, trained whole, or from a folder with the names that transformers 5 would write."""
    names = {name for name, *_ in weights(place / "hub")}
    assert {name for name, *_ in weights(place / "fives")}.isdisjoint(names)
    assert {name for name, *_ in weights(place / name)} == names


def test_it_is_the_same_model_however_its_weights_are_divided(place, tmp_path):
    """And an adapter of it belongs to no other one of that form."""
    assert len(list((place / "hub").glob("*.safetensors"))) > len(list((place / "copy").glob("*.safetensors"))) == 1
    known = models.fingerprint(str(place / "hub"))["weights"]
    assert known == models.fingerprint(str(place / "copy"))["weights"]
    assert read_json(place / "float32" / "run.json")["base"]["weights"] == known
    told = read_json(place / "merged" / "run.json")
    assert told["merged"]["base"] == known and told["merged"]["dtype"] == "float16" and told["parents"] == []
    hub_like.write(tmp_path / "another", seed=1)
    words = ("--checkpoint_path", place / "float32", "--model_path", tmp_path / "another")
    out = ("--output_file", tmp_path / "out.json")
    refused(tmp_path, "ckpt_infer", *ASKING, *out, *words, says="another", before="about")


def test_what_the_hubs_configuration_leaves_out_is_a_llama_of_7b(place):
    """As the family's page has it, by which a dry run counts where the hub cannot be reached."""
    found = LlavaConfig.from_pretrained(place / "sparse")
    page = config("model_family=llava-1.5-7b").model_family.architecture
    for part in ("text_config", "vision_config"):
        assert {name: getattr(getattr(found, part), name) for name in page[part]} == dict(page[part])
    for name in ("image_token_id", "vision_feature_layer", "vision_feature_select_strategy"):
        assert getattr(found, name) == page[name]
    text, vision = found.text_config, found.vision_config
    assert (text.rms_norm_eps, text.num_key_value_heads, text.head_dim, text.hidden_act) == (1e-5, 32, 128, "silu")
    assert text.rope_parameters == {"rope_type": "default", "rope_theta": 10000.0}
    assert (vision.layer_norm_eps, vision.hidden_act) == (1e-5, "quick_gelu")


@pytest.fixture(scope="module")
def older(place):
    """What transformers 4 reads in the folders."""
    packages = install(Path(os.environ["KEPT_FOR_TESTS"]))
    if isinstance(packages, str):
        pytest.skip(f"{OLDER[0]}: {packages}")
    out = place / "older.pt"
    script = [sys.executable, ROOT / "tests" / "as_read.py", PICTURE, *(place / name for name in READ), out]
    done = subprocess.run(script, env=os.environ | {"PYTHONPATH": str(packages)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = torch.load(out, weights_only=False)
    assert OLDER[0] == f"transformers=={told['version']}"
    return told["found"]


READ = ("merged", "merged_bfloat16", "full", "fresh", "copy", "scaled_copy", "recorded", "hub", "scaled", "sparse")
NEW_WORDS = {"transformers_version", "rope_parameters", "tie_word_embeddings"}  # the last one no part of a LLaVA asks


def shared(one, other):
    """Of two configurations, what both versions know, the parts flat beside the rest."""
    pairs = [("", one, other), *((part, one[part], other[part]) for part in ("text_config", "vision_config"))]
    keys = [(part, a, b, key) for part, a, b in pairs for key in a.keys() & b.keys() - NEW_WORDS]
    return [
        {f"{part}.{key}": str(side[key]) for part, *sides, key in keys if not isinstance((side := sides[i])[key], dict)}
        for i in (0, 1)
    ]


@pytest.mark.parametrize("name", READ)
def test_transformers_4_reads_the_same(place, older, name):
    found, wanted = older[name], read(place / name, PICTURE)
    ours, theirs = shared(wanted["config"], found["config"])
    assert ours == theirs
    assert {"text_config.rms_norm_eps", "text_config.hidden_size", "vision_config.layer_norm_eps"} <= ours.keys()
    if name == "sparse":
        return
    for key in ("chat", "dtype", "ends", "special", "answer"):
        assert found[key] == wanted[key], key
    assert found["inputs"].keys() == wanted["inputs"].keys() == {"input_ids", "attention_mask", "pixel_values"}
    assert all(torch.equal(found["inputs"][key], value) for key, value in wanted["inputs"].items())
    torch.testing.assert_close(found["logits"], wanted["logits"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("base", "copied"), [("hub", "copy"), ("scaled", "scaled_copy")])
def test_a_copy_is_to_transformers_4_what_its_base_was(older, base, copied):
    """Other numbers of the rotary embedding than Llama's own are to outlive the new key that they are written under."""
    base, copied = older[base], older[copied]
    assert all(torch.equal(base["inputs"][key], value) for key, value in copied["inputs"].items())
    torch.testing.assert_close(copied["logits"], base["logits"], atol=1e-5, rtol=0)
    for key in ("rope_theta", "rope_scaling", "rms_norm_eps"):
        assert copied["config"]["text_config"][key] == base["config"]["text_config"][key], key
    assert (base["logits"] - older["hub"]["logits"]).abs().max() > 0.01 or base is older["hub"]


def test_the_tokenizer_is_the_llama_2_one_with_a_picture_and_a_pad(place):
    """As this project reads the hub's folder: the ids are those of the recorded release's form."""
    tokenizer = AutoTokenizer.from_pretrained(place / "hub")
    assert tokenizer("USER: <image>\nHi").input_ids == [1, 3148, 1001, 29901, 29871, 32000, 29871, 13, 18567]
    assert (tokenizer.padding_side, tokenizer.pad_token_id) == ("left", 32001)
