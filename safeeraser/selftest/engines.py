"""Every engine that this machine allows beside one process, on the same plan, through accelerate's launcher.

A few steps with Adam; of two processes each takes half of a step's items. In float32 only sums are formed in another
order: each gradient is off by some 1e-7 of itself, and so is each step, but for a gradient that is rounding alone, of
which Adam makes a whole step. On CPUs distances of 4e-7 to 4e-5 were seen, so 1e-3 is generous, and what it is to find
is not subtle: a step taken on half the items, or weights that are not those of the last step, give 0.1 and more.

In bfloat16 DDP and FSDP still add up gradients in float32, and 0 to 2e-3 was seen; DeepSpeed holds the whole model in
bfloat16, so that each gradient is off by 2^-8 of itself: 2e-2 was seen. One process in bfloat16 is 0.12 from float32.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.cpp_extension import get_default_build_root

from safeeraser import model as models
from safeeraser.benchmark.files import read_object
from safeeraser.errors import BadInput
from safeeraser.selftest.launch import engine_file, finish, start
from safeeraser.selftest.material import Bench
from safeeraser.selftest.result import Figure
from safeeraser.unlearn.engine import Engine, engine_of_file
from safeeraser.unlearn.machine import check_machine

ON_GPUS, ON_CPUS = ("ddp", "accelerate_config", "zero3", "fsdp2"), ("cpu_ddp", "cpu_zero2", "cpu_zero3")
STEPS, ITEMS = 6, 4  # optimizer steps, and what each takes
# Seconds after which a lock is forgotten: whoever may hold it, as compiling takes a minute or two; and if nobody here
# has it open, which leaves another machine with the same home that has begun so lately.
COMPILED_BY, HELD_BY = 900, 120
BOUNDS = {"float32": (1e-3, 1e-3), "bfloat16": (0.02, 0.06)}  # elsewhere, and under DeepSpeed


def check(bench: Bench) -> Iterator[Figure]:
    """How far each engine ends from one process, over LoRA's B."""
    if why := waits_for_nobody():
        raise RuntimeError(why)
    reference = alone(bench)
    dtype = str(models.choose_dtype("auto")).removeprefix("torch.")
    for name in ON_GPUS if torch.cuda.is_available() else ON_CPUS:
        engine, lacks = on_this_machine(name)
        title = f"{name}, {engine.processes} process{'es' * (engine.processes > 1)}: distance of LoRA's B"
        if lacks:
            yield Figure(title, None, note=lacks)
            continue
        folder = bench.folder / "engines" / name
        train(bench, folder, name, engine.processes)
        ran = read_object(folder / "run.json")["engine"]
        if (ran["name"], ran["processes"]) != (engine.name, engine.processes):
            raise RuntimeError(f"{name}: {ran['name']} ran in its place, with {ran['processes']} processes")
        yield Figure(title, distance(adapter(folder), adapter(reference))[0], most=BOUNDS[dtype][engine.deepspeed])


def waits_for_nobody() -> str:
    """What is to be done about the lock of a process that was killed while it compiled a part of DeepSpeed, as others
    would wait for its end; nothing where there is none."""
    locks = list(Path(get_default_build_root()).glob("*/deepspeed*/lock"))
    locks += list(Path(os.environ.get("TORCH_EXTENSIONS_DIR") or os.devnull).glob("deepspeed*/lock"))
    left = next(filter(forgotten, locks), None)
    # Paths are taken out of a report; these words say where it lies all the same.
    place = "torch's extensions (TORCH_EXTENSIONS_DIR; else torch_extensions in the home's .cache)"
    told = "DeepSpeed would wait for ever for a compilation that was killed: remove the file lock"
    return f"{told} of {left.parent.name}, in {place}" if left else ""


def forgotten(lock: Path) -> bool:
    """Whether nobody compiles any more. Who does has the lock open; on another machine that cannot be seen."""
    try:
        age = time.time() - lock.stat().st_mtime
    except FileNotFoundError:  # just now it was done
        return False
    return age > COMPILED_BY or (age > HELD_BY and not is_open(lock))


def is_open(file: Path) -> bool:
    """Whether a process of this user, on this machine, has the file open."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(Path(each.path) == file.resolve() for each in process.open_files()):
                return True
    return False


def on_this_machine(name: str) -> tuple[Engine, str]:
    """An engine with as many processes as there are GPUs for, two at most; and what it lacks here, if anything."""
    engine = engine_of_file(engine_file(name))
    if torch.cuda.device_count() == 1:
        engine = replace(engine, processes=1, here=1)
        if name == "ddp":
            return engine, "one GPU is here, and shares nothing out"
    try:
        check_machine(engine, build=True)
    except BadInput as error:
        return engine, str(error).removeprefix("engine: ").partition(";")[0]
    return engine, ""


def alone(bench: Bench) -> Path:
    """The folder of one process's run, which others are compared with; trained only once."""
    folder = bench.folder / "engines" / "alone"
    if not (folder / "adapter_model.safetensors").exists():
        train(bench, folder)
    return folder


def words(bench: Bench, folder: Path, processes: int = 1, **more: object) -> list[str]:
    """What forget.py is told. On a GPU it is asked for kernels that add up in a fixed order."""
    keys = {"max_train_steps": STEPS, "gradient_accumulation_steps": ITEMS // processes, "lr": 1e-3, "warmup_ratio": 0}
    return bench.words(folder, **keys, deterministic=torch.cuda.is_available(), **more)


def train(bench: Bench, folder: Path, name: str | None = None, processes: int = 1) -> None:
    """Train into `folder`. Raises `RuntimeError` if that fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    options, log = ["--num_processes", str(processes)], folder.with_suffix(".log")
    if not torch.cuda.is_available():
        options += ["--mixed_precision", "no"]
    finish(start(words(bench, folder, processes), log, name, options, env=environment()), log, waits_for_nobody)


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
