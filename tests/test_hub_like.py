"""A folder as the hub has it, through the commands."""

import sys

import hub_like
import pytest
from helpers import TRAIN, VAL, config, refused, run, write_json
from safetensors import safe_open
from transformers import AutoTokenizer, LlavaConfig

from safeeraser import model as llava
from safeeraser.benchmark.files import read_json
from safeeraser.model import __main__ as command

pytestmark = pytest.mark.xdist_group("hub_like")  # the runs are made once
DTYPES = ("float32", "bfloat16")
TRAINING = (f"data_path={TRAIN}", "workers=0", "max_train_steps=2", "gradient_accumulation_steps=2", "lr=0.001")
ASKING = ("--eval_file", VAL, "--greedy", "--max_new_tokens", 6, "--limit", 1)


def model_command(*words):
    """Run `python -m safeeraser.model`."""
    with pytest.MonkeyPatch.context() as patched, pytest.raises(SystemExit) as stop:
        patched.setattr(sys, "argv", ["safeeraser.model", *map(str, words)])
        command.main()
    assert stop.value.code == 0, words


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The hub's folder, and beside it what runs, merges and copies make of it."""
    place = tmp_path_factory.mktemp("hub")
    hub = hub_like.write(place / "hub")
    write_json(place / "sparse" / "config.json", hub_like.CONFIG)
    for dtype in DTYPES:
        done = run("forget", f"model_path={hub}", *TRAINING, f"dtype={dtype}", f"save_dir={place / dtype}")
        assert done.returncode == 0, done.stderr
        model_command("merge", place / dtype, place / f"merged_{dtype}", "--dtype", dtype)
    model_command("merge", place / "float32", place / "merged")
    model_command("copy", hub, place / "copy")
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


def test_it_is_the_same_model_however_its_weights_are_divided(place, tmp_path):
    """And an adapter of it belongs to no other one of that form."""
    assert len(list((place / "hub").glob("*.safetensors"))) > len(list((place / "copy").glob("*.safetensors"))) == 1
    known = llava.fingerprint(str(place / "hub"))["weights"]
    assert known == llava.fingerprint(str(place / "copy"))["weights"]
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


def test_the_tokenizer_is_the_llama_2_one_with_a_picture_and_a_pad(place):
    """As this project reads the hub's folder: the ids are those of the recorded release's form."""
    tokenizer = AutoTokenizer.from_pretrained(place / "hub")
    assert tokenizer("USER: <image>\nHi").input_ids == [1, 3148, 1001, 29901, 29871, 32000, 29871, 13, 18567]
    assert (tokenizer.padding_side, tokenizer.pad_token_id) == ("left", 32001)
