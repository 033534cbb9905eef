"""Speed and memory of unlearning, beside a plain implementation of the same losses, or of each method beside another.

  python benchmarks/training.py [--methods gd klpd] [--repeats 3] [--steps 2] [--threads N] [--json OUT]
  python benchmarks/training.py --beside gd [--methods npo npo+pd "npo LoRA.r=8"] [--repeats 3] ...

Both sides train the same LLaVA of 100 million random parameters on the CPU, in float32: the same LoRA and projector,
items, optimizer and accumulation, under the `official` recipe.

ours   the project's own loop: all views of an item in one forward, the vocabulary head only at positions that a term
       reads, and the adapter switched off for the reference of KL
plain  what one writes at first: a forward for each term, logits at every position, and a second copy of the model for
       the reference of KL

First both must give the same terms and the same gradients on the same item, or nothing is measured. Then each run has a
process of its own, ours and plain by turns, and medians are shown.

With --beside only ours is run: every method, or those of --methods, over the one that is named. Each of these is a
method's name, with PD too (npo+pd), and what else `forget.py` is told behind it, in one word for the shell. Last stands
what the dry run foretells of it for LLaVA-1.5-7B in bfloat16, of which nothing is run. `--repeats 0` leaves time out.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from argparse import SUPPRESS, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from sides import ACCUMULATION, SIDES, Sizes, build_entries, compare, settings, train

from safeeraser.arguments import Arguments, one_of
from safeeraser.benchmark.files import write_json
from safeeraser.benchmark.methods import pages
from safeeraser.errors import BadInput, command
from safeeraser.selftest.material import architecture
from safeeraser.unlearn.engine import Engine
from safeeraser.unlearn.preflight.dry_run import largest_step, outline
from safeeraser.unlearn.preflight.memory import Setup, memory

METHODS = ("ga", "gd", "kl", "po", "gapd", "gdpd", "klpd", "popd")  # that the plain implementation knows
TIME_AIM, MEMORY_AIMS, KL_AIM = 1.0, {"klpd": 0.75, "gdpd": 0.9}, 1.15
# Of --beside gd: the most memory, and time with a step over that of the same row without it.
BESIDE, STEPS = {"npo": 1.15, "dpo": 1.15, "rmu": 1.0}, {"step=sam": 2.1}
# Left alone, glibc keeps much of what is freed, in amounts that depend on the order of events. Where memory is measured
# a tensor of 128 kB or more goes back to the system when it is freed; this costs time, so that time is measured apart.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**17), "MALLOC_TRIM_THRESHOLD_": str(2**17)}
COLUMNS = ("items/s ours", "items/s plain", "time ratio", "CPU ratio", "MB ours", "MB plain", "MB ratio", "net ratio")
TIMES, MEMORIES = ("s an item", "time ratio", "CPU ratio"), ("MB", "MB ratio", "net ratio", "7B, GiB", "7B ratio")


@dataclass(frozen=True)
class Run:
    """A run: wall and CPU seconds an item, and the MB that its process held before it built the model and at most."""

    method: str
    side: str
    seconds: float
    cpu: float
    before: float
    peak: float

    @property
    def net(self) -> float:
        """What model and training took: the peak less what Python and its libraries held before."""
        return self.peak - self.before


def held(key: str) -> float:
    """MB of memory that this process holds (`VmRSS`) or has held at most (`VmHWM`)."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024 / 1e6


def measure(side: str, method: str, steps: int) -> Run:
    """Train in this process: one optimizer step to warm up, then `steps` against the clock."""
    with tempfile.TemporaryDirectory() as folder:
        read, sizes = settings(method, Path(folder)), Sizes()
        items = read.batch_size * read.gradient_accumulation_steps  # an optimizer step
        entries = build_entries(read.method, sizes, (1 + steps) * items)
        before = held("VmRSS")
        (start, cpu_start), *_, (end, cpu_end) = train(side, entries, read, sizes)
    items *= steps
    return Run(method, side, (end - start) / items, (cpu_end - cpu_start) / items, before, held("VmHWM"))


def do(job: list[str], steps: int) -> None:
    """Do a job of `fresh` and print what comes of it as JSON: `check METHOD...`, or `ours METHOD`, `plain METHOD`."""
    if job[0] == "check":
        print(json.dumps({method: compare(method, Sizes()) for method in job[1:]}))
    else:
        print(json.dumps(asdict(measure(*job, steps))))


