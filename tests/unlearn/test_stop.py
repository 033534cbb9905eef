"""Runs that end before their plan: what ends them, which adapter is kept, and that a resumed run ends alike."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from helpers import MODEL, TRAIN, read_lines, run, settings
from safetensors.torch import load_file
from torch import nn

from safeeraser.unlearn.stop import Guard, reason_to_stop, unreachable_bounds

pytestmark = pytest.mark.slow

# Ascent at a high rate: the forget loss passes 9 in the third step.
GIVEN = (f"model_path={MODEL}", f"data_path={TRAIN}", "dtype=float32", "LoRA.dropout=0", "workers=0", "forget_loss=ga")
ASCENT = (*GIVEN, "gradient_accumulation_steps=4", "warmup_ratio=0", "max_grad_norm=0", "lr=0.02", "max_train_steps=12")


def forget(folder, *more):
    done = run("forget", *ASCENT, f"save_dir={folder}", *more)
    assert done.returncode == 0, done.stderr
    return done


def adapter(folder):
    return load_file(folder / "adapter_model.safetensors")


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def stopped(folder):
    return json.loads((folder / "run.json").read_text())["sittings"][-1]["stopped"]


@pytest.mark.parametrize(
    ("given", "losses", "reason"),
    [
        ((), {"loss": 1.0, "forget": 99.0, "retain": 99.0}, None),
        ((), {"loss": float("nan"), "forget": 1.0, "retain": 1.0}, "stop.not_finite: loss is nan"),
        ((), {"loss": 1.0, "forget": 1.0, "retain": float("inf")}, "stop.not_finite: retain is inf"),
        (("stop.not_finite=false",), {"loss": float("nan"), "forget": 1.0, "retain": 1.0}, None),
        (("stop.forget_loss=9",), {"loss": 1.0, "forget": 9.0, "retain": 99.0}, None),
        (
            ("stop.forget_loss=9",),
            {"loss": 1.0, "forget": 9.01, "retain": 0.1},
            "stop.forget_loss=9: the term forget is 9.01",
        ),
        (
            ("stop.retain_loss=3",),
            {"loss": 1.0, "forget": 9.0, "retain": 3.5},
            "stop.retain_loss=3: the term retain is 3.5",
        ),
    ],
)
def test_what_ends_a_run(given, losses, reason):
    read = settings("forget_loss=gd", *given)
    assert reason_to_stop(read.stop, read.method, losses) == reason


@pytest.mark.parametrize(("method", "bounds"), [("gd", []), ("ga", ["stop.retain_loss"]), ("po", ["stop.forget_loss"])])
def test_a_bound_that_no_term_could_pass_is_said(method, bounds):
    read = settings(f"forget_loss={method}", "stop.forget_loss=9", "stop.retain_loss=9")
    assert unreachable_bounds(read.stop, read.method) == bounds


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A run stopped in its third step, with a checkpoint after each."""
    folder = tmp_path_factory.mktemp("runs") / "ended"
    done = forget(folder, "stop.forget_loss=9", "save_steps=1", "save_total_limit=9")
    assert "stopped at step 3: stop.forget_loss=9: the term forget is 9.0" in done.stderr
    assert "kept is the adapter after step 1," in done.stderr
    return folder


def test_the_last_good_adapter_is_kept(ended):
    """Step 3's losses condemn the adapter of step 2; step 2's had found that of step 1 good."""
    rows = read_lines(ended / "train_log.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[1]["terms"]["forget"] <= 9 < rows[2]["terms"]["forget"]
    assert stopped(ended) == rows[2]["stopped"] and stopped(ended)["adapter_of_step"] == 1
    assert same(adapter(ended), adapter(ended / "checkpoint-1"))
    # No checkpoint of the step that ended it.
    assert {path.name for path in ended.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}


def test_a_run_resumed_just_before_its_end_keeps_the_same_adapter(ended, tmp_path):
    """The adapter that is good was never the one in the newest checkpoint: the checkpoint carries both."""
    folder = tmp_path / "resumed"
    shutil.copytree(ended, folder)
    told = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({key: told[key] for key in told if key != "finished"}))
    (folder / "adapter_model.safetensors").unlink()
    more = ("stop.forget_loss=9", "save_steps=1", "save_total_limit=9", "resume_from_checkpoint=auto")
    forget(folder, *more)
    assert same(adapter(ended), adapter(folder)) and stopped(folder) == stopped(ended)
    assert read_lines(ended / "train_log.jsonl") == read_lines(folder / "train_log.jsonl")
    assert "done before" in forget(folder, *more).stderr


def test_a_loss_that_is_not_finite_leaves_a_finite_adapter(tmp_path):
    forget(tmp_path / "run", "lr=1e12")
    assert stopped(tmp_path / "run") == {"reason": "stop.not_finite: loss is nan", "adapter_of_step": 0}
    assert all(torch.isfinite(value).all() for value in adapter(tmp_path / "run").values())
    # After no step at all: LoRA's second factors are still zero.
    assert not any(value.any() for name, value in adapter(tmp_path / "run").items() if "lora_B" in name)


def test_a_gradient_that_is_not_finite_in_the_last_step(tmp_path, monkeypatch):
    """No later loss would show what it did to the adapter."""
    from safeeraser.unlearn.trainer import UnlearnTrainer

    compute = UnlearnTrainer.compute_loss

    def spoilt(self, model, inputs, *args, **kwargs):
        loss = compute(self, model, inputs, *args, **kwargs)
        if self.state.global_step == 1:
            loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    monkeypatch.setattr(UnlearnTrainer, "compute_loss", spoilt)
    forget(tmp_path / "run", "max_train_steps=2", "max_grad_norm=1")
    assert "norm of the gradient is" in stopped(tmp_path / "run")["reason"]
    assert stopped(tmp_path / "run")["adapter_of_step"] == 1
    values = adapter(tmp_path / "run")
    assert all(torch.isfinite(value).all() for value in values.values())
    assert any(value.any() for name, value in values.items() if "lora_B" in name)


def test_a_master_in_cpu_memory_is_given_back():
    """Of one that it offloads, ZeRO-3 hands out a copy on the GPU: what is written to that is lost."""
    model, master = nn.Linear(2, 1, bias=False), torch.zeros(2)
    model.weight.ds_id = 0
    model.weight._z3_optimizer = SimpleNamespace(
        get_local_fp32_param=lambda _: master.clone(),
        set_local_hp_param=lambda value, _: master.copy_(value),
        get_full_hp_param=lambda _: master.view(1, 2).clone(),
    )
    read, step, control = settings("forget_loss=ga"), SimpleNamespace(global_step=0), SimpleNamespace()
    guard = Guard(read.stop, read.method)
    for loss in (1.0, float("nan")):
        guard.on_step_begin(None, step, control, model)
        guard.judge({"forget": loss}, control)
        master += 1
    guard.on_train_end(None, step, control, model)
    assert master.tolist() == [0, 0] and model.weight.tolist() == [[0, 0]]
