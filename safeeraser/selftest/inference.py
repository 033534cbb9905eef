"""Answers: batched beside alone, as fast as they come, and what the commands do with an adapter.

What shares a batch may change a response by rounding alone, since a kernel may add up in another order for another
number of rows. So a response may part from its counterpart only where two tokens were as near as rounding can confuse.
How many part is reported and no fault: in bfloat16 and at 7B's depth 9 to 15 of 32 do.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.benchmark import Timer

from safeeraser.audit.relearn import Data, adapter_after, read_protocol, relearn
from safeeraser.benchmark.files import read_json_lines
from safeeraser.benchmark.records import read_records
from safeeraser.generation import Asked
from safeeraser.generation.sampling import Generation
from safeeraser.infer.engine import Engine
from safeeraser.infer.options import Options
from safeeraser.infer.requests import Selection, build_requests
from safeeraser.infer.run import infer
from safeeraser.model.merge import load_merged, merge
from safeeraser.model.stored import load_adapted
from safeeraser.model.vlm import VLM
from safeeraser.processes import Processes
from safeeraser.selftest.engines import NO_FORGET, train
from safeeraser.selftest.material import Bench
from safeeraser.selftest.report import Figure, figure
from safeeraser.selftest.training import answer, confused, off_by
from safeeraser.unlearn.save_dir import TRAIN_LOG

TOKENS = 16
ATTACKS = ("jpeg", "in_context_1", "clipped", "refusal_direction")  # on the picture, by example, the adapter, the model
HALF = Selection(("decoupled", "retain"), skip=1)  # of the records, the long one among them


def load(model_path: str, adapter: Path | None = None) -> VLM:
    """A model as ckpt_infer.py has it."""
    return load_merged(model_path, adapter, dtype="auto", lora_alpha=1, device=Processes().device)


def inference(bench: Bench) -> Iterator[Figure]:
    """Requests seven at a time, which does not divide them, beside one at a time: rows of other lengths, gaps, rows
    that end and are replaced; and the same in steps of fixed shapes, which a GPU records as a CUDA graph."""
    vlm, requests = load(bench.model), build_requests(read_records(bench.data), Selection(HALF.views, limit=1))
    most, ids = 6 * off_by(vlm.model.dtype, bench.size), vlm.preprocessor.tokenizer.convert_tokens_to_ids
    alone = {each.key: answer(vlm, Asked(each.picture, each.question, each.key), TOKENS) for each in requests}
    for fixed, name in ((False, "batched"), (True, "with fixed steps")):
        engine = Engine(vlm, Generation(greedy=True, max_new_tokens=TOKENS), 7, fixed=fixed)
        said = (each for ended in engine.answer(requests) for each in ended)
        gaps = [alone[request.key].gap(ids(str(text).split())) for request, text in said]
        yield figure(f"{name}: the same, of {len(requests)} responses", gaps.count(None))
        yield figure(f"{name}: how near were tokens where others part", max(gap or 0.0 for gap in gaps), most=most)


def speed(bench: Bench) -> Iterator[Figure]:
    """What the machine does at most, and how fast it answers: step by step, and in steps of fixed shapes.

    How fast it trains forget.py says itself, in run.json. Where answering takes much longer than a copy of the language
    model's weights a token, starting kernels takes the time, and fixed steps are to help.
    """
    vlm, gpu = load(bench.model), torch.cuda.is_available()
    side, size = (8192, 2**30) if gpu else (1024, 2**27)  # rows and columns; bytes: beyond the caches
    one = torch.randn(side, side).to(vlm.model.device, vlm.model.dtype)
    seconds = Timer("one @ one", globals={"one": one}).blocked_autorange().median
    name = str(one.dtype).removeprefix("torch.")
    yield figure(f"product of matrices in {name}", 2 * side**3 / seconds / 1e9, unit="GFLOP/s")
    one = torch.zeros(size, dtype=torch.uint8, device=one.device)
    seconds = Timer("two.copy_(one)", globals={"one": one, "two": torch.ones_like(one)}).blocked_autorange().median
    yield figure("copy, reading and writing", 2 * size / seconds / 1e9, unit="GB/s")
    vlm.ends.clear()  # of one length all, so that it is known how many tokens there are
    requests = build_requests(read_records(bench.data))[:32]
    for fixed, how in ((False, "plain"), (True, "fixed steps")):
        engine = Engine(vlm, Generation(max_new_tokens=64), 32, fixed=fixed)
        timer = Timer("list(engine.answer(requests))", globals={"engine": engine, "requests": requests})
        rate = 32 * 64 / timer.timeit(1).median  # after two to warm up; prompts and a graph's recording are in it
        yield figure(f"inference, 32 responses at a time, {how}", rate, unit="tokens/s")


def commands(bench: Bench) -> Iterator[Figure]:
    """What the commands do with an adapter. Of a random model an answer means nothing: all are to come, and the merged
    model is to give the adapter's."""
    if note := NO_FORGET or ("made on a small model: --size tiny, or --family" if bench.size in ("1b", "7b") else ""):
        yield figure("answers", None, note=note)
        return
    adapter, folder, merged = train(bench, "alone_plain"), bench.folder / "commands", bench.folder / "merged"
    plain = Options(
        eval_file=bench.data,
        output_file=folder,
        model_path=bench.model,
        checkpoint_path=adapter,
        selection=HALF,
        generation=Generation(max_new_tokens=TOKENS),
        batch_size=None,
    )
    for attack in (None, *ATTACKS):
        missing = infer(replace(plain, attack=attack, output_file=folder / f"{attack}.json")).missing
        name = f"--attack {attack}" if attack else "drawn, --batch_size auto"
        yield figure(f"{name}: responses missing", len(missing), most=0)
    merge(adapter, merged, model_path=bench.model)
    asked = [Asked(each.picture, each.question) for each in build_requests(read_records(bench.data), HALF)[:4]]
    both = load(bench.model, adapter), load(str(merged))
    texts = ([answer(vlm, each) for each in asked] for vlm in both)
    most = 6 * off_by(both[0].model.dtype, bench.size)
    yield figure("merged: how near were tokens taken for the adapter's", confused(*texts), most=most)
    protocol = read_protocol().model_copy(update={"items": 2, "steps": (1, 2)})
    relearned, data = bench.folder / "relearned", Data(bench.data, bench.data, 1)
    relearn(protocol.settings(str(merged), relearned, "retain", 1, data))
    step = adapter_after(relearned, 2)
    load_adapted(both[1].model, step)
    first, second = (row["loss"] for row in read_json_lines(step.parent / TRAIN_LOG))
    yield figure("relearning: loss of the second step over the first's", second / first, least=0)
