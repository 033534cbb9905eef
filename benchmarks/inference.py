"""Speed of inference beside a plain loop: prints a table by batch size.

  python benchmarks/inference.py [--data dataset/mini] [--batch_sizes 1 8 64] [--repeats 3] [--threads N] [--json OUT]
  python benchmarks/inference.py --family qwen3_vl

Both sample a response to every request, on the CPU, in float32, from the untouched model: of the mini benchmark's val
split from its base model, or from a family's small random model in tests/data/families (or a folder like it), with 16
answers a picture.

ours   the project's own engine, as ckpt_infer.py runs it, by the decoder that the family's page names
plain  what one writes at first, and what the release does: one prompt, one sample at a time, its picture opened and
       encoded each time, by transformers' `generate`, on the same preprocessor

First both must answer alike, greedily, or nothing is measured. Then ours at each batch size and plain run by turns, and
medians are shown; pictures and prompts are prepared within the time on both sides. The processor's time is shown too:
where its ratio differs much from the clock's, the machine was busy with something else.
"""

import os
import platform
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import transformers
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from safeeraser.arguments import Arguments, count
from safeeraser.benchmark.files import write_json
from safeeraser.benchmark.pictures import open_picture
from safeeraser.benchmark.records import read_records
from safeeraser.errors import BadInput, command
from safeeraser.generation.sampling import Generation
from safeeraser.infer.engine import Engine
from safeeraser.infer.requests import Request, Selection, build_requests
from safeeraser.model.merge import load_merged
from safeeraser.model.turns import Turn
from safeeraser.model.vlm import VLM

FAMILIES = Path(__file__).resolve().parents[1] / "tests" / "data" / "families"
AIM, FAMILY_AIM = 15.0, 5.0  # times as fast as plain
FAMILY_TOKENS = 32  # a response at most; a random model seldom ends one
COMPARED = 60  # requests that both sides answer greedily before anything is measured


@dataclass(frozen=True)
class Run:
    """One pass over the requests: responses a second, by the clock and by the processor's time."""

    side: str
    rate: float
    cpu_rate: float


class Plain:
    """The plain loop, in one place so that nobody need guess what was compared."""

    def __init__(self, vlm: VLM, generation: Generation) -> None:
        self.vlm = vlm
        sampling = {"do_sample": True, "temperature": generation.temperature, "top_p": generation.top_p, "top_k": 0}
        self.how = {"do_sample": False} if generation.greedy else sampling
        self.how["max_new_tokens"] = generation.max_new_tokens

    @torch.no_grad()
    def answer(self, requests: list[Request]) -> dict[str, str]:
        """The responses by their requests' keys."""
        responses = {}
        for request in requests:
            batch = self.vlm.join([self.vlm.encode(Turn(open_picture(request.picture), request.question))])
            output = self.vlm.model.generate(**batch, **self.how)
            said = output[0, batch["input_ids"].shape[1] :]
            responses[request.key] = self.vlm.preprocessor.tokenizer.decode(said, skip_special_tokens=True).strip()
        return responses


def ours(vlm: VLM, generation: Generation, batch_size: int, requests: list[Request]) -> dict[str, str]:
    """The responses by their requests' keys."""
    engine = Engine(vlm, generation, batch_size)
    return {request.key: text for ended in engine.answer(requests) for request, text in ended}


def check(vlm: VLM, generation: Generation, requests: list[Request]) -> None:
    """Ends the program unless both sides answer alike."""
    some, greedy = requests[:: max(1, len(requests) // COMPARED)], replace(generation, greedy=True)
    if ours(vlm, greedy, 16, some) != Plain(vlm, greedy).answer(some):
        sys.exit("error: ours and plain do not answer alike, so there is nothing to compare")
    print(f"ours and plain give the same {len(some)} greedy responses", file=sys.stderr)


def measure(side: str, answer: Callable[[], dict[str, str]]) -> Run:
    """Time one pass."""
    began, cpu = time.perf_counter(), time.process_time()
    responses = answer()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    run = Run(side, len(responses) / seconds, len(responses) / cpu_seconds)
    print(f"{side}: {len(responses)} responses in {seconds:.1f} s", file=sys.stderr)
    return run


def show(runs: list[Run]) -> float:
    """Print the table; returns the largest ratio by the clock."""

    def median(side: str, figure: str) -> float:
        return statistics.median(getattr(run, figure) for run in runs if run.side == side)

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for title in ("responses/s", "times plain", "by CPU time"):
        table.add_column(title, justify="right")
    best = 0.0
    for side in dict.fromkeys(run.side for run in runs):
        ratios = [median(side, figure) / median("plain", figure) for figure in ("rate", "cpu_rate")]
        table.add_row(side, f"{median(side, 'rate'):.1f}", *(f"{ratio:.1f}" for ratio in ratios))
        best = max(best, ratios[0])
    Console().print(table)
    return best


def material(given: Namespace) -> tuple[str, list[Request], Generation, float]:
    """Whose answers, the requests, how they are drawn, and how many times as fast as plain they should come."""
    if not given.family:
        requests = build_requests(read_records(given.data / "all_val.json"))
        return str(given.data / "base_model"), requests, Generation(), AIM
    folder = given.family if given.family.is_dir() else FAMILIES / given.family
    if not (folder / "model").is_dir():
        raise BadInput(f"--family {given.family}: neither a folder with a model in it nor one of tests/data/families")
    # Both views show the harmful picture: twelve answers and four.
    records = read_records(FAMILIES.parent / "conformance" / "dataset" / "all_val.json")
    requests = build_requests(records, Selection(("forget", "retain")))
    return str(folder / "model"), requests, Generation(max_new_tokens=FAMILY_TOKENS), FAMILY_AIM


@command
def main() -> None:
    """Check, measure, print."""
    parser = Arguments(prog="python benchmarks/inference.py", description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, default=Path("dataset/mini"), help="the mini benchmark (default: %(default)s)")
    add("--family", type=Path, metavar="F", help="instead: a family's small model, as qwen3_vl")
    add("--batch_sizes", type=count, nargs="+", default=[1, 8, 32, 64, 128, 256], help="(default: %(default)s)")
    add("--repeats", type=count, default=3, help="passes of each side (default: %(default)s)")
    add("--threads", type=count, default=len(os.sched_getaffinity(0)), help="(default: one a core)")
    add("--json", type=Path, metavar="OUT", help="write the figures of every pass to this file")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    transformers.logging.set_verbosity_error()
    model_path, requests, generation, aim = material(given)
    vlm = load_merged(model_path, None, dtype="float32", lora_alpha=1.0)
    vlm.model.eval()
    check(vlm, generation, requests)
    runs = []
    for _ in range(given.repeats):
        plain = Plain(vlm, generation)
        runs.append(measure("plain", lambda plain=plain: plain.answer(requests)))
        for size in given.batch_sizes:
            answer = lambda size=size: ours(vlm, generation, size, requests)  # noqa: E731
            runs.append(measure(f"ours, --batch_size {size}", answer))
    machine = {"cores": os.cpu_count(), "threads": given.threads, "python": platform.python_version()}
    machine |= {"torch": torch.__version__, "transformers": transformers.__version__, "responses": len(requests)}
    machine |= {"family": vlm.family.name, "decoder": vlm.family.decoder}
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    print(f"best: {show(runs):.1f} times plain (aim: at least {aim:.0f})")
    if given.json:
        write_json(given.json, {"machine": machine, "runs": [asdict(run) for run in runs]})


if __name__ == "__main__":
    main()
