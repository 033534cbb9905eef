"""Are responses the same, however they are drawn? On the mini benchmark's val split, sampled, float32: prints a table.

    python benchmarks/same_answers.py                 # about 6 minutes on two cores

Compared with one undisturbed run of ckpt_infer.py are other batch sizes, the requests in reverse order, two processes,
and runs killed (SIGKILL) at random moments and gone on with. Whatever a killed run has kept must be there once. Exit
code 1 if less than 99.9% of the responses of some row are the same, or one is missing or given twice.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from safeeraser.arguments import Arguments, count
from safeeraser.benchmark.records import read_records
from safeeraser.errors import command
from safeeraser.generation.sampling import Generation
from safeeraser.infer.engine import Engine
from safeeraser.infer.requests import Request, build_requests
from safeeraser.model.merge import load_merged
from safeeraser.selftest.launch import kill_tree

ROOT = Path(__file__).resolve().parents[1]
AIM = 0.999


class Runs:
    """Runs of ckpt_infer.py on the val split of the mini benchmark at `data`."""

    def __init__(self, data: Path, checkpoint: Path | None, folder: Path) -> None:
        self.data, self.checkpoint, self.folder = data, checkpoint, folder
        self.requests = build_requests(read_records(data / "all_val.json"))

    def start(self, name: str, *more: str, processes: int = 1) -> subprocess.Popen:
        """Start a run, or go on with it."""
        given = ["--eval_file", self.data / "all_val.json", "--model_path", self.data / "base_model"]
        given += ["--output_file", self.folder / f"{name}.json", "--dtype", "float32", *more]
        given += ["--checkpoint_path", self.checkpoint] if self.checkpoint else []
        launcher = [sys.executable]
        if processes > 1:
            file = ROOT / "config" / "accelerate" / "cpu_ddp.yaml"
            launcher += ["-m", "accelerate.commands.launch", "--config_file", file, "--num_processes", processes]
        with open(self.folder / f"{name}.log", "a") as log:
            return subprocess.Popen(list(map(str, [*launcher, ROOT / "ckpt_infer.py", *given])), stdout=log, stderr=log)

    def finish(self, name: str, *more: str, processes: int = 1) -> dict[str, str]:
        """Run to the end; returns the responses by their requests' keys."""
        if self.start(name, *more, processes=processes).wait() != 0:
            sys.exit(f"error: the run '{name}' failed:\n{(self.folder / f'{name}.log').read_text()[-2000:]}")
        written = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        return {request.key: _at(written, request) for request in self.requests}

    def kept(self, name: str) -> list[str]:
        """The keys of the whole lines in a run's partial files, as often as they are there."""
        lines = []
        for file in self.folder.glob(f"{name}.json.partial*.jsonl"):
            lines += [json.loads(line) for line in file.read_bytes().split(b"\n")[:-1]]
        return [line["key"] for line in lines if "key" in line]


def _at(written: list, request: Request) -> str:
    value = written[request.record]
    for step in request.place:
        value = value[step]
    return value


def killed(runs: Runs, draw: random.Random, length: float, number: int) -> tuple[str, dict[str, str], bool]:
    """Kill a run `length` seconds at most after its first response, go on, and tell whether what it kept was sound."""
    name = f"killed{number}"
    # In small batches, so that it lasts.
    partial, process = runs.folder / f"{name}.json.partial.jsonl", runs.start(name, "--batch_size", "2")
    while process.poll() is None and not partial.exists():
        time.sleep(0.001)
    time.sleep(draw.uniform(0, length))
    if process.poll() is not None:
        sys.exit(f"error: the run '{name}' ended before it could be killed, on a machine as fast as this")
    kill_tree(process.pid)
    process.wait()
    kept = runs.kept(name)
    sound = len(kept) == len(set(kept))
    return f"killed with {len(kept)} responses kept", runs.finish(name), sound


def variants(runs: Runs, kills: int, seed: int) -> Iterator[tuple[str, dict[str, str], bool]]:
    """Each way to draw the responses: its name, the responses, and whether nothing was kept twice."""
    for size in (1, 8, 64):
        yield f"batch size {size}", runs.finish(f"batch{size}", "--batch_size", str(size)), True
    path = str(runs.data / "base_model")
    vlm = load_merged(path, runs.checkpoint, dtype="float32", lora_alpha=1.0)
    engine = Engine(vlm, Generation(), 16)
    given = [(request.key, text) for ended in engine.answer(runs.requests[::-1]) for request, text in ended]
    yield "reverse order", dict(given), len(dict(given)) == len(given)
    yield "two processes", runs.finish("two", processes=2), True
    draw = random.Random(seed)
    for number in range(kills):
        yield killed(runs, draw, 5.0, number)


@command
def main() -> int:
    """Run, compare, print."""
    parser = Arguments(prog="python benchmarks/same_answers.py", description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, default=Path("dataset/mini"), help="the mini benchmark (default: %(default)s)")
    add("--checkpoint_path", type=Path, help="an adapter for its base model (default: none)")
    add("--kills", type=count, default=10, help="runs to kill (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    given = parser.parse_args()
    table, good = Table("", "the same", "missing", "given twice"), True
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(given.data, given.checkpoint_path, Path(folder))
        first = runs.finish("first")
        for name, responses, once in variants(runs, given.kills, given.seed):
            same = sum(responses.get(key) == text for key, text in first.items())
            missing = sum(not responses.get(key) for key in first)
            print(f"{name}: {same} of {len(first)} the same", file=sys.stderr)
            table.add_row(name, f"{same} of {len(first)}", str(missing), "none" if once else "some")
            good &= same >= AIM * len(first) and not missing and once
    Console().print(table)
    return 0 if good else 1


if __name__ == "__main__":
    main()
