"""A run that is resumed from a checkpoint ends as one that never stopped, to the bit, whatever its checkpoints hold.

Also: bounds end a run before its plan does and keep the last good adapter, and probes ask questions and count.
"""

import json
import shutil

import pytest
import torch
from helpers import VAL, read_beside, read_lines, refused, run, trained
from invariants.runs import assert_stopped
from safetensors.torch import load_file, save_file

from safeeraser.benchmark.adapters import run_of
from safeeraser.unlearn.config.sections import Stop
from safeeraser.unlearn.hooks.ending import reason_to_stop
from safeeraser.unlearn.hooks.probe import measure, probe_items
from safeeraser.unlearn.save_dir import MASK_FILE, PROBE_LOG

from .built import ADAPTER, GIVEN, built, checked

SINES, MEAN, LAST_GOOD, DUALS = "sines.safetensors", "mean.pt", "last_good.pt", "duals.json"
FOUR = (*GIVEN, "LoRA.r=4", "LoRA.dropout=0.1", "lr=0.005", "warmup_ratio=0", "max_train_steps=4")
FOUR += ("save_steps=1", "save_total_limit=9", f"probe.data_path={VAL}")
RUNS = read_beside(__file__, "golden/resumed.yaml")
FIRST, *OTHERS = RUNS


