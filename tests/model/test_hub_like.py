"""The commands on a folder like LLaVA-1.5's on the hub, and their results as transformers 4 reads them.

pip installs the older version once per machine, into the user's cache. If that fails, its tests are skipped.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from as_read import read
from helpers import CHECKPOINT, MODEL, RECORDED, ROOT, TRAIN, llama_tokenizer, ran, read_beside, trained, write_json
from huggingface_hub import save_torch_state_dict
from safetensors import safe_open
from transformers import AutoTokenizer, LlavaConfig, LlavaForConditionalGeneration

from safeeraser.benchmark.files import read_json
from safeeraser.model.lineage import fingerprint

PICTURE = next((RECORDED / "dataset" / "img").rglob("*.jpg"))
TRAINING = (f"data_path={TRAIN}", "workers=0", "max_train_steps=2", "gradient_accumulation_steps=2", "lr=0.001")
TRAINING += ("dtype=float32",)
# Installed into a separate folder. Their other requirements are the packages that this project runs with.
OLDER = ("transformers==4.57.6", "tokenizers==0.22.1", "huggingface_hub==0.36.0")
READ = ("merged", "merged_bfloat16", "full", "copy", "recorded", "hub")  # both versions must read each alike
DATA = ROOT / "tests" / "data" / "hub_like"  # the small files of public copies, with all keys and values
FILES = {file.name: json.loads(file.read_text(encoding="utf-8")) for file in DATA.glob("*.json")}
SMALL, OLD_NAMES = read_beside(__file__, "hub_like.yaml").values()
for part, small in SMALL.items():
    FILES["config.json"][part] |= small


def write_hub(folder):
    """Write the folder, with random weights that are about as large as trained ones, and return it."""
    for name, value in FILES.items():
        write_json(folder / name, value)
    (folder / "chat_template.jinja").write_text((DATA / "chat_template.jinja").read_text())
    llama_tokenizer().backend_tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    model, weights = LlavaForConditionalGeneration(LlavaConfig.from_dict(FILES["config.json"])), {}
    for tensor in model.parameters():
        if tensor.ndim > 1:
            torch.nn.init.normal_(tensor, std=0.1)
    for name, value in model.state_dict().items():
        new, old = next((new, old) for new, old in OLD_NAMES.items() if name.startswith(new))
        weights[old + name.removeprefix(new)] = value.half()
    save_torch_state_dict(weights, folder, max_shard_size="5MB")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the hub's folder, and with the runs, merges and a copy made from it or from the recorded model."""
    place = tmp_path_factory.mktemp("hub")
    hub = write_hub(place / "hub")
    trained(place / "run", f"model_path={hub}", *TRAINING)
    trained(place / "full", f"model_path={hub}", *TRAINING, "finetune=full")
    ran("safeeraser.model", "merge", place / "run", place / "merged")
    ran("safeeraser.model", "merge", place / "run", place / "merged_bfloat16", "--dtype", "bfloat16")
    ran("safeeraser.model", "merge", CHECKPOINT, place / "recorded", "--model_path", MODEL)
    ran("safeeraser.model", "copy", hub, place / "copy")
    return place


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
    """This holds wherever the model was loaded from, and however its weights are divided into files."""
    assert weights(place / "merged") == weights(place / "hub")
    for name in ("merged_bfloat16", "full"):
        assert {name for name, *_ in weights(place / name)} == {name for name, *_ in weights(place / "hub")}
    assert len(list((place / "hub").glob("*.safetensors"))) > len(list((place / "copy").glob("*.safetensors"))) == 1
    known = fingerprint(str(place / "hub"))["weights"]
    assert known == fingerprint(str(place / "copy"))["weights"]
    told = read_json(place / "merged" / "run.json")
    assert (told["base"]["weights"], told["merged"]["base"], told["merged"]["dtype"]) == (known, known, "float16")
    tokenizer = AutoTokenizer.from_pretrained(place / "hub")
    assert tokenizer("USER: <image>\nHi").input_ids == [1, 3148, 1001, 29901, 29871, 32000, 29871, 13, 18567]


@pytest.fixture(scope="module")
def older(place):
    """The contents of the folders as transformers 4 reads them."""
    packages = Path(os.environ["KEPT_FOR_TESTS"], "_".join(OLDER))
    if not packages.is_dir():
        fresh = packages.with_name(f"fresh-{os.getpid()}")
        options = ("--quiet", "--no-deps", "--retries", "1", "--timeout", "15", "--target", fresh)
        pip = [sys.executable, "-m", "pip", "install", *options, *OLDER]
        if subprocess.run(pip).returncode:
            pytest.skip(f"pip cannot fetch {OLDER[0]}: its words are above")
        fresh.rename(packages)
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
    """In transformers 4, a copy also gives the logits of its base."""
    found, wanted = older[name], read(place / name, PICTURE)
    for key in ("chat", "dtype", "ends", "special", "answer"):
        assert found[key] == wanted[key], key
    assert found["inputs"].keys() == wanted["inputs"].keys() == {"input_ids", "attention_mask", "pixel_values"}
    assert all(torch.equal(found["inputs"][key], value) for key, value in wanted["inputs"].items())
    torch.testing.assert_close(found["logits"], wanted["logits"], atol=1e-5, rtol=0)
    if name == "copy":
        torch.testing.assert_close(found["logits"], older["hub"]["logits"], atol=1e-5, rtol=0)
