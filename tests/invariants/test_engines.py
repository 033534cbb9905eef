"""Real processes, plain and under real DeepSpeed: they follow the release, agree, survive a kill, and stop alike."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from helpers import ROOT, alone
from safetensors.torch import load_file

from safeeraser.model import load_model

from .test_release import CONFORMANCE, assert_reproduces

# The files for GPUs, and how far LoRA's B, all of it training, may be off in bfloat16 (benchmarks/engines.py shows how
# far it is): DeepSpeed's gradients are in bfloat16 too; elsewhere sums in another order flip a rounding now and then.
GPU_ENGINES = {"ddp": 0.01, "fsdp2": 0.01, "../accelerate_config": 0.05, "zero3": 0.05}
BFLOAT16 = ("dtype=bfloat16", "init_adapter=null", "max_train_steps=6")


@pytest.fixture(autouse=True)
def one_after_another():
    with alone():
        yield


def launch(folder, engine, method, *overrides):
    """scripts/forget_lora.bash as a user calls it; engines that are meant for GPUs run on CPUs too."""
    stand_in = [str(ROOT / "benchmarks" / "gpu_engines_on_cpus")] if engine in GPU_ENGINES else []
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([*stand_in, str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "ACCELERATE_CONFIG": f"config/accelerate/{engine}.yaml",
        "DS_ACCELERATOR": "cpu",
    }
    given = [
        "recipe=official",
        f"forget_loss={method}",
        f"plan={CONFORMANCE / 'training' / f'{method}.json'}",
        f"init_adapter={CONFORMANCE / 'initial_adapter.safetensors'}",
        "LoRA.dropout=0",
        "num_epochs=1",
        "dtype=float32",
        f"model_path={CONFORMANCE / 'llava-tiny'}",
        f"data_path={CONFORMANCE / 'dataset' / 'all_train.json'}",
        f"probe.data_path={CONFORMANCE / 'dataset' / 'all_val.json'}",
        f"save_dir={folder}",
        "workers=0",
    ]
    command = ["bash", str(ROOT / "scripts" / "forget_lora.bash"), *given, *overrides]
    # The recorded pictures' paths start at the recorded folder, the script's working directory is the repository.
    return subprocess.Popen(
        command,
        cwd=CONFORMANCE,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(folder, engine, method, *overrides):
    """Launch, and wait for a good end."""
    process = launch(folder, engine, method, *overrides)
    said, _ = process.communicate(timeout=900)  # the first may have to compile DeepSpeed's Adam
    assert process.returncode == 0, said[-4000:]
    return json.loads((folder / "run.json").read_text())


def farthest(one, two):
    """The largest difference between the parameters of two adapters."""
    one, two = (load_file(folder / "adapter_model.safetensors") for folder in (one, two))
    assert one.keys() == two.keys()
    return max((one[name] - two[name]).abs().max().item() for name in one)


@pytest.mark.parametrize(
    ("engine", "processes", "accumulation", "told"),
    [
        ("one_gpu", 1, 4, "single"),
        ("cpu_ddp", 2, 2, "ddp"),
        ("cpu_zero2", 2, 2, "zero2"),
        ("cpu_zero3", 2, 2, "zero3"),
    ],
)
@pytest.mark.parametrize("method", ["gdpd", "klpd"])
def test_an_engine_follows_the_release(tmp_path, method, engine, processes, accumulation, told):
    """48 items, four an optimizer step, however many processes share them; micro-losses in the plan's order."""
    run = finish(tmp_path / "run", engine, method, f"gradient_accumulation_steps={accumulation}")
    # The engine asked for, not one that was silently put in its place.
    assert (run["engine"]["processes"], run["engine"]["name"], run["optimizer_steps"]) == (processes, told, 12)
    assert_reproduces(tmp_path / "run", method)


