"""Real processes, plain and under real DeepSpeed: they follow the release, agree, survive a kill, and stop alike.

What one engine is to train stands in `RUNS`, and is trained in one launch; only what is killed is launched alone.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from helpers import ROOT, alone, read_lines
from safetensors.torch import load_file

from safeeraser.model import load_model

from .test_release import CONFORMANCE, assert_reproduces

pytestmark = pytest.mark.slow

CPU_ENGINES = ("cpu_ddp", "cpu_zero2", "cpu_zero3")
# The files for GPUs, and how far LoRA's B, all of it training, may be off in bfloat16 (benchmarks/engines.py shows how
# far it is): DeepSpeed's gradients are in bfloat16 too; elsewhere sums in another order flip a rounding now and then.
GPU_ENGINES = {"ddp": 0.01, "fsdp2": 0.01, "../accelerate_config": 0.05, "zero3": 0.05}
NINE = json.loads((CONFORMANCE / "training" / "gdpd.json").read_text())["steps"][:9]

# Plain descent: Adam would make a whole step of a gradient that is rounding alone, and may round the other way.
FULL = ("init_adapter=null", "finetune=full", "max_train_steps=2", "lr=0.01", "trainer.optim=sgd")
TEXT = ("data.views.retain.image=null", "plan=null", "max_train_steps=2")
STOPPED = ("warmup_ratio=0", "max_grad_norm=0", "lr=0.02", "stop.forget_loss=9", "save_steps=1", "save_total_limit=9")
KILLED = ("save_steps=4", "probe_every=5", "resume_from_checkpoint=auto", "LoRA.dropout=0.1", "stop.forget_loss=99")
KILLED += ("max_train_steps=8",)
BFLOAT16 = ("dtype=bfloat16", "init_adapter=null", "max_train_steps=6")
REDRAWN = (*BFLOAT16, "max_train_steps=3", "LoRA.dropout=0.1")

# What is trained: its name, under which engines, items an optimizer step, method, what is not as in `words_of`.
RUNS = [
    ("release_gdpd", ("one_gpu", "cpu_ddp"), 4, "gdpd", ()),
    ("release_klpd", ("one_gpu", *CPU_ENGINES), 4, "klpd", ()),
    ("eight_klpd", ("one_gpu", *CPU_ENGINES), 8, "klpd", ("init_adapter=null",)),
    ("nine", ("cpu_ddp",), 2, "gdpd", ("plan={folder}/nine.json", "batch_size=2")),
    ("nine", ("one_gpu",), 1, "gdpd", ("plan={folder}/eight.json", "batch_size=4")),
    ("tower", ("cpu_ddp",), 4, "klpd", ("init_adapter=null", "tune_vision_tower=true", "max_train_steps=2")),
    ("full", ("one_gpu", "cpu_zero3"), 4, "gdpd", FULL),
    ("text", ("one_gpu", *CPU_ENGINES), 4, "none", TEXT),
    ("half_text", ("one_gpu", *CPU_ENGINES), 4, "klpd", ("data.views.retain.image=null", "max_train_steps=2")),
    ("stopped", CPU_ENGINES, 4, "ga", STOPPED),
    ("stopped", ("../accelerate_config",), 4, "ga", (*STOPPED, "dtype=bfloat16")),
    ("whole", CPU_ENGINES, 4, "klpd", KILLED),
    ("whole", ("fsdp2",), 4, "klpd", (*KILLED, "dtype=bfloat16")),
    ("bfloat16", ("one_gpu", *GPU_ENGINES), 4, "klpd", BFLOAT16),
    ("kept", tuple(GPU_ENGINES), 4, "gdpd", REDRAWN),
    ("redrawn", tuple(GPU_ENGINES), 4, "gdpd", (*REDRAWN, "gradient_checkpointing=true")),
]

# Of other families: extra inputs without an axis of rows, and tiles of pictures.
FAMILIES = {name: ROOT / "tests" / "data" / "families" / name for name in ("qwen3_vl", "smolvlm")}


def words_of_family(folder):
    """A family's own model, plan and adapter; two optimizer steps."""
    own = (f"model_path={folder / 'model'}", f"init_adapter={folder / 'adapter'}", f"plan={folder / 'plan.json'}")
    return (*own, "LoRA.r=4", "LoRA.alpha=16", "max_train_steps=2", "warmup_ratio=0")


RUNS += [
    (f"{name}_{method}", ("one_gpu", "cpu_ddp", "cpu_zero2"), 4, method, words_of_family(folder))
    for name, folder in FAMILIES.items()
    for method in ("klpd", "popd")
]


@pytest.fixture(autouse=True)
def one_after_another():
    with alone():
        yield


def runs_of(engine):
    """The rows of `RUNS` that an engine trains, by name: the method, and what is not as in `words_of`."""
    processes = 1 if engine == "one_gpu" else 2
    return {
        name: (method, f"gradient_accumulation_steps={items // processes}", *words)
        for name, engines, items, method, words in RUNS
        if engine in engines
    }


