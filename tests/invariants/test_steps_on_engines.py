"""Two real processes: every step takes them where one process comes to, in float32 and nearly so in bfloat16, and a
killed run goes on."""

import json
import time
from pathlib import Path

import psutil
import pytest
from helpers import ROOT, alone, read_lines, run
from safetensors.torch import load_file

from .test_engines import GPU_ENGINES, ended_well, farthest, launch, start, told, words_of
from .test_methods import CONFORMANCE

pytestmark = pytest.mark.slow

# Plain descent: Adam makes as much of a gradient of any size, so that the steps would hardly part in so few.
SGD = ("trainer.optim=sgd", "lr=0.2")
SHAPE = ("attention=eager", "max_train_steps=4", "init_adapter=null", "warmup_ratio=0")
DUAL = ("forget_loss.terms.retain.weight={at_most: 5, rate: 0.5}",)
# By name: the method, whose recorded plan, and the step.
RUNS = {
    "sam": ("npo+pd", "npo_pd", ("step=sam", "step.rho=0.5", *DUAL)),
    "sam_all": ("klpd", None, ("step=sam", "step.rho=0.5", "step.terms=all")),
    "smooth": ("klpd", None, ("step=smooth", "step.std=0.005")),
    "average": ("klpd", None, ("step=average", "step.last=0.5", "save_steps=1", "save_total_limit=9")),
    "plain": ("klpd", None, ("step=plain",)),
}
MOVES = ("sam", "sam_all", "smooth")


def words(folder, name, processes, *more):
    method, plan, step = RUNS[name]
    plan = [f"plan={CONFORMANCE / 'methods' / f'{plan}.json'}"] if plan else []
    shape = (*SHAPE, f"gradient_accumulation_steps={4 // processes}")
    return words_of(folder / name, method, *plan, *shape, *step, *more)


def train(folder, engine, names, *more):
    (folder / "runs.json").write_text(json.dumps([words(folder, name, 2, *more) for name in names]))
    config = ROOT / "config" / "accelerate" / f"{engine}.yaml"
    series = Path(__file__).with_name("series.py")
    ended_well(start(engine, "accelerate", "launch", "--config_file", config, series, folder / "runs.json"))


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """Each step in one process."""
    folder = tmp_path_factory.mktemp("one")
    for name in RUNS:
        done = run("forget", *words(folder, name, 1, *SGD), cwd=CONFORMANCE)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("engine", ["cpu_ddp", "cpu_zero2", "cpu_zero3"])
def test_two_processes_come_to_where_one_does(one, tmp_path, engine):
    names = [name for name in RUNS if engine != "cpu_zero3" or name not in MOVES]
    with alone():
        train(tmp_path, engine, names, *SGD)
    for name in names:
        assert told(tmp_path / name)["engine"]["processes"] == 2
        assert farthest(tmp_path / name, one / name) < 1e-5, name
        rows, others = (read_lines(folder / name / "train_log.jsonl") for folder in (tmp_path, one))
        for row, other in zip(rows, others, strict=True):
            assert row["micro_losses"] == pytest.approx(other["micro_losses"], abs=1e-4)
            assert row.get("moved", {}) == pytest.approx(other.get("moved", {}), rel=1e-3)
            assert row.get("weights", {}) == pytest.approx(other.get("weights", {}), abs=1e-4)
    for name in names[1:-1] if engine != "cpu_zero3" else names[:-1]:
        assert farthest(tmp_path / name, tmp_path / "plain") > 1e-4, name  # the same method's
    mean, *last = (load_file(tmp_path / "average" / each / "adapter_model.safetensors") for each in MEAN_OF)
    assert max((mean[name] - (last[0][name] + last[1][name]) / 2).abs().max().item() for name in mean) < 1e-7


MEAN_OF = (".", "checkpoint-3", "checkpoint-4")


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """One process in bfloat16."""
    folder = tmp_path_factory.mktemp("narrow")
    for name in ("sam", "smooth"):
        done = run("forget", *words(folder, name, 1, "dtype=bfloat16"), cwd=CONFORMANCE)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("engine", ["ddp", "../accelerate_config"])
def test_in_bfloat16_the_files_for_gpus_come_near(narrow, tmp_path, engine):
    """DeepSpeed's model holds rounded weights: what it is moved from are the masters, so that it moves about as far."""
    names = ("sam", "smooth")
    with alone():
        train(tmp_path, engine, names, "dtype=bfloat16")
    for name in names:
        one, two = (load_file(folder / name / "adapter_model.safetensors") for folder in (narrow, tmp_path))
        grown = [key for key in one if ".lora_B." in key]
        apart, size = (
            sum(each.square().sum() for each in values) ** 0.5
            for values in ([two[key] - one[key] for key in grown], [one[key] for key in grown])
        )
        assert apart <= GPU_ENGINES[engine] * size, name
        rows, others = (read_lines(folder / name / "train_log.jsonl") for folder in (tmp_path, narrow))
        assert [row["moved"]["by"] for row in rows] == pytest.approx([row["moved"]["by"] for row in others], rel=0.05)


@pytest.mark.parametrize("name", ["sam", "average"])
def test_two_processes_killed_go_on_to_the_bit(tmp_path, name):
    method, plan, step = RUNS[name]
    given = [f"plan={CONFORMANCE / 'methods' / f'{plan}.json'}"] if plan else []
    given += [*SHAPE, "gradient_accumulation_steps=2", *step, "save_steps=1", "save_total_limit=9"]
    given += ["max_train_steps=6", "LoRA.dropout=0.1", "resume_from_checkpoint=auto"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with alone():
        ended_well(launch(whole, "cpu_zero2", method, *given))
        process = launch(killed, "cpu_zero2", method, *given)
        deadline = time.monotonic() + 300
        while not (killed / "checkpoint-4").exists():
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.01)
        for each in [*psutil.Process(process.pid).children(recursive=True), process]:
            each.kill()
        process.communicate()
        ended_well(launch(killed, "cpu_zero2", method, *given))
    assert told(killed)["sittings"][1]["from_step"] >= 4
    for file in ("adapter_model.safetensors", "train_log.jsonl"):
        assert (whole / file).read_bytes() == (killed / file).read_bytes(), file
