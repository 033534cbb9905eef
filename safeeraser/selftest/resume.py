"""A run that is killed behind a checkpoint, and gone on with by the same command, beside one that nothing disturbed."""

import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

from safeeraser.selftest.engines import adapter, alone, environment, words
from safeeraser.selftest.launch import PATIENCE, finish, kill_tree, last_lines, start
from safeeraser.selftest.material import Bench
from safeeraser.selftest.result import Figure, Skip
from safeeraser.unlearn.record import Unlearned


def check(bench: Bench) -> Iterator[Figure]:
    """How many of the adapter's numbers differ; none may, on a GPU neither: both runs ask for repeatable kernels."""
    whole, folder = alone(bench), bench.folder / "resume" / "killed"
    folder.parent.mkdir(parents=True, exist_ok=True)
    log, given = folder.with_suffix(".log"), words(bench, folder, save_steps=2, resume_from_checkpoint="auto")
    process = start(given, log, env=environment())
    try:
        wait_for(folder / "checkpoint-2", process, log)
    finally:
        kill_tree(process.pid)
        process.wait()
    if (folder / "adapter_model.safetensors").exists():
        raise Skip("the run had ended before it could be killed")
    finish(start(given, log, env=environment()), log)
    yield Figure("step that was gone on from", Unlearned.read(folder).record["sittings"][-1]["from_step"], least=2)
    one, two = adapter(whole), adapter(folder)
    yield Figure("numbers of the adapter that differ", sum((one[n] != two[n]).sum().item() for n in one), most=0)


def wait_for(place: Path, process: Popen, log: Path) -> None:
    """Wait until it is there. Raises `RuntimeError` if the process ends before, or takes too long."""
    until = time.monotonic() + PATIENCE
    while not place.exists():
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"{last_lines(log)}\nno {place.name} came")
        time.sleep(0.001)
