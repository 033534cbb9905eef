"""The files for GPUs, on CPUs in bfloat16: they come near one process, hold what is held, resume, and stop."""

import pytest
import torch

from .runs import GPUS, SHARDED, adapter, assert_gone_on, assert_held, assert_stopped, farthest, logged, runs_of, told

pytestmark = [pytest.mark.nightly, pytest.mark.xdist_group("engines")]

NAMES = {"ddp": "ddp", "fsdp2": "fsdp", SHARDED: "zero2", "zero3": "zero3"}
NEAR = [
    (engine, name) for engine in GPUS for name in ("bfloat16", "moved_sam", "moved_smooth") if name in runs_of(engine)
]


@pytest.mark.parametrize("engine", GPUS)
def test_the_engine_asked_for_trains_all_its_runs_in_two_processes(trained, engine):
    for name in runs_of(engine):
        ran = told(trained(engine) / name)
        assert (ran["engine"]["processes"], ran["engine"]["name"]) == (2, NAMES[engine]), name
        assert ran["settings"]["dtype"] == "bfloat16" and bool(ran["sittings"][0]["stopped"]) == (name == "stopped")


@pytest.mark.parametrize(("engine", "name"), NEAR)
def test_an_engine_comes_near_one_process(trained, one, engine, name):
    """What is saved and moved is in float32, not the rounded values that DeepSpeed computes with."""
    folder, single = trained(engine) / name, one(name, "dtype=bfloat16")
    two, alone = adapter(folder), adapter(single)
    assert {value.dtype for value in two.values()} == {torch.float32}
    grown = [key for key in alone if ".lora_B." in key]
    assert not torch.equal(two[grown[0]], two[grown[0]].bfloat16().float())
    apart, size = (
        sum(each.square().sum() for each in values) ** 0.5
        for values in ([two[key] - alone[key] for key in grown], [alone[key] for key in grown])
    )
    assert apart <= GPUS[engine] * size
    for row, other in zip(logged(folder, "moved"), logged(single, "moved"), strict=True):
        assert row.get("by") == (pytest.approx(other["by"], rel=0.05) if other else None)


@pytest.mark.parametrize("engine", GPUS)
def test_dropout_is_drawn_again_with_checkpointed_activations(trained, engine):
    kept, redrawn = (trained(engine) / name for name in ("kept", "redrawn"))
    assert farthest(kept, redrawn) == 0
    norms = logged(redrawn, "grad_norm")
    assert len(norms) == 3 and all(0 < norm < 100 for norm in norms)


def test_what_a_mask_holds_never_moves(trained, one):
    assert_held(trained(SHARDED) / "mask", one("start"), torch.bfloat16)


def test_a_bound_stops_a_run_at_the_last_good_adapter(trained):
    assert_stopped(trained(SHARDED) / "stopped")


def test_a_sharded_run_resumed_from_a_checkpoint_ends_as_one_that_never_stopped(trained):
    assert_gone_on(trained("fsdp2") / "sines", trained("fsdp2") / "sines_on")
