"""A folder as the hub has LLaVA-1.5's, through the commands; and what they make of it, as transformers 4 reads it.

The older version is fetched once a machine, by pip and into the user's cache. Where it cannot be had, those tests are
skipped and say why.
"""

import os
import subprocess
import sys
from pathlib import Path

import hub_like
import pytest
import torch
from as_read import OLDER, install, read
from helpers import MODEL, RECORDED, ROOT, TRAIN, VAL, config, run, trained, write_json
from safetensors import safe_open
from transformers import AutoTokenizer, LlavaConfig, LlavaForConditionalGeneration

from safeeraser import model as models
from safeeraser.benchmark.files import read_json

from .conftest import CHECKPOINT

PICTURE = next((RECORDED / "dataset" / "img").rglob("*.jpg"))
TRAINING = (f"data_path={TRAIN}", "workers=0", "max_train_steps=2", "gradient_accumulation_steps=2", "lr=0.001")
ROPE = {"rope_theta": 500.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}  # not LLaVA-1.5's
# What transformers 4 is to read as 5 does.
READ = ("merged", "merged_bfloat16", "full", "fresh", "copy", "scaled_copy", "recorded", "hub", "scaled")


def command(*words):
    done = run("safeeraser.model", *words)
    assert not done.returncode, done.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The hub's folder, and beside it what runs, merges and copies make of it and of the recorded model."""
    place = tmp_path_factory.mktemp("hub")
    hub, scaled = hub_like.write(place / "hub"), dict(hub_like.FILES)
    scaled["config.json"] = scaled["config.json"] | {"text_config": scaled["config.json"]["text_config"] | ROPE}
    hub_like.write(place / "scaled", scaled)
    write_json(place / "sparse" / "config.json", hub_like.CONFIG)
    trained(place / "run", f"model_path={hub}", *TRAINING, "dtype=float32")
    trained(place / "full", f"model_path={hub}", *TRAINING, "dtype=float32", "finetune=full")
    command("merge", place / "run", place / "merged")
    command("merge", place / "run", place / "merged_bfloat16", "--dtype", "bfloat16")
    command("merge", CHECKPOINT, place / "recorded", "--model_path", MODEL)
    command("copy", hub, place / "copy")
    command("copy", place / "scaled", place / "scaled_copy")
    fresh = LlavaForConditionalGeneration(LlavaConfig.from_dict(hub_like.FILES["config.json"]))
    models.write_model(place / "fresh", fresh, models.load_preprocessor(str(hub)))
    return place


@pytest.mark.slow
def test_a_merged_run_answers_as_its_adapter_on_the_hubs_folder(place, tmp_path):
    asked = ("--eval_file", VAL, "--greedy", "--max_new_tokens", 6, "--limit", 1, "--dtype", "bfloat16")
    found = {}
    for option, name in (("checkpoint_path", "run"), ("model_path", "merged_bfloat16"), ("model_path", "hub")):
        done = run("ckpt_infer", *asked, "--output_file", tmp_path / name, f"--{option}", place / name)
        assert done.returncode == 0, done.stderr
        found[name] = read_json(tmp_path / name)
    merged = found["merged_bfloat16"]
    assert found["run"] == merged != found["hub"]
    assert len({pair["model_response1"] for record in merged for pair in record["unsafe_pairs"]}) > 4


def weights(folder):
    """Name, dtype and shape of each tensor in a model's files."""
    found = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            slices = [(name, tensors.get_slice(name)) for name in tensors.keys()]  # noqa: SIM118
            found |= {(name, each.get_dtype(), tuple(each.get_shape())) for name, each in slices}
    return found


@pytest.mark.slow
def test_names_dtype_and_fingerprint_are_the_hubs(place):
    """Whatever the model was loaded from, and however its weights are divided."""
    assert weights(place / "merged") == weights(place / "hub")
    for name in ("merged_bfloat16", "full", "fresh"):
        assert {name for name, *_ in weights(place / name)} == {name for name, *_ in weights(place / "hub")}
    assert len(list((place / "hub").glob("*.safetensors"))) > len(list((place / "copy").glob("*.safetensors"))) == 1
    known = models.fingerprint(str(place / "hub"))["weights"]
    assert known == models.fingerprint(str(place / "copy"))["weights"]
    told = read_json(place / "merged" / "run.json")
    assert (told["base"]["weights"], told["merged"]["base"], told["merged"]["dtype"]) == (known, known, "float16")
    tokenizer = AutoTokenizer.from_pretrained(place / "hub")
    assert tokenizer("USER: <image>\nHi").input_ids == [1, 3148, 1001, 29901, 29871, 32000, 29871, 13, 18567]


@pytest.mark.slow
def test_what_the_hubs_configuration_leaves_out_is_a_llama_of_7b(place):
    """As the family's page has it, by which a dry run counts where the hub cannot be reached."""
    found = LlavaConfig.from_pretrained(place / "sparse")
    page = config("model_family=llava-1.5-7b").model_family.architecture
    for part in ("text_config", "vision_config"):
        assert {name: getattr(getattr(found, part), name) for name in page[part]} == dict(page[part])
    for name in ("image_token_id", "vision_feature_layer", "vision_feature_select_strategy"):
        assert getattr(found, name) == page[name]
    assert found.text_config.rope_parameters == {"rope_type": "default", "rope_theta": 10000.0}


@pytest.fixture(scope="module")
def older(place):
    """What transformers 4 reads in the folders."""
    packages = install(Path(os.environ["KEPT_FOR_TESTS"]))
    if isinstance(packages, str):
        pytest.skip(f"{OLDER[0]}: {packages}")
    given = (PICTURE, *(place / name for name in READ), place / "older.pt")
    script = [sys.executable, ROOT / "tests" / "as_read.py", *given]
    done = subprocess.run(script, env=os.environ | {"PYTHONPATH": str(packages)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = torch.load(place / "older.pt", weights_only=False)
    assert OLDER[0] == f"transformers=={told['version']}"
    return told["found"]


@pytest.mark.nightly
@pytest.mark.parametrize("name", READ)
def test_transformers_4_reads_the_same(place, older, name):
    """And a copy is to it what its base was: other numbers of the rotary embedding than Llama's own outlive the new key
    that they are written under."""
    found, wanted = older[name], read(place / name, PICTURE)
    for key in ("chat", "dtype", "ends", "special", "answer"):
        assert found[key] == wanted[key], key
    assert found["inputs"].keys() == wanted["inputs"].keys() == {"input_ids", "attention_mask", "pixel_values"}
    assert all(torch.equal(found["inputs"][key], value) for key, value in wanted["inputs"].items())
    torch.testing.assert_close(found["logits"], wanted["logits"], atol=1e-5, rtol=0)
    if base := {"copy": "hub", "scaled_copy": "scaled"}.get(name):
        torch.testing.assert_close(found["logits"], older[base]["logits"], atol=1e-5, rtol=0)
        for key in ("rope_theta", "rope_scaling", "rms_norm_eps"):
            assert found["config"]["text_config"][key] == older[base]["config"]["text_config"][key], key
