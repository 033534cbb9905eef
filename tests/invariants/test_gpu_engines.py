"""The config files for GPUs, on CPUs in bfloat16: runs come near one process, keep held weights, and resume."""

import pytest
import torch

from .runs import GPUS, SHARDED, adapter, assert_gone_on, assert_held, farthest, logged, runs_of, told

pytestmark = [pytest.mark.nightly, pytest.mark.xdist_group("engines")]

NAMES = {"ddp": "ddp", "fsdp2": "fsdp", SHARDED: "zero2", "zero3": "zero3"}


@pytest.mark.parametrize("engine", GPUS)
def test_the_engine_asked_for_trains_all_its_runs_and_comes_near_one_process(trained, one, engine):
    """The saved values are in float32, not the rounded values that DeepSpeed computes with."""
    for name in runs_of(engine):
        ran = told(trained(engine) / name)["engine"]
        assert (ran["processes"], ran["name"]) == (2, NAMES[engine]), name
    two, alone = adapter(trained(engine) / "bfloat16"), adapter(one("bfloat16", "dtype=bfloat16"))
    assert {value.dtype for value in two.values()} == {torch.float32}
    grown = [key for key in alone if ".lora_B." in key]
    assert not torch.equal(two[grown[0]], two[grown[0]].bfloat16().float())
    apart, size = (
        sum(each.square().sum() for each in values) ** 0.5
        for values in ([two[key] - alone[key] for key in grown], [alone[key] for key in grown])
    )
    assert apart <= GPUS[engine] * size


@pytest.mark.parametrize("engine", GPUS)
def test_dropout_is_drawn_again_with_checkpointed_activations(trained, engine):
    kept, redrawn = (trained(engine) / name for name in ("kept", "redrawn"))
    assert farthest(kept, redrawn) == 0
    assert [0 < norm < 100 for norm in logged(redrawn, "grad_norm")] == [True] * 3


def test_what_a_mask_holds_never_moves(trained, one):
    assert_held(trained(SHARDED) / "mask", one("start"), torch.bfloat16)


def test_a_sharded_run_resumed_from_a_checkpoint_ends_as_one_that_never_stopped(trained):
    assert_gone_on(trained("fsdp2") / "sines", trained("fsdp2") / "sines_on")
