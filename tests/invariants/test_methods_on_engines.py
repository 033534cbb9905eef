"""Two real processes: losses of whole answers follow their figures, and what no term reads holds no engine up."""

import json
from pathlib import Path

import pytest
from helpers import ROOT, alone, run

from .test_engines import GPU_ENGINES, ended_well, farthest, start, told, words_of
from .test_methods import CONFORMANCE, assert_follows

pytestmark = pytest.mark.slow

FIRST = ("forget_loss.terms.forget.layer=0", "max_train_steps=3", "init_adapter=null", "gradient_accumulation_steps=2")


def words(folder, method, *overrides):
    return words_of(folder, method, f"plan={CONFORMANCE / 'methods' / f'{method}.json'}", "attention=eager", *overrides)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """RMU on the first of two layers, in one process."""
    folder = tmp_path_factory.mktemp("one") / "rmu"
    done = run("forget", *words(folder, "rmu", *FIRST, "gradient_accumulation_steps=4"), cwd=CONFORMANCE)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("engine", ["cpu_ddp", "cpu_zero3", "fsdp2"])
def test_two_processes_train_them(one, tmp_path, engine):
    runs = [words(tmp_path / "npo", "npo", "gradient_accumulation_steps=2"), words(tmp_path / "rmu", "rmu", *FIRST)]
    if engine in GPU_ENGINES:
        runs = [[*each, "dtype=bfloat16", "max_train_steps=3"] for each in runs]
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    config = ROOT / "config" / "accelerate" / f"{engine}.yaml"
    series = Path(__file__).with_name("series.py")
    with alone():
        ended_well(start(engine, "accelerate", "launch", "--config_file", config, series, tmp_path / "runs.json"))
    assert [told(tmp_path / name)["engine"]["processes"] for name in ("npo", "rmu")] == [2, 2]
    assert [told(tmp_path / name)["sittings"][0]["stopped"] for name in ("npo", "rmu")] == [None, None]
    if engine not in GPU_ENGINES:
        assert_follows(tmp_path / "npo", "npo")
        assert farthest(tmp_path / "rmu", one) < 1e-5
