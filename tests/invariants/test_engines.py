"""Two real processes, plain and under DeepSpeed: they follow the recorded figures, train the same as one process does,
resume to the bit, and stop together.

Each engine is launched once for all its runs in runs.py. Runs that are killed, interrupted or refused start separately.
"""

import json
import os
import signal

import pytest
import torch
from helpers import ROOT, lines
from launches import Launch

from safeeraser.model.load import load_model
from safeeraser.unlearn.save_dir import MASK_FILE

from . import runs
from .runs import CONFORMANCE, CPUS, NINE, farthest, logged, runs_of, told, words_of
from .test_methods import assert_follows
from .test_release import assert_reproduces

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("engines")]

OF_THEIR_OWN = ("release_gdpd", "release_klpd", "release_npo", "nine", "twins", "full", "stopped", "whole", "gone_on")
COMPARED = [(engine, name) for engine in CPUS for name in runs_of(engine) if name not in OF_THEIR_OWN]
RECORDED = [(engine, name[8:]) for engine in CPUS for name in runs_of(engine) if name.startswith("release_")]


@pytest.mark.parametrize("engine", CPUS)
def test_the_engine_asked_for_trains_all_its_runs_in_two_processes(trained, engine):
    """No other engine silently takes its place."""
    for name in runs_of(engine):
        ran = told(trained(engine) / name)["engine"]
        assert (ran["processes"], ran["name"]) == (2, engine.removeprefix("cpu_")), name


@pytest.mark.parametrize(("engine", "method"), RECORDED)
def test_an_engine_follows_the_recorded_figures(trained, engine, method):
    """48 items, four per optimizer step for any number of processes. Micro-losses are in the plan's order."""
    folder = trained(engine) / f"release_{method}"
    assert_follows(folder, "methods/npo") if method == "npo" else assert_reproduces(folder, method)


@pytest.mark.parametrize(("engine", "name"), COMPARED)
def test_two_processes_train_what_one_does(trained, one, engine, name):
    two, single = trained(engine) / name, one(name)
    assert farthest(two, single) < 1e-5
    steps = told(single)["optimizer_steps"]
    assert told(two)["optimizer_steps"] == steps == len(logged(two, "loss")) > 1
    off = 1e-4 if "sgd" in str(told(single)["settings"]["trainer"]) else 1e-5
    for key in ("micro_losses", "weights", "moved"):
        for row, other in zip(logged(two, key), logged(single, key), strict=True):
            assert row == pytest.approx(other, abs=off, rel=1e-3 if key == "moved" else 0), key


def test_what_fills_no_round_of_the_processes_is_left_out(trained, one, tmp_path):
    """Nine items in batches of two, on two processes, make two rounds of four. plan.json has the trained items."""
    two = trained("cpu_ddp") / "nine"
    assert (told(two)["items_left_out"], told(two)["optimizer_steps"]) == (1, 2)
    steps = json.loads((two / "plan.json").read_text())["steps"]
    assert [step["forget"] for step in steps] == [step["forget"] for step in NINE[:8]]
    # One process trains the eight items, four per step. Had two processes trained one twice, the results would differ.
    (tmp_path / "eight.json").write_text(json.dumps({"steps": NINE[:8]}))
    single = one("nine", f"plan={tmp_path / 'eight.json'}", "batch_size=4")
    assert told(single)["items_left_out"] == 0 and farthest(two, single) < 1e-5


def test_each_process_draws_dropout_masks_of_its_own(trained):
    """The same item has different losses in the two processes, once LoRA's B is not 0."""
    begun, on = logged(trained("cpu_ddp") / "twins", "micro_losses")
    assert begun[0] == begun[1] and on[0] != on[1]


@pytest.mark.parametrize("engine", runs.WHOLE_WEIGHTS)
def test_what_a_mask_holds_never_moves(trained, one, engine):
    """The other weights move, because the learning rate and the weight decay are large."""
    two, single = trained(engine) / "mask", one("mask")
    assert (two / MASK_FILE).read_bytes() == (single / MASK_FILE).read_bytes()
    assert told(two)["mask"] == told(single)["mask"]
    for folder in (two, single):
        runs.assert_held(folder, one("start"))


