"""The dry run of eight families: what a picture takes comes from what prepares it, and else is said to be left out."""

import importlib

import pytest
from helpers import MODEL, RECORDED, TRAIN, plan_dataset, refused, run, settings

from safeeraser.selftest.memory import measure
from safeeraser.unlearn.dry_run import WITHOUT_PICTURES, planned_step
from safeeraser.unlearn.run import collator

from .recorded import Recorded
from .test_traps import copied

GIVEN = (f"data_path={TRAIN}", "dry_run=true", "dtype=float32")


def dry(tmp_path, *words):
    """What a dry run prints."""
    done = run("forget", *GIVEN, *words, f"save_dir={tmp_path / 'no'}")
    assert done.returncode == 0, done.stderr
    assert not any(tmp_path.iterdir())
    return " ".join(done.stdout.split())


def test_a_dry_run_needs_no_more_than_the_folder(family, tmp_path):
    told = dry(tmp_path, f"model_path={family.path}", "gradient_accumulation_steps=2")
    assert "activations kept for the backward pass" in told and WITHOUT_PICTURES not in told


@pytest.mark.parametrize("name", ["gemma3", "llava_next", "qwen3_vl", "smolvlm"])
def test_the_largest_micro_step_is_the_collators(name, monkeypatch):
    """In rows, tokens, and what the pictures take, those of both shapes among them."""
    monkeypatch.chdir(RECORDED)
    read = settings(f"model_path={Recorded(name).path}", "forget_loss=gdpd", "num_epochs=1", "limit=2")
    dataset = plan_dataset(read)
    batches = [collator(read, dataset)([dataset[number]])["inputs"] for number in range(len(dataset))]
    step = planned_step(read, dataset)
    assert step.rows == 3 and step.length == max(batch["input_ids"].shape[1] for batch in batches)
    largest = max(batch["pixel_values"].nbytes for batch in batches)
    # Of the rows of an item one may show the other picture, of another shape.
    assert largest <= step.rows * step.picture["pixel_values"].nbytes < 1.1 * largest


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", ["false", "true"])
@pytest.mark.parametrize("name", ["internvl", "qwen3_vl"])
def test_the_estimate_is_what_training_takes(tmp_path, monkeypatch, name, checkpointing):
    """Two optimizer steps in float32, beside the pictures of their micro-steps: much where a model is this small."""
    monkeypatch.chdir(RECORDED)
    monkeypatch.setattr(importlib.import_module("safeeraser.unlearn.batch"), "PICTURES_KEPT", 1)
    shape = ("batch_size=4", "gradient_accumulation_steps=2", "max_train_steps=2", f"save_dir={tmp_path / 'run'}")
    more = ("forget_loss=klpd", f"gradient_checkpointing={checkpointing}")
    read = settings(f"model_path={Recorded(name).path}", *shape, *more)
    parts, weights, peak = measure(read)
    step = planned_step(read, plan_dataset(read))
    shown = 2 * step.rows * sum(each.nbytes for each in step.picture.values())
    sizes = {part.name: part.device for part in parts}
    assert weights == sum(sizes.pop(part) for part in ("frozen weights", "trained weights"))
    assert 0.9 < (sum(sizes.values()) + shown) / peak < 1.1


@pytest.mark.slow
def test_without_the_hub_the_pages_numbers_tell_a_picture_of_one_size_alone(tmp_path):
    told = dry(tmp_path, "model_family=gemma-3-4b", "max_length=512")
    assert f"tokens of the longest row {511 + 256} " in told and WITHOUT_PICTURES not in told
    told = dry(tmp_path, "model_family=smolvlm-256m", "max_length=512")
    assert "tokens of the longest row 512 " in told and WITHOUT_PICTURES in told


def test_a_page_without_numbers_needs_the_hub_or_a_folder(tmp_path):
    words = ("model_family=qwen3-vl-2b", "model_family.architecture=null")
    says = "has no numbers for a dry run without: it needs the hub or a folder"
    refused(tmp_path, "forget", *GIVEN, *words, says=says, before="note: ")  # on whose answers the data hold


def test_what_names_no_model_is_refused_by_a_dry_run_too(tmp_path):
    refused(tmp_path, "forget", *GIVEN, "model_family=qwen3-vl", says="names a whole family: say which model of it")
    refused(tmp_path, "forget", *GIVEN, "model_family=qwen3-vl", f"model_path={MODEL}", says="is a 'llava'")
    other = copied(tmp_path, "qwen3_vl", "config.json", model_type="paligemma")
    line = refused(tmp_path, "forget", *GIVEN, f"model_path={other}", says="paligemma")
    assert "config/model_family" in line
