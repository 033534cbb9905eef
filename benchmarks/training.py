"""Compare the speed and memory of unlearning with a plain implementation of the same losses, or between methods.

  python benchmarks/training.py [--methods gd klpd] [--repeats 3] [--steps 2] [--threads N]
  python benchmarks/training.py --beside gd [--methods npo npo+pd "npo LoRA.r=8"] [--repeats 3] ...

Both sides train the same LLaVA of 100 million random parameters on the CPU, in float32, under the `official` recipe.
The plain side runs a forward pass for each term, with logits at every position, and has a second model as KL's
reference. Both must first give the same gradients on the same item. Then each run has a process of its own, ours and
plain by turns, and medians are shown.

With --beside only our side is run: every method, or the ones in --methods, compared with the named one. Each is a
method's name, also with PD (npo+pd), and further keys of `forget.py` behind it, as one word for the shell. The last
columns are the dry run's estimate for LLaVA-1.5-7B in bfloat16, which is not run. `--repeats 0` leaves out times.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from argparse import SUPPRESS
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import psutil
import torch
from shared import describe, median, show
from sides import SIDES, build_entries, compare, settings, train

from safeeraser.arguments import Arguments, one_of
from safeeraser.benchmark.methods import pages
from safeeraser.errors import BadInput, command
from safeeraser.selftest.material import architecture
from safeeraser.unlearn.config.engine import Engine
from safeeraser.unlearn.preflight.dry_run import largest_step, outline
from safeeraser.unlearn.preflight.memory import Setup, memory

METHODS = ("ga", "gd", "kl", "po", "gapd", "gdpd", "klpd", "popd")  # that the plain implementation knows
# By default, glibc keeps much of the freed memory, in amounts that depend on the order of events. In runs that measure
# memory, a freed tensor of 128 kB or more goes back to the system. This costs time, so other runs measure time.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**17), "MALLOC_TRIM_THRESHOLD_": str(2**17)}


@dataclass(frozen=True)
class Run:
    """A run: wall and CPU seconds per item; its process's memory in MB before building the model and at the peak."""

    method: str
    side: str
    seconds: float
    cpu: float
    before: float
    peak: float

    @property
    def net(self) -> float:
        """The memory of model and training: the peak less the memory of Python and its libraries before."""
        return self.peak - self.before


def measure(side: str, method: str, steps: int) -> Run:
    """Train in this process: one optimizer step to warm up, then `steps` timed ones."""
    with tempfile.TemporaryDirectory() as folder:
        read = settings(method, Path(folder))
        items = read.batch_size * read.gradient_accumulation_steps  # an optimizer step
        entries = build_entries(read, (1 + steps) * items)
        before = psutil.Process().memory_info().rss / 1e6
        (start, cpu_start), *_, (end, cpu_end) = train(side, entries, read).ends
    items *= steps
    most = int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) * 1024 / 1e6
    return Run(method, side, (end - start) / items, (cpu_end - cpu_start) / items, before, most)


def rounds(count: int, methods: list[str], sides: Sequence[str], steps: int, threads: int, **malloc: str) -> list[Run]:
    """`count` runs of each side of each method, each in a process of its own. They run by turns, so that the machine's
    other work affects all alike."""
    runs, environment = [], os.environ | malloc | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    for _, method, side in product(range(count), methods, sides):
        words = [sys.executable, __file__, "--job", side, method, f"--steps={steps}", f"--threads={threads}"]
        done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            sys.exit(f"error: {method}, {side}: failed with exit code {done.returncode}")
        runs.append(Run(**json.loads(done.stdout.splitlines()[-1])))
        print(runs[-1], file=sys.stderr)
    return runs


def estimate(row: str) -> float:
    """The dry run's estimate, in GiB, of training LLaVA-1.5-7B in bfloat16 on longest conversations, on one GPU."""
    read = settings(row, Path("none"), "model_family=llava-1.5-7b", "dtype=bfloat16", "gpu_memory=80")
    config = architecture("7b")
    model = outline(read, config, torch.bfloat16)
    side, patch = config.vision_config.image_size, config.vision_config.patch_size
    row = (read.max_length - 1 + (side // patch) ** 2, read.max_length)  # as long as possible, counted as all answer
    items = [dict.fromkeys(read.method.views, row)] * read.batch_size
    step = largest_step(read, read.method, items, {"pixel_values": torch.zeros(1, 3, side, side)})
    parts = memory(model, Setup(read, Engine(), torch.bfloat16), step)
    return sum(part.device for part in parts) / 2**30


def compared(method: str, other: dict[str, str], timed: list[Run], weighed: list[Run]) -> list[str]:
    """Our figures of a method, and their ratios to the other's: time, if it was measured, then memory."""
    cells, ours = [], {"method": method, "side": SIDES[0]}
    for runs, figures, form in ((timed, ("seconds", "cpu"), "{:.2f}"), (weighed, ("peak", "net"), "{:.0f}")):
        pairs = [(median(runs, figure, **ours), median(runs, figure, **other)) for figure in figures if runs]
        cells += [form.format(pair[0]) for pair in pairs[:1]] + [f"{one / two:.2f}" for one, two in pairs]
    return cells


@command
def main() -> None:
    """Check the sides, measure, and print the table."""
    parser = Arguments(prog="python benchmarks/training.py", description=__doc__)
    parser.add_argument("--methods", nargs="+", help="default: all")
    parser.add_argument("--beside", metavar="METHOD", help="set ours beside ours of this method")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each side of each method (default: 3)")
    parser.add_argument("--steps", type=int, default=2, help="optimizer steps timed in each run (default: 2)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: one a core")
    parser.add_argument("--job", nargs=2, help=SUPPRESS)
    given = parser.parse_args()
    if min(given.repeats + bool(given.beside), given.steps, given.threads) < 1:
        raise BadInput("--repeats, --steps and --threads are numbers from 1 up (with --beside --repeats 0 too)")
    torch.set_num_threads(given.threads)
    if given.job:
        return print(json.dumps(asdict(measure(*given.job, given.steps))))
    if given.beside:
        methods, sides = list(dict.fromkeys([given.beside, *(given.methods or pages())])), SIDES[:1]
        for row in methods:
            settings(row, Path("none"))  # refuses a row that cannot be run, before any is
    else:
        methods, sides = [one_of("method", METHODS)(name) for name in given.methods or METHODS], SIDES
        for method in methods:
            compare(method)
        print("ours and plain give the same gradients", file=sys.stderr)
    print(describe(given.threads))
    weighed = rounds(1, methods, sides, 1, given.threads, **GIVE_BACK)
    timed = rounds(given.repeats, methods, sides, given.steps, given.threads)
    rows, first = [], given.beside and estimate(given.beside)
    for method in methods:
        other = {"method": given.beside, "side": "ours"} if given.beside else {"method": method, "side": "plain"}
        foretold = [f"{(real := estimate(method)):.1f}", f"{real / first:.2f}"] if given.beside else []
        rows.append([method, *compared(method, other, timed, weighed), *foretold])
    heads = ["method", *(["s an item", "time ratio", "CPU ratio"] if timed else []), "MB", "MB ratio", "net ratio"]
    show([*heads, *(["7B, GiB", "7B ratio"] if given.beside else [])], rows)
    libraries = f"{median(weighed, 'before'):.0f} MB of Python and its libraries"
    print(f"Ratios are over {given.beside or 'plain'}; net leaves out the {libraries}.")


if __name__ == "__main__":
    main()