def test_a_model_trained_whole_is_the_same_under_an_engine_that_shares_it_out(trained, one):
    """It is saved in full, under names that load again. Otherwise a loader draws random weights, and only logs it."""
    folders = (CONFORMANCE / "llava-tiny", trained("cpu_zero3") / "full", one("full"))
    untouched, two, single = (load_model(str(folder), torch.float32).state_dict() for folder in folders)
    assert max((single[name] - two[name]).abs().max().item() for name in single) < 1e-5
    assert not torch.equal(single["lm_head.weight"], untouched["lm_head.weight"])


@pytest.mark.parametrize("engine", CPUS)
def test_a_bound_stops_both_processes_at_the_last_good_adapter(trained, engine):
    runs.assert_stopped(trained(engine) / "stopped")


@pytest.mark.parametrize("engine", CPUS)
def test_a_run_resumed_from_a_checkpoint_ends_as_one_that_never_stopped(trained, engine):
    """It does so to the bit, with everything that a checkpoint can hold."""
    runs.assert_gone_on(trained(engine) / "whole", trained(engine) / "gone_on")


@pytest.fixture
def door(forks, tmp_path):
    """A function that launches a run by the script that a user calls."""
    launched = []

    def begin(words, engine="cpu_zero2", loaded=forks):
        script = ("bash", ROOT / "scripts" / "forget_lora.bash")
        launched.append(Launch(loaded, engine, tmp_path / "said", *script, *words, cwd=CONFORMANCE))
        return launched[-1]

    yield begin
    for each in launched:
        each.kill()


def test_all_processes_killed_go_on_as_if_nothing_had_been(door, trained, tmp_path):
    """They get SIGKILL after the first checkpoint."""
    whole, killed = trained("cpu_zero2") / "whole", tmp_path / "killed"
    words = words_of("whole", killed, "resume_from_checkpoint=auto")
    door(words).kill_once((killed / "checkpoint-2").exists)
    assert not (killed / "adapter_model.safetensors").exists()
    good, said = door(words).end()
    assert good, said
    sittings = told(killed)["sittings"]
    assert len(sittings) == 2 and sittings[1]["from_step"] >= 2
    for name in ("adapter_model.safetensors", "train_log.jsonl", "probe.jsonl"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name


@pytest.mark.nightly
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_all_processes_interrupted_leave_a_checkpoint_and_go_on(door, trained, tmp_path, number):
    """Ctrl-C goes to the entire process group, SIGTERM to the launcher alone. No checkpoint was asked for."""
    whole, stopped = trained("cpu_ddp") / "whole", tmp_path / "stopped"
    words = [word for word in words_of("whole", stopped, "resume_from_checkpoint=auto") if "save_steps" not in word]
    launched = door(words, "cpu_ddp", None)
    launched.once(lambda: lines(stopped / "train_log.jsonl"))
    (os.killpg if number == signal.SIGINT else os.kill)(launched.process.pid, number)
    good, said = launched.end()
    assert not good and f"the same command resumes from {stopped}/checkpoint-" in launched.log.read_text(), said
    good, said = door(words, "cpu_ddp").end()
    assert good and told(stopped)["sittings"][0]["interrupted"] == number.name, said
    for name in ("adapter_model.safetensors", "train_log.jsonl", "probe.jsonl"):
        assert (whole / name).read_bytes() == (stopped / name).read_bytes(), name


def test_a_mistake_is_one_line_before_any_process_is_launched(door, tmp_path):
    launched = door(words_of("release_gdpd", tmp_path / "run", "forget_loss=gdp"))
    assert not launched.end()[0] and launched.process.returncode == 2 and not (tmp_path / "run").exists()
    (line,) = launched.log.read_text().splitlines()
    assert line.startswith("error: forget_loss: no 'gdp'; did you mean 'gdpd'?")
