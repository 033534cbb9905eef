"""What audit.py refuses, before anything is written, and an adapter that tells nothing of its training."""

import json
import shutil

import pytest
from helpers import MODEL, RECORDED, TRAIN, VAL, refused

from safeeraser import model as llava
from safeeraser.audit.options import Options
from safeeraser.audit.relearn import relearning_settings

GIVEN = ("--model_path", MODEL, "--val_file", TRAIN, "--train_file", VAL, "--judge", "rules")


@pytest.fixture
def adapter(tmp_path):
    """The recorded checkpoint as a PEFT folder: no run.json tells how it was trained."""
    llava.convert(RECORDED / "inference" / "checkpoint.pt", tmp_path / "adapter", model_path=str(MODEL))
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("relearned",), "unknown action 'relearned'; did you mean 'relearn'?"),
        (("--steps", "1,x"), "--steps: must be whole numbers of at least 1"),
        (("--relearn_lr", "0"), "--relearn_lr must be above 0"),
        (("--limit", "0"), "--limit: must be a whole number of at least 1"),
        (("--atack", "blur"), "unknown option '--atack'"),
        (("--val_file", "nowhere.json"), "nowhere.json: no such file"),
        (("--val_file", VAL), "no record is left once the first 1 of each category are skipped"),
        (("--judge_model", "gpt-4o"), "--judge rules is no model"),
    ],
)
def test_a_mistake_is_one_line(adapter, tmp_path, given, says):
    refused(tmp_path, "audit", "--checkpoint_path", adapter, *GIVEN, *given, says=says)


def test_an_adapter_that_is_not_there_or_is_a_file(tmp_path, adapter):
    refused(tmp_path, "audit", "--checkpoint_path", tmp_path / "none", *GIVEN, says="no adapter there")
    file = RECORDED / "inference" / "checkpoint.pt"
    refused(tmp_path, "audit", "--checkpoint_path", file, *GIVEN, says="'python -m safeeraser.model convert' makes")


def test_an_audit_goes_on_with_its_own_settings_alone(tmp_path, adapter):
    (adapter / "audit").mkdir()
    options = Options(adapter, str(MODEL), VAL, TRAIN)
    (adapter / "audit" / "settings.json").write_text(json.dumps(options.settings | {"limit": 3}))
    says = "begun with limit=3, now limit=10"
    refused(tmp_path, "audit", "--checkpoint_path", adapter, *GIVEN, says=says)


def test_an_adapter_that_does_not_tell_how_it_was_trained(adapter):
    options = Options(adapter, str(MODEL), VAL, TRAIN, relearn_lr=0.5)
    settings = relearning_settings(options, "retain")
    assert (settings.LoRA.r, settings.LoRA.alpha, settings.lr, settings.tune_mm_projector) == (32, 256, 0.5, True)
    assert settings.model_path == str(MODEL) and settings.init_adapter == adapter
    own = shutil.copytree(adapter, adapter.with_name("own"))
    (own / "run.json").write_text(json.dumps({"settings": {"lr": -1, "data_path": str(TRAIN)}}))
    refused(own.parent, "audit", "--checkpoint_path", own, *GIVEN, says="run.json")