def words_of(folder, method, *overrides):
    """The words of `forget.py` for a run into `folder`, on what is recorded."""
    words = [
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
        *overrides,
    ]
    return [word.replace("{folder}", str(folder.parent)) for word in words]


def start(engine, *command):
    """Start a command with what an engine wants; engines that are meant for GPUs run on CPUs too."""
    stand_in = [str(ROOT / "benchmarks" / "gpu_engines_on_cpus")] if engine in GPU_ENGINES else []
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([*stand_in, str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "ACCELERATE_CONFIG": f"config/accelerate/{engine}.yaml",
        "DS_ACCELERATOR": "cpu",
    }
    # The recorded pictures' paths start at the recorded folder.
    return subprocess.Popen(
        command,
        cwd=CONFORMANCE,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def ended_well(process):
    """Wait for a good end."""
    said, _ = process.communicate(timeout=1200)  # the first may have to compile DeepSpeed's Adam
    assert process.returncode == 0, said[-4000:]


def launch(folder, engine, method, *overrides):
    """scripts/forget_lora.bash as a user calls it."""
    return start(engine, "bash", str(ROOT / "scripts" / "forget_lora.bash"), *words_of(folder, method, *overrides))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder with an engine's runs, which are trained when one of them is first asked for."""
    folders = {}

    def train(engine):
        if engine not in folders:
            folder = folders[engine] = tmp_path_factory.mktemp("runs")
            for name, steps in (("nine", NINE), ("eight", NINE[:8])):
                (folder / f"{name}.json").write_text(json.dumps({"steps": steps}))
            runs = [words_of(folder / name, *words) for name, words in runs_of(engine).items()]
            (folder / "runs.json").write_text(json.dumps(runs))
            config = ROOT / "config" / "accelerate" / f"{engine}.yaml"
            series = Path(__file__).with_name("series.py")
            command = ("accelerate", "launch", "--config_file", str(config), str(series), str(folder / "runs.json"))
            ended_well(start(engine, *command))
        return folders[engine]

    return train


def told(folder):
    """What a run says of itself."""
    return json.loads((folder / "run.json").read_text())


def farthest(one, two):
    """The largest difference between the parameters of two adapters."""
    one, two = (load_file(folder / "adapter_model.safetensors") for folder in (one, two))
    assert one.keys() == two.keys()
    return max((one[name] - two[name]).abs().max().item() for name in one)


@pytest.mark.parametrize(
    ("method", "engine", "processes", "name"),
    [
        ("gdpd", "one_gpu", 1, "single"),
        ("klpd", "one_gpu", 1, "single"),
        ("gdpd", "cpu_ddp", 2, "ddp"),
        ("klpd", "cpu_ddp", 2, "ddp"),
        ("klpd", "cpu_zero2", 2, "zero2"),
        ("klpd", "cpu_zero3", 2, "zero3"),
    ],
)
def test_an_engine_follows_the_release(trained, method, engine, processes, name):
    """48 items, four an optimizer step, however many processes share them; micro-losses in the plan's order."""
    folder = trained(engine) / f"release_{method}"
    run = told(folder)
    # The engine asked for, not one that was silently put in its place.
    assert (run["engine"]["processes"], run["engine"]["name"], run["optimizer_steps"]) == (processes, name, 12)
    assert_reproduces(folder, method)


def test_what_fills_no_round_of_the_processes_is_left_out(trained):
    """Nine items, batches of two, two processes: two rounds of four. The plan tells what was trained."""
    two, one = trained("cpu_ddp") / "nine", trained("one_gpu") / "nine"
    assert (told(two)["items_left_out"], told(two)["optimizer_steps"]) == (1, 2)
    steps = json.loads((two / "plan.json").read_text())["steps"]
    assert [step["forget"] for step in steps] == [step["forget"] for step in NINE[:8]]
    # Eight items, four a step in one process: with one of them trained twice, the two would part.
    assert told(one)["items_left_out"] == 0 and farthest(two, one) < 1e-5


def test_a_mistake_is_one_line_before_any_process_is_launched(tmp_path):
    process = launch(tmp_path / "run", "cpu_zero2", "gdpd", "forget_loss=gdp")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said.startswith("error: forget_loss: no 'gdp'; did you mean 'gdpd'?") and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("engine", ["cpu_ddp", "cpu_zero2"])
@pytest.mark.parametrize("method", ["klpd", "popd"])
@pytest.mark.parametrize("family", FAMILIES)
def test_another_family_in_two_processes_is_trained_as_in_one(trained, family, method, engine):
    one, two = (trained(each) / f"{family}_{method}" for each in ("one_gpu", engine))
    assert told(two)["engine"]["processes"] == 2 and told(two)["optimizer_steps"] == 2
    assert farthest(one, two) < 1e-5
    single, shared = ([row["micro_losses"] for row in read_lines(each / "train_log.jsonl")] for each in (one, two))
    assert shared == [pytest.approx(losses, abs=1e-5) for losses in single]
    # The adapter that both began with is not what they end with.
    assert farthest(one, FAMILIES[family] / "adapter") > 1e-4


@pytest.mark.parametrize("engine", CPU_ENGINES)
@pytest.mark.parametrize("name", ["text", "half_text"])
def test_text_without_pictures_is_trained_in_two_processes_as_in_one(trained, name, engine):
    """Where nothing has a picture, the projector has no gradient, for which DDP would wait."""
    two, one = (trained(each) / name for each in (engine, "one_gpu"))
    assert told(two)["engine"]["processes"] == 2 and told(two)["optimizer_steps"] == 2
    assert farthest(two, one) < 1e-5


@pytest.mark.parametrize("engine", CPU_ENGINES)
def test_one_process_with_accumulation_8_is_two_with_4(trained, engine):
    """Each from an adapter of its own drawing, which the seed alone decides."""
    two, one = (trained(each) / "eight_klpd" for each in (engine, "one_gpu"))
    assert told(two)["engine"]["processes"] == 2 and told(two)["optimizer_steps"] == 6
    assert farthest(two, one) < 1e-5


@pytest.mark.parametrize("engine", [*CPU_ENGINES, "fsdp2"])
def test_two_processes_killed_go_on_as_if_nothing_had_been(trained, tmp_path, engine):
    """SIGKILL to all of them behind the first checkpoint; probes on, and bounds that are not reached."""
    whole, killed = trained(engine) / "whole", tmp_path / "killed"
    given = runs_of(engine)["whole"]
    process = launch(killed, engine, *given)
    deadline = time.monotonic() + 200
    while not (killed / "checkpoint-4").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    for each in [*psutil.Process(process.pid).children(recursive=True), process]:
        each.kill()  # the launcher's processes have sessions of their own
    process.communicate()
    assert not (killed / "adapter_model.safetensors").exists()
    ended_well(launch(killed, engine, *given))
    sittings = told(killed)["sittings"]
    assert len(sittings) == 2 and sittings[1]["from_step"] >= 4
    for name in ("adapter_model.safetensors", "train_log.jsonl", "probe.jsonl"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name


@pytest.mark.parametrize("engine", [*CPU_ENGINES, "../accelerate_config"])
def test_two_processes_stopped_by_a_bound_keep_the_last_good_adapter(trained, engine):
    folder = trained(engine) / "stopped"
    (sitting,) = told(folder)["sittings"]
    stopped = sitting["stopped"]
    assert stopped["reason"].startswith("stop.forget_loss=9: the term forget is ")
    good = stopped["adapter_of_step"]
    assert sitting["to_step"] == good + 2
    assert farthest(folder, folder / f"checkpoint-{good}") == 0
    assert farthest(folder, folder / f"checkpoint-{good + 1}") > 0


def test_a_model_trained_whole_is_the_same_under_an_engine_that_shares_it_out(trained):
    """Saved whole, under names that are read again: with others a loader takes random numbers, and only notes it."""
    folders = [trained(engine) / "full" for engine in ("one_gpu", "cpu_zero3")]
    one, two = (load_model(str(folder), torch.float32).state_dict() for folder in folders)
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-5
    untouched = load_model(str(CONFORMANCE / "llava-tiny"), torch.float32).state_dict()
    assert not torch.equal(one["lm_head.weight"], untouched["lm_head.weight"])


@pytest.mark.parametrize("engine", GPU_ENGINES)
def test_an_engine_for_gpus_trains_in_bfloat16(trained, engine):
    """Nearly as one process does; what is saved is in float32, not the rounded values that DeepSpeed computes with."""
    folders = [trained(each) / "bfloat16" for each in ("one_gpu", engine)]
    run = told(folders[1])
    assert run["engine"]["processes"] == 2 and run["settings"]["dtype"] == "bfloat16"
    one, two = (load_file(folder / "adapter_model.safetensors") for folder in folders)
    assert {value.dtype for value in two.values()} == {torch.float32}
    names = [name for name in one if ".lora_B." in name]
    assert not torch.equal(two[names[0]], two[names[0]].bfloat16().float())
    apart, size = (
        sum(each.square().sum() for each in values) ** 0.5
        for values in ([two[name] - one[name] for name in names], [one[name] for name in names])
    )
    assert apart <= GPU_ENGINES[engine] * size


@pytest.mark.parametrize("engine", GPU_ENGINES)
def test_in_bfloat16_dropout_is_drawn_again_with_checkpointed_activations(trained, engine):
    kept, redrawn = (trained(engine) / name for name in ("kept", "redrawn"))
    assert farthest(kept, redrawn) == 0
    rows = [json.loads(line) for line in (redrawn / "train_log.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and all(0 < row["grad_norm"] < 100 for row in rows)


def test_a_vision_tower_trains_under_ddp(trained):
    """DDP would wait for gradients of the layers that LLaVA does not look at."""
    assert told(trained("cpu_ddp") / "tower")["optimizer_steps"] == 2