def fresh(job: list[str], *, steps: int, threads: int, malloc: dict[str, str] | None = None) -> dict[str, Any]:
    """Have this script do a job in a process of its own."""
    environment = os.environ | (malloc or {}) | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, __file__, "--job", *job, "--steps", str(steps), "--threads", str(threads)]
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        how = "was killed" if done.returncode < 0 else "failed, for the reason above"
        sys.exit(f"error: the job '{' '.join(job)}' {how} (exit code {done.returncode})")
    return json.loads(done.stdout.splitlines()[-1])


def rounds(count: int, methods: list[str], sides: Sequence[str], what: str, **how: Any) -> list[Run]:
    """`count` runs of each side of each method, by turns, so that what else the machine does meets all alike."""
    runs = []
    for number, method, side in product(range(count), methods, sides):
        run = Run(**fresh([side, method], **how))
        figures = f"{run.seconds:.2f} s an item, {run.cpu:.2f} s of CPU, {run.peak:.0f} MB"
        print(f"{what} {number + 1}/{count}, {method}, {side}: {figures}", file=sys.stderr)
        runs.append(run)
    return runs


def median(runs: list[Run], figure: str, method: str, side: str) -> float:
    """The median of a figure over the runs of one side of one method."""
    return statistics.median(getattr(run, figure) for run in runs if (run.method, run.side) == (method, side))


def ratio(runs: list[Run], figure: str, method: str) -> float:
    """Ours over plain."""
    return median(runs, figure, method, "ours") / median(runs, figure, method, "plain")


def over(runs: list[Run], figure: str, method: str, other: str) -> float:
    """Ours of a method over ours of another."""
    return median(runs, figure, method, "ours") / median(runs, figure, other, "ours")


def show(methods: list[str], timed: list[Run], weighed: list[Run]) -> None:
    """Print the table."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("method")
    for title in COLUMNS:
        table.add_column(title, justify="right", min_width=5, max_width=7)
    for method in methods:
        table.add_row(
            method,
            *(f"{1 / median(timed, 'seconds', method, side):.2f}" for side in SIDES),
            *(f"{ratio(timed, figure, method):.2f}" for figure in ("seconds", "cpu")),
            *(f"{median(weighed, 'peak', method, side):.0f}" for side in SIDES),
            *(f"{ratio(weighed, figure, method):.2f}" for figure in ("peak", "net")),
        )
    Console().print(table)


def conclude(methods: list[str], timed: list[Run], weighed: list[Run]) -> Iterator[str]:
    """The figures beside their aims, and how to read them."""
    times = [ratio(timed, "seconds", method) for method in methods]
    yield f"time, ours over plain: {min(times):.2f} to {max(times):.2f} (aim: at most {TIME_AIM:.2f})"
    for method, aim in MEMORY_AIMS.items():
        if method in methods:
            gross, net = (ratio(weighed, figure, method) for figure in ("peak", "net"))
            yield f"memory of {method}, ours over plain: {gross:.2f}, net {net:.2f} (aim: at most {aim:.2f})"
    for kl, gd in (("kl", "gd"), ("klpd", "gdpd")):
        if kl in methods and gd in methods:
            gross, net = (over(weighed, figure, kl, gd) for figure in ("peak", "net"))
            yield f"memory of ours, {kl} over {gd}: {gross:.2f}, net {net:.2f} (aim: at most {KL_AIM:.2f})"
    alone = [ratio(timed, "peak", method) for method in methods]
    before = statistics.median(run.before for run in weighed)
    yield f"Memory is the most that a process held; net, less the {before:.0f} MB of Python and its libraries."
    yield (
        "It was measured with a malloc that gives back what is freed; with malloc left alone, as in the timed runs, "
        f"ours takes {min(alone):.2f} to {max(alone):.2f} of plain."
    )


def foretold(row: str) -> float:
    """GiB that the dry run foretells of training LLaVA-1.5-7B in bfloat16, its longest conversations, on one GPU."""
    real = ("model_family=llava-1.5-7b", "dtype=bfloat16", "gpu_memory=80")
    read = settings(row, Path("none"), *real)
    config = architecture("7b")
    model = outline(read, config, torch.bfloat16)
    side, patch = config.vision_config.image_size, config.vision_config.patch_size
    row = (read.max_length - 1 + (side // patch) ** 2, read.max_length)  # as long as may be, as if it were all answer
    items = [dict.fromkeys(read.method.views, row)] * read.batch_size
    step = largest_step(read, items, {"pixel_values": torch.zeros(1, 3, side, side)})
    parts = memory(model, Setup(read, Engine(), torch.bfloat16), step)
    return sum(part.device for part in parts) / 2**30


def show_beside(rows: list[str], other: str, timed: list[Run], weighed: list[Run]) -> None:
    """Print the table of every row over the `other`."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("method", overflow="fold")
    for title in (*(TIMES if timed else ()), *MEMORIES):
        table.add_column(title, justify="right", min_width=5, max_width=7)
    real = {row: foretold(row) for row in rows}
    for row in rows:
        cells = []
        if timed:
            cells += [f"{median(timed, 'seconds', row, 'ours'):.2f}"]
            cells += [f"{over(timed, figure, row, other):.2f}" for figure in ("seconds", "cpu")]
        cells += [f"{median(weighed, 'peak', row, 'ours'):.0f}"]
        cells += [f"{over(weighed, figure, row, other):.2f}" for figure in ("peak", "net")]
        table.add_row(row, *cells, f"{real[row]:.1f}", f"{real[row] / real[other]:.2f}")
    Console().print(table)


