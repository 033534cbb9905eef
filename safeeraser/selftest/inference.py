"""Check answers: batched compared with one at a time, their speed, and the commands that take an adapter.

The rest of a batch may change a response only by rounding, because a kernel may sum in another order for another number
of rows. So a response may differ from its counterpart only where two tokens' logits are close enough for rounding to
swap them. The number that differ is reported and is no failure: in bfloat16, at 7B's depth, it is 9 to 15 of 32.
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
ATTACKS = ("jpeg", "in_context_1", "clipped", "refusal_direction")  # they change picture, prompt, adapter and model
HALF = Selection(("decoupled", "retain"), skip=1)  # half of the records, the long one included


def load(model_path: str, adapter: Path | None = None) -> VLM:
    """Load a model as ckpt_infer.py does."""
    return load_merged(model_path, adapter, dtype="auto", lora_alpha=1, device=Processes().device)


def inference(bench: Bench) -> Iterator[Figure]:
    """Compare requests answered seven at a time (no divisor of their number) with one at a time: rows of other lengths,
    gaps, rows that end and are replaced. Then the same with fixed shapes, which a GPU records as a CUDA graph."""
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
    """Measure the machine's peak rates, and how fast it answers in plain steps and in steps of fixed shapes.

    The speed of training is in forget.py's run.json. If a token takes much longer than a copy of the language model's
    weights, launching kernels takes the time, and fixed steps should help.
    """
    vlm, gpu = load(bench.model), torch.cuda.is_available()
    side, size = (8192, 2**30) if gpu else (1024, 2**27)  # rows and columns; bytes, more than caches hold
    one = torch.randn(side, side).to(vlm.model.device, vlm.model.dtype)
    seconds = Timer("one @ one", globals={"one": one}).blocked_autorange().median
    name = str(one.dtype).removeprefix("torch.")
    yield figure(f"product of matrices in {name}", 2 * side**3 / seconds / 1e9, unit="GFLOP/s")
    one = torch.zeros(size, dtype=torch.uint8, device=one.device)
    seconds = Timer("two.copy_(one)", globals={"one": one, "two": torch.ones_like(one)}).blocked_autorange().median
    yield figure("copy, reading and writing", 2 * size / seconds / 1e9, unit="GB/s")
    vlm.ends.clear()  # no response ends early, so the number of tokens is known
    requests = build_requests(read_records(bench.data))[:32]
    for fixed, how in ((False, "plain"), (True, "fixed steps")):
        engine = Engine(vlm, Generation(max_new_tokens=64), 32, fixed=fixed)
        timer = Timer("list(engine.answer(requests))", globals={"engine": engine, "requests": requests})
        rate = 32 * 64 / timer.timeit(1).median  # after two warm-up runs; includes prompts and a graph's recording
        yield figure(f"inference, 32 responses at a time, {how}", rate, unit="tokens/s")


def commands(bench: Bench) -> Iterator[Figure]:
    """Run the commands that take an adapter. A random model's answers mean nothing, so no answer may be missing, the
    merged model must answer as the adapter does, and relearning must run."""
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
