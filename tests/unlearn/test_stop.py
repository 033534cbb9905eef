"""Bounds end a run before its plan and the last good adapter is kept; probes watch it and change nothing."""

import json
from types import SimpleNamespace

import pytest
import torch
from helpers import VAL, read_lines, refused, trained
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback

from safeeraser.unlearn.probe import measure, probe_items
from safeeraser.unlearn.settings import Stop
from safeeraser.unlearn.stop import Guard, reason_to_stop, unreachable_bounds

from .built import ADAPTER, GIVEN, built, checked

# Ascent at a high rate: the forget loss passes 9 in a few steps.
ASCENT = (*GIVEN, "forget_loss=ga", "LoRA.dropout=0", "warmup_ratio=0", "max_grad_norm=0", "max_train_steps=9")
PROBES = (*GIVEN, f"probe.data_path={VAL}", "lr=0.01", "probe.max_new_tokens=4", "probe.prompts=2")


def bounds(**given):
    return Stop(**{"not_finite": True, "forget_loss": None, "retain_loss": None} | given)


@pytest.mark.parametrize(
    ("given", "losses", "reason"),
    [
        ({}, {"loss": 1.0, "forget": 99.0, "retain": 99.0}, None),
        ({}, {"loss": float("nan"), "forget": 1.0, "retain": 1.0}, "stop.not_finite: loss is nan"),
        ({}, {"loss": 1.0, "forget": 1.0, "retain": float("inf")}, "stop.not_finite: retain is inf"),
        ({"not_finite": False}, {"loss": float("nan"), "forget": 1.0, "retain": 1.0}, None),
        ({"forget_loss": 9}, {"forget": 9.0, "retain": 99.0}, None),
        ({"forget_loss": 9}, {"forget": 9.01, "retain": 0.1}, "stop.forget_loss=9: the term forget is 9.01"),
        ({"retain_loss": 3}, {"forget": 99.0, "retain": 3.0}, None),
        ({"retain_loss": 3}, {"forget": 9.0, "retain": 3.5}, "stop.retain_loss=3: the term retain is 3.5"),
    ],
)
def test_what_ends_a_run(given, losses, reason):
    assert reason_to_stop(bounds(**given), checked("gd").method, losses) == reason


@pytest.mark.parametrize(
    ("method", "found"),
    [("gd", []), ("ga", ["stop.retain_loss"]), ("po", ["stop.forget_loss"]), ("none", ["stop.forget_loss"])],
)
def test_a_bound_that_no_term_could_pass_is_found(method, found):
    assert unreachable_bounds(bounds(forget_loss=9, retain_loss=9), checked(method).method) == found
    assert unreachable_bounds(bounds(), checked(method).method) == []


@pytest.mark.parametrize(
    "words",
    [
        ("lr=0.02",),
        pytest.param(("lr=0.05", "projector=sine"), marks=pytest.mark.slow),
        pytest.param(("lr=0.02", "step=average", "step.last=1"), marks=pytest.mark.slow),
        pytest.param(("lr=0.02", "step=sam"), marks=pytest.mark.slow),
    ],
)
def test_of_a_run_that_a_bound_ends_the_last_good_adapter_is_kept(tmp_path, words):
    """The losses of a step condemn the adapter before it; those of the step before had found its own good."""
    more = ("stop.forget_loss=9", "save_steps=1", "save_total_limit=9", "probe_every=99", "probe.prompts=1")
    folder = trained(tmp_path / "run", *ASCENT, *words, *more, f"probe.data_path={VAL}")
    rows = read_lines(folder / "train_log.jsonl")
    (sitting,) = json.loads((folder / "run.json").read_text())["sittings"]
    stopped, good = sitting["stopped"], sitting["stopped"]["adapter_of_step"]
    assert rows[-1]["stopped"] == stopped and stopped["reason"].startswith("stop.forget_loss=9: the term forget is ")
    assert [row["terms"]["forget"] > 9 for row in rows] == [False] * (good + 1) + [True]
    assert sitting["to_step"] == len(rows) == good + 2 > 2
    kept, its = load_file(folder / ADAPTER), load_file(folder / f"checkpoint-{good}" / ADAPTER)
    assert all(torch.equal(kept[name], its[name]) for name in its)
    # No checkpoint of the step that ended it; and the last probe is of the adapter that is kept.
    assert len([*folder.glob("checkpoint-*")]) == good + 1
    assert [row["step"] for row in read_lines(folder / "probe.jsonl")] == [0, good]