def test_what_fills_no_round_of_the_processes_is_left_out(tmp_path):
    """Nine items, batches of two, two processes: two rounds of four. The plan tells what was trained."""
    nine = json.loads((CONFORMANCE / "training" / "gdpd.json").read_text())
    (tmp_path / "nine.json").write_text(json.dumps({"steps": nine["steps"][:9]}))
    given = ("batch_size=2", "gradient_accumulation_steps=1")
    run = finish(tmp_path / "run", "cpu_ddp", "gdpd", f"plan={tmp_path / 'nine.json'}", *given)
    assert (run["items_left_out"], run["optimizer_steps"]) == (1, 2)
    trained = json.loads((tmp_path / "run" / "plan.json").read_text())["steps"]
    assert [step["forget"] for step in trained] == [step["forget"] for step in nine["steps"][:8]]
    # Four items a step in one process: with one of them trained twice, the two would part.
    again = f"plan={tmp_path / 'run' / 'plan.json'}"
    assert finish(tmp_path / "one", "one_gpu", "gdpd", again, "batch_size=4", given[1])["items_left_out"] == 0
    assert farthest(tmp_path / "run", tmp_path / "one") < 1e-5


def test_a_mistake_is_one_line_before_any_process_is_launched(tmp_path):
    process = launch(tmp_path / "run", "cpu_zero2", "gdpd", "forget_loss=gdp")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said.startswith("error: forget_loss: no 'gdp'; did you mean 'gdpd'?") and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def by_itself(tmp_path_factory):
    """One process, eight items an optimizer step, for each method asked for."""
    kept = {}

    def run(method):
        if method not in kept:
            kept[method] = tmp_path_factory.mktemp("alone") / method
            finish(kept[method], "one_gpu", method, "gradient_accumulation_steps=8", "init_adapter=null")
        return kept[method]

    return run


@pytest.mark.parametrize("engine", ["cpu_ddp", "cpu_zero2", "cpu_zero3"])
@pytest.mark.parametrize("method", ["gdpd", "klpd"])
def test_one_process_with_accumulation_8_is_two_with_4(by_itself, tmp_path, method, engine):
    """Each from an adapter of its own drawing, which the seed alone decides."""
    run = finish(tmp_path / "two", engine, method, "gradient_accumulation_steps=4", "init_adapter=null")
    assert run["engine"]["processes"] == 2 and run["optimizer_steps"] == 6
    assert farthest(by_itself(method), tmp_path / "two") < 1e-5


