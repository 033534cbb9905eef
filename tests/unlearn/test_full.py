"""`finetune=full`: the model itself is trained, without an adapter, and saved as a folder like any other."""

import json

import pytest
import torch
from helpers import MODEL, RECORDED, TRAIN, read_lines, refused, run, settings, trained
from transformers import LlavaForConditionalGeneration, Trainer

from safeeraser.model import load_model
from safeeraser.unlearn import reference
from safeeraser.unlearn.trainer import UnlearnTrainer

pytestmark = pytest.mark.slow

GIVEN = (f"model_path={MODEL}", f"data_path={TRAIN}", "dtype=float32", "gradient_accumulation_steps=2", "workers=0")
FOUR = (*GIVEN, "finetune=full", "lr=0.001", "max_train_steps=4", "save_steps=2", "forget_loss=klpd")


def forget(folder, *more):
    return trained(folder, *FOUR, *more)


def weights(folder):
    return load_model(str(folder), torch.float32).state_dict()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed run of klpd."""
    return forget(tmp_path_factory.mktemp("full") / "run")


def test_language_model_and_projector_have_moved_and_nothing_else(whole):
    before, after = weights(MODEL), weights(whole)
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if ".vision_tower." not in name}
    told = json.loads((whole / "run.json").read_text())
    assert told["settings"]["finetune"] == "full"
    counts = {"LoRA": 0, "vision_tower": 0}
    counts["projector"] = sum(before[name].numel() for name in before if ".multi_modal_projector." in name)
    counts["language_model"] = sum(before[name].numel() for name in moved) - counts["projector"]
    assert told["trained_parameters"] == counts


def test_the_reference_stays_untouched(whole):
    """KL is 0 before the first step alone; were the reference trained along, it would stay there."""
    kl = [row["terms"]["kl"] for row in read_lines(whole / "train_log.jsonl")]
    assert kl[0] == pytest.approx(0, abs=1e-6) and min(kl[1:]) > 1e-5


def test_the_folder_answers_as_a_model_does(whole, tmp_path):
    out = tmp_path / "p.json"
    given = ["--eval_file", TRAIN, "--output_file", out, "--greedy", "--max_new_tokens", 4, "--limit", 1]
    done = run("ckpt_infer", *given, "--model_path", whole, "--loss_type", "klpd")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "p.run.json").read_text())["training"]["method"] == "klpd"
    refused(tmp_path, "ckpt_infer", *given[:3], tmp_path / "q.json", "--model_path", whole, "--loss_type", "ga",
            says=f"--loss_type ga: {whole} was trained with klpd")  # fmt: skip
    refused(tmp_path, "ckpt_infer", *given[:3], tmp_path / "q.json", "--model_path", whole, "--loss_type", "vanilla",
            says="--loss_type vanilla: the untouched model has no checkpoint")  # fmt: skip


def test_a_run_that_was_interrupted_goes_on_to_the_bit(whole, tmp_path, monkeypatch):
    """Trainer would load a checkpoint under other names than it is written with, and not say so."""
    train = UnlearnTrainer._maybe_log_save_evaluate

    def interrupted(self, *args, **kwargs):
        train(self, *args, **kwargs)
        if self.state.global_step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(UnlearnTrainer, "_maybe_log_save_evaluate", interrupted)
        assert run("forget", *FOUR, f"save_dir={tmp_path / 'run'}").returncode == 130
    assert Trainer._maybe_log_save_evaluate is train
    forget(tmp_path / "run", "resume_from_checkpoint=auto")
    one, two = weights(whole), weights(tmp_path / "run")
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert read_lines(whole / "train_log.jsonl") == read_lines(tmp_path / "run" / "train_log.jsonl")


def test_only_the_projector(tmp_path):
    folder = forget(tmp_path / "run", "tune_language_model=false", "forget_loss=gd", "max_train_steps=1")
    before, after = weights(MODEL), weights(folder)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if ".multi_modal_projector." in name}


def test_saved_in_the_dtype_that_was_loaded(tmp_path):
    """What is trained is in float32 meanwhile, and would take twice the room."""
    folder = forget(tmp_path / "run", "forget_loss=gd", "save_steps=0", "max_train_steps=1", "dtype=bfloat16")
    stored = LlavaForConditionalGeneration.from_pretrained(folder, dtype="auto")
    assert {parameter.dtype for parameter in stored.parameters()} == {torch.bfloat16}


def test_a_second_copy_must_find_room(monkeypatch, tmp_path):
    monkeypatch.setattr(reference.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    says = "needs a second copy; that takes 0.0 GiB, and 0.0 are free"
    refused(tmp_path, "forget", *FOUR, f"save_dir={tmp_path / 'run'}", says=says, before="the model is loaded first")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (f"init_adapter={RECORDED / 'initial_adapter.safetensors'}", "takes no init_adapter"),
        ("quantization=nf4", "cannot train weights in 4 bits"),
        ("tune_language_model=false tune_mm_projector=false", "finetune=full: nothing to train"),
        ("forget_loss=none data.views.retain.image=null tune_language_model=false", "finetune=full: nothing to train"),
    ],
)
def test_what_does_not_go_with_it(override, says):
    from safeeraser.errors import BadInput

    with pytest.raises(BadInput, match=says):
        settings("finetune=full", *override.split())
