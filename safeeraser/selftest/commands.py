"""What the commands do with an adapter: answers drawn in batches whose size is found, attacks, merging, relearning.

The models are small or random, so that an answer means nothing: all are to come, whatever else they depend on, and the
merged model is to give the adapter's, but where two tokens are as near as rounding can confuse (see `inference`).
"""

from collections.abc import Iterator
from dataclasses import replace

from safeeraser.audit.relearn import Data, adapter_after, read_protocol, relearn
from safeeraser.benchmark.files import read_json_lines
from safeeraser.benchmark.records import read_records
from safeeraser.generation import Asked
from safeeraser.generation.sampling import Generation
from safeeraser.infer.options import Options
from safeeraser.infer.requests import Selection, build_requests
from safeeraser.infer.run import infer
from safeeraser.model.merge import load_merged, merge
from safeeraser.model.stored import load_adapted
from safeeraser.processes import Processes
from safeeraser.selftest.engines import alone
from safeeraser.selftest.inference import TOKENS, VIEWS
from safeeraser.selftest.material import Bench
from safeeraser.selftest.precision import answer, confused, off_by
from safeeraser.selftest.result import Figure, Skip
from safeeraser.unlearn.record import TRAIN_LOG

# One of each kind: on the picture, by example, on the adapter, on the model.
ATTACKS = ("jpeg", "in_context_1", "clipped", "refusal_direction")
QUESTIONS = 4


def check(bench: Bench) -> Iterator[Figure]:
    """Answers, a merged model, a training on it."""
    if bench.size in ("1b", "7b"):
        raise Skip("made on a small model: --size tiny, or --family")
    adapter, folder = alone(bench), bench.folder / "commands"
    plain = Options(
        eval_file=bench.data,
        output_file=folder / "sampled.json",
        model_path=str(bench.model),
        checkpoint_path=adapter,
        selection=Selection(VIEWS, skip=2),
        generation=Generation(max_new_tokens=TOKENS),
        batch_size=None,
    )
    yield Figure("drawn, --batch_size auto: responses missing", len(infer(plain).missing), most=0)
    for attack in ATTACKS:
        missing = infer(replace(plain, attack=attack, output_file=folder / f"{attack}.json")).missing
        yield Figure(f"--attack {attack}: responses missing", len(missing), most=0)
    merged = folder / "merged"
    merge(adapter, merged, model_path=str(bench.model))
    asked = [Asked(each.picture, each.question) for each in build_requests(read_records(bench.data), plain.selection)]
    texts = []
    for path, on_it in ((bench.model, adapter), (merged, None)):
        vlm = load_merged(str(path), on_it, dtype="auto", lora_alpha=1, device=Processes().device)
        texts.append([answer(vlm, one) for one in asked[:QUESTIONS]])
    most = 6 * off_by(vlm.model.dtype, bench.size)
    yield Figure("merged: how near were tokens taken for the adapter's", confused(*texts), most=most)
    protocol = read_protocol().model_copy(update={"items": 2, "steps": (1, 2)})
    relearn(str(merged), folder / "relearned", protocol, "retain", 1, Data(bench.data, bench.data, 1))
    step = adapter_after(folder / "relearned", 2)
    load_adapted(load_merged(str(merged), None, dtype="auto", lora_alpha=1).model, step)
    first, second = (row["loss"] for row in read_json_lines(step.parent / TRAIN_LOG))
    yield Figure("relearning: loss of the second step over the first's", second / first, least=0)