@pytest.mark.parametrize("engine", ["cpu_ddp", "cpu_zero2", "cpu_zero3", "fsdp2"])
def test_two_processes_killed_go_on_as_if_nothing_had_been(tmp_path, engine):
    """SIGKILL to all of them behind the first checkpoint; probes on, and bounds that are not reached."""
    given = ("gradient_accumulation_steps=2", "save_steps=4", "probe_every=5", "resume_from_checkpoint=auto")
    given += ("LoRA.dropout=0.1", "stop.forget_loss=99")
    given += ("dtype=bfloat16", "max_train_steps=8") if engine in GPU_ENGINES else ()
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(whole, engine, "klpd", *given)
    process = launch(killed, engine, "klpd", *given)
    deadline = time.monotonic() + 200
    while not (killed / "checkpoint-4").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    for each in [*psutil.Process(process.pid).children(recursive=True), process]:
        each.kill()  # the launcher's processes have sessions of their own
    process.communicate()
    assert not (killed / "adapter_model.safetensors").exists()
    run = finish(killed, engine, "klpd", *given)
    assert len(run["sittings"]) == 2 and run["sittings"][1]["from_step"] >= 4
    for name in ("adapter_model.safetensors", "train_log.jsonl", "probe.jsonl"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name


@pytest.mark.parametrize("engine", ["cpu_ddp", "cpu_zero2", "cpu_zero3", "../accelerate_config"])
def test_two_processes_stopped_by_a_bound_keep_the_last_good_adapter(tmp_path, engine):
    given = ("gradient_accumulation_steps=2", "warmup_ratio=0", "max_grad_norm=0", "lr=0.02", "stop.forget_loss=9")
    given += ("dtype=bfloat16",) if engine in GPU_ENGINES else ()
    run = finish(tmp_path / "run", engine, "ga", *given, "save_steps=1", "save_total_limit=9")
    stopped = run["sittings"][-1]["stopped"]
    assert stopped["reason"].startswith("stop.forget_loss=9: the term forget is ")
    good = stopped["adapter_of_step"]
    assert run["sittings"][-1]["to_step"] == good + 2
    assert farthest(tmp_path / "run", tmp_path / "run" / f"checkpoint-{good}") == 0
    assert farthest(tmp_path / "run", tmp_path / "run" / f"checkpoint-{good + 1}") > 0


def test_a_model_trained_whole_is_the_same_under_an_engine_that_shares_it_out(tmp_path):
    """Saved whole, under names that are read again: with others a loader takes random numbers, and only notes it."""
    # Plain descent: Adam would make a whole step of a gradient that is rounding alone, and may round the other way.
    few = ("init_adapter=null", "finetune=full", "max_train_steps=2", "lr=0.01", "trainer.optim=sgd")
    for engine, accumulation in (("one_gpu", 4), ("cpu_zero3", 2)):
        finish(tmp_path / engine, engine, "gdpd", *few, f"gradient_accumulation_steps={accumulation}")
    one, two = (load_model(str(tmp_path / engine), torch.float32).state_dict() for engine in ("one_gpu", "cpu_zero3"))
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-5
    untouched = load_model(str(CONFORMANCE / "llava-tiny"), torch.float32).state_dict()
    assert not torch.equal(one["lm_head.weight"], untouched["lm_head.weight"])


@pytest.fixture(scope="module")
def alone_in_bfloat16(tmp_path_factory):
    """One process in bfloat16, four items an optimizer step."""
    folder = tmp_path_factory.mktemp("alone") / "bfloat16"
    with alone():
        finish(folder, "one_gpu", "klpd", *BFLOAT16, "gradient_accumulation_steps=4")
    return folder


@pytest.mark.parametrize("engine", GPU_ENGINES)
def test_an_engine_for_gpus_trains_in_bfloat16(alone_in_bfloat16, tmp_path, engine):
    """Nearly as one process does; what is saved is in float32, not the rounded values that DeepSpeed computes with."""
    run = finish(tmp_path / "two", engine, "klpd", *BFLOAT16, "gradient_accumulation_steps=2")
    assert run["engine"]["processes"] == 2 and run["settings"]["dtype"] == "bfloat16"
    one, two = (load_file(folder / "adapter_model.safetensors") for folder in (alone_in_bfloat16, tmp_path / "two"))
    assert {value.dtype for value in two.values()} == {torch.float32}
    names = [name for name in one if ".lora_B." in name]
    assert not torch.equal(two[names[0]], two[names[0]].bfloat16().float())
    apart, size = (
        sum(each.square().sum() for each in values) ** 0.5
        for values in ([two[name] - one[name] for name in names], [one[name] for name in names])
    )
    assert apart <= GPU_ENGINES[engine] * size


@pytest.mark.parametrize("engine", GPU_ENGINES)
def test_in_bfloat16_dropout_is_drawn_again_with_checkpointed_activations(tmp_path, engine):
    given = (*BFLOAT16, "max_train_steps=3", "gradient_accumulation_steps=2", "LoRA.dropout=0.1")
    for name in ("false", "true"):
        finish(tmp_path / name, engine, "gdpd", *given, f"gradient_checkpointing={name}")
    assert farthest(tmp_path / "false", tmp_path / "true") == 0
    rows = [json.loads(line) for line in (tmp_path / "true" / "train_log.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and all(0 < row["grad_norm"] < 100 for row in rows)


def test_a_vision_tower_trains_under_ddp(tmp_path):
    """DDP would wait for gradients of the layers that LLaVA does not look at."""
    given = ("init_adapter=null", "tune_vision_tower=true", "max_train_steps=2", "gradient_accumulation_steps=2")
    assert finish(tmp_path / "run", "cpu_ddp", "klpd", *given)["optimizer_steps"] == 2
