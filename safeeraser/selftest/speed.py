"""What this machine does at most, a product of matrices and a copy, and how fast it answers: step by step, and fixed.

How fast it trains forget.py says itself, as `items_per_second` in run.json. A token of inference reads all of the
language model's weights, and each row's keys and values; where answering takes much longer than a copy of as much,
starting kernels is what takes the time, and steps of fixed shapes, which a GPU replays as a CUDA graph, are to help.
"""

from collections.abc import Iterator

import torch
from torch.utils.benchmark import Timer

from safeeraser.benchmark.records import read_records
from safeeraser.generation.sampling import Generation
from safeeraser.infer.engine import Engine
from safeeraser.infer.requests import build_requests
from safeeraser.model.load import choose_dtype
from safeeraser.model.merge import load_merged
from safeeraser.model.vlm import VLM
from safeeraser.processes import Processes
from safeeraser.selftest.material import Bench
from safeeraser.selftest.result import Figure

ON_GPU, ON_CPU = (8192, 2**30), (1024, 2**27)  # rows and columns of the product, bytes of the copy: beyond the caches
ROWS, TOKENS = 32, 64


def check(bench: Bench) -> Iterator[Figure]:
    """Peaks, inference."""
    dtype, device = choose_dtype("auto"), Processes().device
    name = str(dtype).removeprefix("torch.")
    yield Figure(f"product of matrices in {name}", product_rate(device, dtype) / 1e9, unit="GFLOP/s")
    yield Figure("copy, reading and writing", copy_rate(device) / 1e9, unit="GB/s")
    vlm = load_merged(str(bench.model), None, dtype="auto", lora_alpha=1, device=device)
    vlm.ends.clear()  # of one length all, so that it is known how many tokens there are
    for fixed, how in ((False, "plain"), (True, "fixed steps")):
        yield Figure(f"inference, {ROWS} responses at a time, {how}", rate(vlm, bench, fixed), unit="tokens/s")


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a product of square matrices, 2 n^3 each."""
    side = (ON_GPU if device.type == "cuda" else ON_CPU)[0]
    one, two = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / Timer("one @ two", globals={"one": one, "two": two}).blocked_autorange().median


def copy_rate(device: torch.device) -> float:
    """Bytes a second that a copy reads and writes."""
    one = torch.zeros((ON_GPU if device.type == "cuda" else ON_CPU)[1], dtype=torch.uint8, device=device)
    copied = {"one": one, "two": torch.ones_like(one)}
    return 2 * one.nbytes / Timer("two.copy_(one)", globals=copied).blocked_autorange().median


def rate(vlm: VLM, bench: Bench, fixed: bool) -> float:
    """Tokens a second, with prompts and a graph's recording within the clock."""
    requests = build_requests(read_records(bench.data))[:ROWS]
    engine = Engine(vlm, Generation(max_new_tokens=TOKENS), ROWS, fixed=fixed)
    timer = Timer("list(engine.answer(requests))", globals={"engine": engine, "requests": requests})
    return len(requests) * TOKENS / timer.timeit(1).median  # after two to warm up
