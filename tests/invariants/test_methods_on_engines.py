"""Two real processes: losses of whole answers follow their figures, what no term reads holds no engine up, and weights
that follow their losses are those of one process."""

import json
from pathlib import Path

import pytest
from helpers import ROOT, alone, read_lines, run

from .test_engines import GPU_ENGINES, ended_well, farthest, start, told, words_of
from .test_methods import CONFORMANCE, assert_follows

pytestmark = pytest.mark.slow

NAMES = ("npo", "rmu", "pdu")
FIRST = ("forget_loss.terms.forget.layer=0", "max_train_steps=3", "init_adapter=null", "gradient_accumulation_steps=2")
# The untrained adapter's retain loss is near 7; of one weight that grows and one that falls.
DUAL = ("forget_loss.terms.retain.weight={at_most: 5, rate: 0.5}", "pd={at_most: 8, rate: 0.25}")
DUAL += ("max_train_steps=4", "init_adapter=null", "gradient_accumulation_steps=2")


def words(folder, method, *overrides, plan=None):
    plan = CONFORMANCE / "methods" / f"{plan or method}.json"
    return words_of(folder, method, f"plan={plan}", "attention=eager", *overrides)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """In one process RMU on the first of two layers, and PDU with two dual weights."""
    folder = tmp_path_factory.mktemp("one")
    both = (words(folder / "rmu", "rmu", *FIRST), words(folder / "pdu", "pdu", *DUAL, plan="npo_pd"))
    for each in both:
        done = run("forget", *each, "gradient_accumulation_steps=4", cwd=CONFORMANCE)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("engine", ["cpu_ddp", "cpu_zero3", "fsdp2"])
def test_two_processes_train_them(one, tmp_path, engine):
    runs = [words(tmp_path / "npo", "npo", "gradient_accumulation_steps=2"), words(tmp_path / "rmu", "rmu", *FIRST)]
    runs += [words(tmp_path / "pdu", "pdu", *DUAL, plan="npo_pd")]
    if engine in GPU_ENGINES:
        runs = [[*each, "dtype=bfloat16", "max_train_steps=3"] for each in runs]
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    config = ROOT / "config" / "accelerate" / f"{engine}.yaml"
    series = Path(__file__).with_name("series.py")
    with alone():
        ended_well(start(engine, "accelerate", "launch", "--config_file", config, series, tmp_path / "runs.json"))
    assert [told(tmp_path / name)["engine"]["processes"] for name in NAMES] == [2, 2, 2]
    assert [told(tmp_path / name)["sittings"][0]["stopped"] for name in NAMES] == [None, None, None]
    if engine not in GPU_ENGINES:
        assert_follows(tmp_path / "npo", "npo")
        assert farthest(tmp_path / "rmu", one / "rmu") < 1e-5
        assert farthest(tmp_path / "pdu", one / "pdu") < 1e-5
        assert_weighs_alike(tmp_path / "pdu", one / "pdu")


def assert_weighs_alike(folder, other):
    """Two runs whose dual weights go the same way."""
    rows, others = ([row["weights"] for row in read_lines(each / "train_log.jsonl")] for each in (folder, other))
    assert len(rows) == len(others) == 4
    for name in ("retain", "decoupled"):
        assert [row[name] for row in rows] == pytest.approx([row[name] for row in others], abs=1e-5)
    assert rows[-1]["retain"] > rows[0]["retain"] == 1 == rows[0]["decoupled"] > rows[-1]["decoupled"]
