"""Compare the speed of inference with a plain loop: prints a table by batch size.

  python benchmarks/inference.py [--data dataset/mini] [--batch_sizes 1 8 64] [--repeats 3] [--threads N]
  python benchmarks/inference.py --family qwen3_vl

Both sample a response to every request on the CPU, in float32, from an untouched model: the mini benchmark's base model
on its val split, or a family's small random model in tests/data/families with 16 answers a picture. The plain loop runs
like the release: transformers' `generate` takes one prompt and one sample at a time, and each time the picture is
opened and encoded. Both must first give the same greedy answers. Then both run by turns, and medians are shown. If the
ratio by CPU time differs much from the ratio by the clock, the machine was busy with something else.
"""

import os
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import transformers
from shared import clock, describe, median, show

from safeeraser.arguments import Arguments, count
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
FAMILY_TOKENS = 32  # a response at most; a random model seldom ends one
COMPARED = 60  # requests that both sides answer greedily before anything is measured


@dataclass(frozen=True)
class Run:
    """One pass over the requests: responses a second, by the clock and by the processor's time."""

    side: str
    rate: float
    cpu_rate: float


@torch.no_grad()
def plain(vlm: VLM, generation: Generation, requests: list[Request]) -> dict[str, str]:
    """The plain loop's responses, by their requests' keys."""
    sampling = {"do_sample": True, "temperature": generation.temperature, "top_p": generation.top_p, "top_k": 0}
    how = {"do_sample": False} if generation.greedy else sampling
    responses = {}
    for request in requests:
        batch = vlm.join([vlm.encode(Turn(open_picture(request.picture), request.question))])
        output = vlm.model.generate(**batch, **how, max_new_tokens=generation.max_new_tokens)
        said = output[0, batch["input_ids"].shape[1] :]
        responses[request.key] = vlm.preprocessor.tokenizer.decode(said, skip_special_tokens=True).strip()
    return responses


def ours(vlm: VLM, generation: Generation, batch_size: int, requests: list[Request]) -> dict[str, str]:
    """The engine's responses, by their requests' keys."""
    engine = Engine(vlm, generation, batch_size)
    return {request.key: text for ended in engine.answer(requests) for request, text in ended}


def measure(side: str, answer: Callable[[], dict[str, str]]) -> Run:
    """Time one pass."""
    (began, cpu), responses, (ended, cpu_ended) = clock(), len(answer()), clock()
    print(f"{side}: {responses} responses in {ended - began:.1f} s", file=sys.stderr)
    return Run(side, responses / (ended - began), responses / (cpu_ended - cpu))


def material(given: Namespace) -> tuple[str, list[Request], Generation]:
    """The model's path, the requests, and how responses are drawn."""
    if not given.family:
        requests = build_requests(read_records(given.data / "all_val.json"))
        return str(given.data / "base_model"), requests, Generation()
    folder = FAMILIES / given.family
    if not (folder / "model").is_dir():
        raise BadInput(f"--family {given.family}: not in {FAMILIES}")
    # Both views show the harmful picture: twelve answers and four.
    records = read_records(FAMILIES.parent / "conformance" / "dataset" / "all_val.json")
    requests = build_requests(records, Selection(("forget", "retain")))
    return str(folder / "model"), requests, Generation(max_new_tokens=FAMILY_TOKENS)


@command
def main() -> None:
    """Check, measure, print."""
    parser = Arguments(prog="python benchmarks/inference.py", description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, default=Path("dataset/mini"), help="the mini benchmark (default: %(default)s)")
    add("--family", metavar="F", help="instead: a family's small model, as qwen3_vl, or a folder like it")
    add("--batch_sizes", type=count, nargs="+", default=[1, 8, 32, 64, 128, 256], help="(default: %(default)s)")
    add("--repeats", type=count, default=3, help="passes of each side (default: %(default)s)")
    add("--threads", type=count, default=len(os.sched_getaffinity(0)), help="(default: one a core)")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    transformers.logging.set_verbosity_error()
    model_path, requests, generation = material(given)
    vlm = load_merged(model_path, None, dtype="float32", lora_alpha=1.0)
    vlm.model.eval()
    some, greedy = requests[:: max(1, len(requests) // COMPARED)], replace(generation, greedy=True)
    if ours(vlm, greedy, 16, some) != plain(vlm, greedy, some):
        raise BadInput("ours and plain do not answer alike, so there is nothing to compare")
    print(f"ours and plain give the same {len(some)} greedy responses", file=sys.stderr)
    sides = {"plain": partial(plain, vlm, generation, requests)}
    sides |= {
        f"ours, --batch_size {size}": partial(ours, vlm, generation, size, requests) for size in given.batch_sizes
    }
    runs = [measure(side, answer) for _ in range(given.repeats) for side, answer in sides.items()]
    print(f"{describe(given.threads)}, {len(requests)} responses, {vlm.family.name}, {vlm.family.decoder} decoder")
    rows = []
    for side in sides:
        ratios = (median(runs, f, side=side) / median(runs, f, side="plain") for f in ("rate", "cpu_rate"))
        rows.append([side, f"{median(runs, 'rate', side=side):.1f}", *(f"{ratio:.1f}" for ratio in ratios)])
    show(["", "responses/s", "times plain", "by CPU time"], rows)


if __name__ == "__main__":
    main()