def test_a_loss_that_is_not_finite_leaves_the_finite_adapter_that_the_run_began_with(tmp_path):
    trainer = built(tmp_path, "ga", {"lr": 1e12}, steps=3, noise=0)
    trainer.train()
    assert trainer.guard.stopped == {"reason": "stop.not_finite: loss is nan", "adapter_of_step": 0}
    values = {name: each for name, each in trainer.model.named_parameters() if each.requires_grad}
    assert all(each.isfinite().all() for each in values.values())
    assert not any(each.any() for name, each in values.items() if ".lora_B." in name)


class Spoil(TrainerCallback):
    """Makes the gradient of the second step infinite."""

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == 1:
            trained = next(each for each in model.parameters() if each.requires_grad)
            trained.register_hook(lambda gradient: gradient * float("inf"))


def test_a_gradient_that_is_not_finite_in_the_last_step(tmp_path):
    """No later loss would show what it did to the adapter."""
    trainer = built(tmp_path, "ga", {"max_grad_norm": 1}, steps=2, callbacks=[Spoil()])
    trainer.train()
    assert "norm of the gradient is" in trainer.guard.stopped["reason"]
    assert trainer.guard.stopped["adapter_of_step"] == 1
    assert all(each.isfinite().all() for each in trainer.model.parameters())


def test_a_master_in_cpu_memory_is_given_back():
    """Of one that it offloads, ZeRO-3 hands out a copy on the GPU: what is written to that is lost."""
    model, master = nn.Linear(2, 1, bias=False), torch.zeros(2)
    model.weight.ds_id = 0
    model.weight._z3_optimizer = SimpleNamespace(
        get_local_fp32_param=lambda _: master.clone(),
        set_local_hp_param=lambda value, _: master.copy_(value),
        get_full_hp_param=lambda _: master.view(1, 2).clone(),
    )
    step, control = SimpleNamespace(global_step=0), SimpleNamespace()
    guard = Guard(bounds(), checked("ga").method)
    for loss in (1.0, float("nan")):
        guard.on_step_begin(None, step, control, model)
        guard.judge({"forget": loss}, control)
        master += 1
    guard.on_train_end(None, step, control, model)
    assert master.tolist() == [0, 0] and model.weight.tolist() == [[0, 0]]


# Probes.


def test_what_is_counted():
    answers = ["I'm sorry, but I can't help with that.", "the the the the", "You can use the ladder.", ""]
    assert measure(answers) == {"refusal": 0.25, "degenerate": 0.5, "length": (8 + 4 + 5 + 0) / 4}


def test_the_questions_are_spread_over_the_held_out_file():
    items = probe_items(checked("ga", {"probe.data_path": str(VAL), "probe.prompts": 4}))
    assert {view: len(each) for view, each in items.items()} == {"forget": 4, "decoupled": 4, "retain": 4}
    # Of four pairs a record.
    count = 4 * len(json.loads(VAL.read_text()))
    every = probe_items(checked("ga", {"probe.data_path": str(VAL), "probe.prompts": 999}))["forget"]
    assert len(every) == count and items["forget"] == [every[number * count // 4] for number in range(4)]


def test_probes_are_taken_before_between_and_after_and_change_nothing_else(tmp_path):
    probed, plain = (
        trained(tmp_path / name, *PROBES, "forget_loss=npo", "max_train_steps=3", f"probe_every={every}")
        for name, every in (("probed", 2), ("plain", 0))
    )
    rows = read_lines(probed / "probe.jsonl")
    assert [row.pop("step") for row in rows] == [0, 2, 3]
    for row in rows:
        assert row.keys() == {"forget", "decoupled", "retain"}
        assert all(each.keys() == {"refusal", "degenerate", "length"} for each in row.values())
    assert read_lines(plain / "train_log.jsonl") == read_lines(probed / "train_log.jsonl")
    assert (plain / ADAPTER).read_bytes() == (probed / ADAPTER).read_bytes()
    assert not (plain / "probe.jsonl").exists()


@pytest.mark.slow
def test_of_a_mean_of_weights_the_last_row_is_the_means(tmp_path):
    """Whether or not the last step is one that is asked after."""
    more = (*PROBES, "max_train_steps=4", "step=average", "step.last=1", "probe.max_new_tokens=8")
    rows = [read_lines(trained(tmp_path / f"{n}", *more, f"probe_every={n}") / "probe.jsonl") for n in (4, 3)]
    assert [[row["step"] for row in each] for each in rows] == [[0, 4], [0, 3, 4]] and rows[0][-1] == rows[1][-1]


def test_held_out_data_that_is_not_there_is_refused(tmp_path):
    words = (f"save_dir={tmp_path / 'run'}", "probe_every=1", "probe.data_path=no/such.json")
    refused(tmp_path, "forget", *GIVEN, *words, says="probe.data_path: no/such.json: no such file")
