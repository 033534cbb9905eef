"""Every engine that this machine allows beside one process, on the same plan, through accelerate's launcher.

The method is KL+PD, which runs the untouched model too. The data are read by a process of their own. Engines that leave
each process the whole weights take SAM's steps.

A few steps with Adam; of two processes each takes half of a step's items. In float32 only sums are formed in another
order: each gradient is off by some 1e-7 of itself, and so is each step, but for a gradient that is rounding alone, of
which Adam makes a whole step. On CPUs distances of 4e-7 to 4e-5 were seen, so 1e-3 is generous, and what it is to find
is not subtle: a step taken on half the items, or weights that are not those of the last step, give 0.1 and more.

In bfloat16 DDP and FSDP still add up gradients in float32, and 0 to 2e-3 was seen; DeepSpeed holds the whole model in
bfloat16, so that each gradient is off by 2^-8 of itself: 2e-2 was seen. One process in bfloat16 is 0.12 from float32.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from safeeraser.benchmark.files import read_object
from safeeraser.errors import BadInput
from safeeraser.model.load import choose_dtype
from safeeraser.selftest.launch import engine_file, finish, start
from safeeraser.selftest.material import Bench
from safeeraser.selftest.result import Figure
from safeeraser.unlearn.engine import Engine, engine_of_file
from safeeraser.unlearn.preflight.machine import check_machine

ON_GPUS, ON_CPUS = ("ddp", "accelerate_config", "zero3", "fsdp2"), ("cpu_ddp", "cpu_zero2", "cpu_zero3")
STEPS, ITEMS = 6, 4  # optimizer steps, and what each takes
BOUNDS = {"float32": (1e-3, 1e-3), "bfloat16": (0.02, 0.06)}  # elsewhere, and under DeepSpeed


def check(bench: Bench) -> Iterator[Figure]:
    """How far each engine ends from one process, over LoRA's B."""
    dtype = str(choose_dtype("auto")).removeprefix("torch.")
    for name in ON_GPUS if torch.cuda.is_available() else ON_CPUS:
        engine, lacks = on_this_machine(name)
        title = f"{name}, {engine.processes} process{'es' * (engine.processes > 1)}: distance of LoRA's B"
        if lacks:
            yield Figure(title, None, note=lacks)
            continue
        folder = bench.folder / "engines" / name
        step = "plain" if engine.shards_weights else "sam"  # which moves weights that each process must have
        train(bench, folder, name, engine.processes, step=step)
        ran = read_object(folder / "run.json")["engine"]
        if (ran["name"], ran["processes"]) != (engine.name, engine.processes):
            raise RuntimeError(f"{name}: {ran['name']} ran in its place, with {ran['processes']} processes")
        yield Figure(
            title, distance(adapter(folder), adapter(alone(bench, step)))[0], most=BOUNDS[dtype][engine.deepspeed]
        )


def on_this_machine(name: str) -> tuple[Engine, str]:
    """An engine with as many processes as there are GPUs for, two at most; and what it lacks here, if anything."""
    engine = engine_of_file(engine_file(name))
    if torch.cuda.device_count() == 1:
        engine = replace(engine, processes=1, here=1)
        if name == "ddp":
            return engine, "one GPU is here, and shares nothing out"
    try:
        check_machine(engine)
    except BadInput as error:
        return engine, str(error).removeprefix("engine: ").partition(";")[0]
    return engine, ""


def alone(bench: Bench, step: str = "plain") -> Path:
    """The folder of one process's run, which others are compared with; trained only once."""
    folder = bench.folder / "engines" / ("alone" if step == "plain" else f"alone_{step}")
    if not (folder / "adapter_model.safetensors").exists():
        train(bench, folder, step=step)
    return folder


def words(bench: Bench, folder: Path, processes: int = 1, **more: object) -> list[str]:
    """What forget.py is told. On a GPU it is asked for kernels that add up in a fixed order."""
    keys = {"max_train_steps": STEPS, "gradient_accumulation_steps": ITEMS // processes, "lr": 1e-3, "warmup_ratio": 0}
    told = {"forget_loss": "klpd", "workers": 1, "deterministic": torch.cuda.is_available()}
    return bench.words(folder, **keys, **told, **more)


def train(bench: Bench, folder: Path, name: str | None = None, processes: int = 1, **more: object) -> None:
    """Train into `folder`. Raises `RuntimeError` if that fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    options, log = ["--num_processes", str(processes)], folder.with_suffix(".log")
    if not torch.cuda.is_available():
        options += ["--mixed_precision", "no"]
    finish(start(words(bench, folder, processes, **more), log, name, options, env=environment()), log)


def environment() -> dict[str, str]:
    """What scripts/gpu.bash sets where there is a GPU, and what an engine wants to be told where there is none."""
    if not torch.cuda.is_available():
        return {"HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    given = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys()
    return {"HF_HUB_OFFLINE": "1"} | ({} if given else {"PYTORCH_ALLOC_CONF": "expandable_segments:True"})


def adapter(folder: Path) -> dict[str, Tensor]:
    """What a run has trained."""
    return load_file(folder / "adapter_model.safetensors")


def distance(mine: dict[str, Tensor], other: dict[str, Tensor]) -> tuple[float, float]:
    """|a - b| / |b| over LoRA's B, which begins at zero and is therefore all training, and over the rest."""
    found = []
    for names in ({name for name in other if ".lora_B." in name}, {name for name in other if ".lora_B." not in name}):
        apart = sum((mine[name] - other[name]).double().square().sum() for name in names)
        found.append((apart / sum(other[name].double().square().sum() for name in names)).sqrt().item())
    return found[0], found[1]