# The fast tests use only the run whose checkpoints hold the most.
@pytest.fixture(scope="module", params=[FIRST, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def whole(request, tmp_path_factory):
    """A run that never stopped: its folder, its words, and the additional files that its checkpoints hold."""
    words, kept = RUNS[request.param]
    return trained(tmp_path_factory.mktemp("whole") / "run", *FOUR, *words), words, kept


def same(one, two):
    """Whether two files hold the same tensors, if they are `.pt` files, else the same bytes."""
    if one.suffix != ".pt":
        return one.read_bytes() == two.read_bytes()
    (count, values), (other, others) = (torch.load(file, weights_only=True) for file in (one, two))
    return count == other and all(map(torch.equal, values, others))


def test_a_resumed_run_ends_as_one_that_never_stopped(whole, tmp_path):
    folder, words, kept = whole
    start, on = folder / "checkpoint-2", tmp_path / "on"
    assert {*kept} == {name for name in (DUALS, SINES, MASK_FILE, MEAN, LAST_GOOD) if (start / name).exists()}
    trained(on, *FOUR, *words, "probe_every=0", f"resume_from_checkpoint={start}")  # probes change nothing
    files = ["model.safetensors" if "finetune=full" in words else ADAPTER]
    files += [f"checkpoint-4/{name}" for name in kept if (folder / "checkpoint-4").exists()]
    assert [name for name in files if not same(folder / name, on / name)] == []
    rows = [row for row in read_lines(folder / "train_log.jsonl") if row["step"] > 2]
    assert read_lines(on / "train_log.jsonl") == rows != [] and not (on / PROBE_LOG).exists()
    if "probe_every=3" in words:  # before the first step, in between, and after the last
        probes = {row.pop("step"): row for row in read_lines(folder / PROBE_LOG)}
        assert list(probes) == [0, 3, 4] and all(len(row) == 3 for row in probes.values())
    (first,), (second,) = (json.loads((each / "run.json").read_text())["sittings"] for each in (folder, on))
    assert (first["from_step"], second["from_step"], second["to_step"]) == (0, 2, first["to_step"])
    assert first["stopped"] == second["stopped"] and bool(first["stopped"]) == ("stop.forget_loss=9" in words)


@pytest.mark.parametrize("whole", [FIRST], indirect=True)
def test_what_is_kept_of_an_averaged_run_is_the_mean_of_its_last_weights(whole):
    folder, _, _ = whole
    mean = {name: value for name, value in load_file(folder / ADAPTER).items() if ".lora_" in name}
    each = [load_file(folder / f"checkpoint-{step}" / ADAPTER) for step in (2, 3, 4)]
    for name, value in mean.items():
        expected = torch.stack([one[name].double() for one in each]).mean(0)
        assert (value - expected).abs().max() <= 2e-7 * expected.abs().max(), name
    assert any(not torch.equal(mean[name], each[-1][name]) for name in mean)
    assert not (folder / "checkpoint-1" / MEAN).exists()


@pytest.mark.slow
@pytest.mark.parametrize("whole", [FIRST], indirect=True)
def test_a_checkpoint_that_lacks_what_it_should_keep_is_refused_by_the_files_name(whole, tmp_path):
    folder, words, kept = whole
    checkpoint = shutil.copytree(folder / "checkpoint-2", tmp_path / "checkpoint-2")
    given = (*FOUR, *words, f"save_dir={tmp_path / 'on'}", f"resume_from_checkpoint={checkpoint}")
    for name in {*kept} - {LAST_GOOD}:
        (checkpoint / name).unlink()
        assert str(checkpoint / name) in run("forget", *given).stderr.splitlines()[-1]
        shutil.copy(folder / "checkpoint-2" / name, checkpoint)
    save_file({name: ~each for name, each in load_file(checkpoint / MASK_FILE).items()}, checkpoint / MASK_FILE)
    refused(tmp_path, "forget", *given, says=f"{MASK_FILE}: not the mask that the run began with")


BOUNDS = read_beside(__file__, "golden/stop.yaml")
# Ascent at a high rate: the forget loss passes 9 in a few steps.
ASCENT = (*GIVEN, "forget_loss=ga", "LoRA.dropout=0", "warmup_ratio=0", "max_grad_norm=0", "max_train_steps=9")


@pytest.mark.parametrize(("given", "losses", "reason"), BOUNDS, ids=str)
def test_what_ends_a_run(given, losses, reason):
    given = {"not_finite": True, "forget_loss": None, "retain_loss": None} | given
    assert reason_to_stop(Stop(**given), checked("gd").method, losses) == reason


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [("lr=0.02",), ("lr=0.05", "projector=sine"), ("lr=0.02", "step=average", "step.last=1")]
)
def test_of_a_run_that_a_bound_ends_the_last_good_adapter_is_kept(tmp_path, words):
    """A step's losses judge the adapter from before the step. The last adapter that was judged good is kept."""
    more = ("stop.forget_loss=9", "save_steps=1", "save_total_limit=9", "probe_every=99", "probe.prompts=1")
    folder = trained(tmp_path / "run", *ASCENT, *words, *more, f"probe.data_path={VAL}")
    assert_stopped(folder)
    rows, good = read_lines(folder / "train_log.jsonl"), run_of(folder)["sittings"][0]["stopped"]["adapter_of_step"]
    assert [row["terms"]["forget"] > 9 for row in rows] == [False] * (good + 1) + [True]
    # The step that ended the run left no checkpoint. The last probe is of the adapter that is kept.
    assert len([*folder.glob("checkpoint-*")]) == good + 1
    assert [row["step"] for row in read_lines(folder / "probe.jsonl")] == [0, good]


def test_a_loss_that_is_not_finite_leaves_the_finite_adapter_that_the_run_began_with(tmp_path):
    trainer = built(tmp_path, "ga", {"lr": 1e12}, steps=3, noise=0)
    trainer.train()
    assert trainer.interruption.guard.stopped == {"reason": "stop.not_finite: loss is nan", "adapter_of_step": 0}
    assert all(each.isfinite().all() for each in trainer.model.parameters())
    assert not any(each.any() for name, each in trainer.model.named_parameters() if ".lora_B." in name)


def test_a_gradient_that_is_not_finite_in_the_last_step_does_not_reach_the_adapter(tmp_path):
    """No later loss would show that it had spoilt the adapter."""
    trainer = built(tmp_path, "ga", {"max_grad_norm": 1})
    trained = [each for each in trainer.model.parameters() if each.requires_grad]
    before = [each.detach().clone() for each in trained]
    trained[0].register_hook(lambda gradient: gradient * float("inf"))
    trainer.train()
    assert "norm of the gradient is" in trainer.interruption.guard.stopped["reason"]
    assert trainer.interruption.guard.stopped["adapter_of_step"] == 0 and all(map(torch.equal, trained, before))


def test_the_questions_are_spread_over_the_held_out_file_and_what_is_counted(tmp_path):
    answers = ["I'm sorry, but I can't help with that.", "the the the the", "You can use the ladder.", ""]
    assert measure(answers) == {"refusal": 0.25, "degenerate": 0.5, "length": (8 + 4 + 5 + 0) / 4}
    words = (*GIVEN, f"save_dir={tmp_path / 'run'}", "probe_every=1", "probe.data_path=no/such.json")
    refused(tmp_path, "forget", *words, says="probe.data_path: no/such.json: no such file")
    items, whole = (probe_items(checked("ga", {"probe.data_path": str(VAL), "probe.prompts": n})) for n in (4, 999))
    assert {view: len(each) for view, each in items.items()} == {"forget": 4, "decoupled": 4, "retain": 4}
    every, count = whole["forget"], 4 * len(json.loads(VAL.read_text()))  # four pairs a record
    assert len(every) == count and items["forget"] == [every[number * count // 4] for number in range(4)]
