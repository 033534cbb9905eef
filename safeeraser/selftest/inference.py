"""Batched inference beside one response at a time: the engine of ckpt_infer.py, greedy, in the dtype that it chooses.

Rows of other lengths, gaps, rows that end and are replaced: none may change a response. What is left is rounding, since
a kernel may add up in another order for another number of rows. So a response may part from its counterpart only
where two tokens were as near as `precision` says that rounding can confuse, 6 e of the logits' spread. How many part is
only told: in bfloat16 and at 7B's depth 9 to 15 of 32 do without any fault.

Steps of fixed shapes, which a GPU records as a CUDA graph, are held to the same.
"""

from collections.abc import Iterator
from typing import Any

import torch

from safeeraser.benchmark.records import read_records
from safeeraser.generation import Asked
from safeeraser.generation.sampling import Generation
from safeeraser.infer.engine import Engine
from safeeraser.infer.requests import Selection, build_requests
from safeeraser.model.merge import load_merged
from safeeraser.processes import Processes
from safeeraser.selftest.material import Bench
from safeeraser.selftest.precision import Text, answer, off_by
from safeeraser.selftest.result import Figure

TOKENS, BATCH = 16, 7  # of the requests, which it does not divide
VIEWS = ("decoupled", "retain")


def check(bench: Bench) -> Iterator[Figure]:
    """Each request both ways."""
    vlm = load_merged(str(bench.model), None, dtype="auto", lora_alpha=1, device=Processes().device)
    requests = build_requests(read_records(bench.data), Selection(VIEWS, limit=4))
    alone = {each.key: answer(vlm, Asked(each.picture, each.question, each.key), TOKENS) for each in requests}
    for fixed, name in ((False, "batched"), (True, "with fixed steps")):
        engine = Engine(vlm, Generation(greedy=True, max_new_tokens=TOKENS), BATCH, fixed=fixed)
        said = {request.key: str(text) for ended in engine.answer(requests) for request, text in ended}
        gaps = [parted(alone[key], text, vlm.preprocessor.tokenizer, sorted(vlm.ends)) for key, text in said.items()]
        yield Figure(f"{name}: the same, of {len(requests)} responses", gaps.count(None))
        worst = max(gap or 0.0 for gap in gaps)
        yield Figure(
            f"{name}: how near were tokens where others part", worst, most=6 * off_by(vlm.model.dtype, bench.size)
        )


def parted(text: Text, other: str, tokenizer: Any, ends: list[int]) -> float | None:
    """How far apart the logits of the first tokens were that differ, in standard deviations; None: none does.

    A token is a word. Where one response ends and the other goes on, any token that ends counts as said.
    """
    mine = text.tokens[:-1] if text.tokens[-1] in ends else text.tokens
    its = tokenizer.convert_tokens_to_ids(other.split())
    if mine == its:
        return None
    place = next((n for n, (a, b) in enumerate(zip(mine, its, strict=False)) if a != b), min(len(mine), len(its)))
    if place == len(text.tokens):
        return float("inf")  # it goes on beyond the limit
    logits = text.logits[place]
    said = logits[its[place]] if place < len(its) else logits[torch.tensor(ends)].max()
    return ((logits[text.tokens[place]] - said) / logits.std()).item()
