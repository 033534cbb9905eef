"""Compare each engine, and a killed run, with one process: the same six steps of KL+PD, by forget.py as a user runs it.

Two processes take half of a step's items each. In float32 only the order of sums differs. Each gradient, and so each
step, is off by some 1e-7 of itself, except where a gradient is only rounding error, which Adam makes into a full step.
Measured distances on CPUs are 4e-7 to 4e-5. A step on half the items, or weights of an earlier step, give 0.1 or more.
In bfloat16, DDP and FSDP sum gradients in float32: 0 to 2e-3 was measured. DeepSpeed holds the complete model in
bfloat16: 2e-2 was measured. One process in bfloat16 is 0.12 away from float32.
"""

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from subprocess import Popen

import torch
from safetensors.torch import load_file

from safeeraser.benchmark.files import CONFIG, PACKAGE, read_object
from safeeraser.errors import BadInput
from safeeraser.selftest.material import Bench
from safeeraser.selftest.report import Figure, figure
from safeeraser.selftest.run import end_tree
from safeeraser.unlearn.config.engine import Engine, engine_of_file
from safeeraser.unlearn.preflight.machine import check_machine

ON_GPUS, ON_CPUS = ("ddp", "../accelerate_config", "zero3", "fsdp2"), ("cpu_ddp", "cpu_zero2", "cpu_zero3")
FORGET = PACKAGE.parent / "forget.py"
NO_FORGET = "" if FORGET.is_file() else "forget.py is not here; the commands that are started lie in a checkout"
ITEMS = 4  # per optimizer step
KEYS = {"forget_loss": "klpd", "max_train_steps": 6, "lr": 1e-3, "warmup_ratio": 0, "workers": 1}
ADAPTER = "adapter_model.safetensors"


def engines(bench: Bench) -> Iterator[Figure]:
    """The distance of each engine's LoRA B from the B of one process. B starts at zero, so training alone makes it."""
    gpus = torch.cuda.device_count()
    for name in ON_GPUS if gpus else ON_CPUS:
        file = CONFIG / "accelerate" / f"{name}.yaml"
        engine = engine_of_file(file)
        engine = replace(engine, processes=1, here=1) if gpus == 1 else engine
        count = engine.processes
        title = f"{file.stem}, {count} process{'es' * (count > 1)}: distance of LoRA's B"
        if note := lacks(engine):
            yield figure(title, None, note=note)
            continue
        launch = ["-m", "accelerate.commands.launch", "--config_file", str(file), f"--num_processes={count}"]
        launch += [] if gpus else ["--mixed_precision=no"]
        step = "plain" if engine.shards_weights else "sam"  # sam moves weights, so each process must hold all
        folder = train(bench, file.stem, *launch, step=step, gradient_accumulation_steps=ITEMS // count)
        ran = read_object(folder / "run.json")["engine"]
        if (ran["name"], ran["processes"]) != (engine.name, count):
            sys.exit(f"{file.stem}: {ran['name']} ran in its place, with {ran['processes']} processes")
        ours, theirs = (load_file(each / ADAPTER) for each in (train(bench, f"alone_{step}", step=step), folder))
        one, two = (torch.cat([b[n].flatten() for n in ours if ".lora_B." in n]).double() for b in (ours, theirs))
        most = (0.06 if engine.deepspeed else 0.02) if gpus else 1e-3
        yield figure(title, ((one - two).norm() / one.norm()).item(), most=most)


def lacks(engine: Engine) -> str:
    """The reason why an engine cannot be compared on this machine; empty if it can."""
    try:
        check_machine(engine)
    except BadInput as error:
        return str(error).removeprefix("engine: ").partition(";")[0]
    alone = engine.processes == 1 and engine.name == "ddp"
    return NO_FORGET or ("one GPU is here, and shares nothing out" if alone else "")


def resume(bench: Bench) -> Iterator[Figure]:
    """Kill a run after a checkpoint and resume it with the same command. Every number of the adapter must be that of an
    undisturbed run, also on a GPU, because both runs ask for deterministic kernels."""
    title, keys = "numbers of the adapter that differ", {"save_steps": 2, "resume_from_checkpoint": "auto"}
    if NO_FORGET:
        yield figure(title, None, note=NO_FORGET)
        return
    undisturbed, folder = train(bench, "alone_plain"), bench.folder / "killed"
    process = start(bench, folder.name, **keys)
    while not (folder / "checkpoint-2").exists():
        if process.poll() is not None:
            sys.exit("forget.py ended before its first checkpoint")
        time.sleep(0.001)
    end_tree(process.pid)
    process.wait()
    if (folder / ADAPTER).exists():
        yield figure(title, None, note="the run had ended before it could be killed")
        return
    one, two = (load_file(each / ADAPTER) for each in (undisturbed, train(bench, folder.name, **keys)))
    yield figure("step that was gone on from", read_object(folder / "run.json")["sittings"][-1]["from_step"], least=2)
    yield figure(title, sum((one[name] != two[name]).sum().item() for name in one), most=0)


def train(bench: Bench, name: str, *launch: str, **more: object) -> Path:
    """Train a run in the folder `name`, unless it is there, and return the folder. Exits if training fails."""
    folder = bench.folder / name
    if not (folder / ADAPTER).exists() and (code := start(bench, name, *launch, **more).wait()):
        sys.exit(f"forget.py, {name}: exit code {code}")
    return folder


def start(bench: Bench, name: str, *launch: str, **more: object) -> Popen:
    """Start forget.py, by a launcher if one is given, on a GPU with the memory setting of scripts/gpu.bash."""
    env = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    if not torch.cuda.is_available():
        env = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    return Popen([sys.executable, *launch, str(FORGET), *words(bench, name, **more)], env=env | os.environ)


def words(bench: Bench, name: str, **more: object) -> list[str]:
    """The arguments of forget.py. On a GPU they ask for kernels that sum in a fixed order."""
    keys = {"deterministic": torch.cuda.is_available(), "gradient_accumulation_steps": ITEMS} | KEYS | more
    return [f"{key}={value!r}" for key, value in bench.keys(name, **keys).items()]