def conclude_beside(rows: list[str], other: str, timed: list[Run], weighed: list[Run]) -> Iterator[str]:
    """The figures beside their aims."""
    for row, aim in BESIDE.items():
        if other == "gd" and row in rows:
            gross, net = (over(weighed, figure, row, other) for figure in ("peak", "net"))
            yield f"memory of {row} over {other}: {gross:.2f}, net {net:.2f} (aim: at most {aim:.2f})"
    for (step, aim), row in product(STEPS.items(), rows):
        without = " ".join(word for word in row.split() if word != step)
        if timed and without != row and without in rows:
            yield f"time of {row} over {without}: {over(timed, 'seconds', row, without):.2f} (aim: at most {aim:.2f})"
    yield (
        f"Ratios are over {other}; net leaves out the {statistics.median(run.before for run in weighed):.0f} MB of "
        + ("Python and its libraries.")
    )


def describe(threads: int) -> dict[str, Any]:
    """The machine, and what runs on it."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {"cores": os.cpu_count(), "threads": threads, **versions, "transformers": transformers.__version__}


def beside_plain(given: Namespace) -> tuple[list[Run], list[Run]]:
    """Measure both sides of each method and print the table; returns the runs that were timed, and those weighed."""
    methods, threads = given.methods, given.threads
    fresh(["check", *methods], steps=1, threads=threads)
    print("ours and plain give the same terms and gradients", file=sys.stderr)
    weighed = rounds(1, methods, SIDES, "memory", steps=1, threads=threads, malloc=GIVE_BACK)
    timed = rounds(given.repeats, methods, SIDES, "time", steps=given.steps, threads=threads)
    show(methods, timed, weighed)
    print(*conclude(methods, timed, weighed), sep="\n")
    return timed, weighed


def beside_another(given: Namespace) -> tuple[list[Run], list[Run]]:
    """The same of ours alone, of each method and of the one that all are set beside."""
    rows, threads = given.methods, given.threads
    weighed = rounds(1, rows, ("ours",), "memory", steps=1, threads=threads, malloc=GIVE_BACK)
    timed = rounds(given.repeats, rows, ("ours",), "time", steps=given.steps, threads=threads)
    show_beside(rows, given.beside, timed, weighed)
    print(*conclude_beside(rows, given.beside, timed, weighed), sep="\n")
    return timed, weighed


@command
def main() -> None:
    """Check, measure, print."""
    parser = Arguments(prog="python benchmarks/training.py", description=__doc__)
    parser.add_argument("--methods", nargs="+", help="default: all")
    parser.add_argument("--beside", metavar="METHOD", help="set ours beside ours of this method")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each side of each method (default: 3)")
    parser.add_argument("--steps", type=int, default=2, help="optimizer steps timed in each run (default: 2)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: one a core")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures of every run to this file")
    parser.add_argument("--job", nargs="+", help=SUPPRESS)
    given = parser.parse_args()
    if min(given.repeats + bool(given.beside), given.steps, given.threads) < 1:
        raise BadInput("--repeats, --steps and --threads are numbers from 1 up (with --beside --repeats 0 too)")
    torch.set_num_threads(given.threads)
    if given.job:
        return do(given.job, given.steps)
    if given.beside:
        given.methods = list(dict.fromkeys([given.beside, *(given.methods or pages())]))
        for row in given.methods:
            settings(row, Path("none"))  # refuses what cannot be run, before anything is
    else:
        given.methods = [one_of("method", METHODS)(name) for name in given.methods or METHODS]
    machine, sizes = describe(given.threads), asdict(Sizes())
    for facts in (machine, sizes):
        print(", ".join(f"{key} {value}" for key, value in facts.items()))
    timed, weighed = (beside_another if given.beside else beside_plain)(given)
    if given.json:
        runs = {"timed": [asdict(run) for run in timed], "weighed": [asdict(run) for run in weighed]}
        write_json(given.json, {"machine": machine, "sizes": sizes, "accumulation": ACCUMULATION, **runs})


if __name__ == "__main__":
    main()
