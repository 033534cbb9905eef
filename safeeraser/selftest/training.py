"""Check precision, memory and four bits: a step of PO+PD in this process, built from the parts of forget.py.

Two steps from the same weights differ only in how products and sums are rounded. One result is off by at most u of its
size (2^-8 in bfloat16, 2^-24 in float32), n in a row by u sqrt(n) (Higham & Mary, 2019, doi 10.1137/18M1226312).
`off_by` and the bounds follow from this. The bounds are too wide to find one bad kernel in a deep model. So fused
attention, which rounds less often than eager attention, must also stay near the error of eager attention.
"""

import gc
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import accumulate
from tempfile import mkdtemp
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback
from transformers.utils import is_flash_attn_2_available

from safeeraser.benchmark.files import read_json_lines
from safeeraser.generation import DECODERS, Asked
from safeeraser.generation.sampling import Generation
from safeeraser.model.load import choose_dtype
from safeeraser.model.rounding import ROUNDINGS, round_weights
from safeeraser.model.vlm import VLM
from safeeraser.selftest.material import GIB, MODELS, Bench, architecture, estimate, lacks
from safeeraser.selftest.report import Figure, figure
from safeeraser.unlearn.config.engine import Engine
from safeeraser.unlearn.config.settings import Settings
from safeeraser.unlearn.config.trainer_arguments import training_arguments
from safeeraser.unlearn.job import prepare
from safeeraser.unlearn.load import load_dataset, load_trained
from safeeraser.unlearn.run import build_trainer
from safeeraser.unlearn.save_dir import TRAIN_LOG
from safeeraser.unlearn.trainer import UnlearnTrainer

# The step is so small that responses and gradient have the same weights. Gradients are not clipped, which would rescale
# a difference. There are eight items: of two, a single one may make one kernel twice as far off as another. The adapter
# does not start at PEFT's default, where one of its two matrices is zero, so that both get a gradient.
STILL = {"lr": 1e-30, "warmup_ratio": 0, "max_grad_norm": 0, "max_train_steps": 1, "gradient_accumulation_steps": 8}
STILL |= {"LoRA.init_lora_weights": False, "LoRA.alpha": 32, "gradient_checkpointing": True}


@dataclass
class Text:
    """A greedy response: its tokens without the end token; the logits of each choice, also of an end token, (choices,
    vocabulary); and the tokens that end a response."""

    tokens: list[int]
    logits: Tensor
    ends: list[int]

    def gap(self, tokens: list[int]) -> float | None:
        """The gap between the logits of the first two tokens that differ, in standard deviations; None: none differs.

        If `tokens` has ended where this response continues, its token is the likeliest end token.
        """
        if tokens == self.tokens:
            return None
        pairs = enumerate(zip(self.tokens, tokens, strict=False))
        place = next((n for n, (a, b) in pairs if a != b), min(len(self.tokens), len(tokens)))
        if place == len(self.logits):
            return math.inf  # the other response is longer than the limit
        logits = self.logits[place]
        said = logits[tokens[place]] if place < len(tokens) else logits[self.ends].max()
        return ((logits.max() - said) / logits.std()).item()


@dataclass
class Observed:
    """The results of a step and a few questions. `vectors`: the gradient, and the logits of the first tokens."""

    loss: float
    vectors: dict[str, Tensor]
    texts: list[Text]

    def apart(self, what: str, other: "Observed") -> float:
        """|a - b| / |b| of a vector."""
        return ((self.vectors[what] - other.vectors[what]).norm() / other.vectors[what].norm()).item()


def precision(bench: Bench) -> Iterator[Figure]:
    """Compare each available dtype and attention with float32 and eager attention."""
    settings = bench.settings("no", dtype="float32", attention="eager", **STILL)
    if note := lacks(settings):
        yield figure("float32", None, note=note)
        return
    reference, eager = (observe(bench, dtype=dtype, attention="eager") for dtype in ("float32", "bfloat16"))
    wide, narrow = (off_by(dtype, bench.size) for dtype in (torch.float32, torch.bfloat16))
    yield from compare("float32, sdpa", observe(bench, dtype="float32", attention="sdpa"), reference, wide)
    yield from compare("bfloat16, eager", eager, reference, narrow)
    yield from compare("bfloat16, sdpa", observe(bench, dtype="bfloat16", attention="sdpa"), reference, narrow, eager)
    if is_flash_attn_2_available() and settings.family.flash_attention:
        observed = observe(bench, dtype="bfloat16", attention="flash_attention_2")
        yield from compare("bfloat16, flash_attention_2", observed, reference, narrow, eager)
    else:
        note = "flash-attn is not installed, there is no GPU for it, or the family's mask is its own"
        yield figure("bfloat16, flash_attention_2", None, note=note)


def memory(bench: Bench) -> Iterator[Figure]:
    """Compare the dry run's estimate with the peak memory of two optimizer steps, as torch's allocator reports it on a
    GPU and the profiler on a CPU."""
    settings = bench.settings("memory", max_train_steps=2, gradient_accumulation_steps=2, save_model=False)
    parts, trainer, gpu = estimate(settings), load_trainer(settings), torch.cuda.is_available()
    gc.collect()  # else garbage that is freed meanwhile would be subtracted
    if gpu:
        torch.cuda.reset_peak_memory_stats()
        trainer.train()
        counted = torch.cuda.max_memory_allocated()
    else:
        weights = sum(parameter.nbytes for parameter in trainer.model.parameters())
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            trainer.train()
        events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
        changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
        counted = weights + max(accumulate(changes))
    yield figure("counted at the peak", counted / 2**20, unit="MiB")
    if gpu and counted < GIB:
        yield figure("estimated over counted", None, note="a model this small is lost beside cuBLAS's workspaces")
    else:
        estimated = sum(part.device + (0 if gpu else part.cpu) for part in parts)
        # The estimate should be a close upper bound. It may be 5% too low, because it leaves out the allocator's
        # rounding. An estimate that is more than a tenth too high keeps people from GPUs that would do.
        yield figure("estimated over counted", estimated / counted, least=0.95, most=1.1)


def nf4(bench: Bench) -> Iterator[Figure]:
    """Check bitsandbytes' packed weights: their error, and a step on them compared with the same weights, rounded.

    The widest gap between NF4's values (QLoRA, arXiv 2305.14314), -1 to -0.696, makes an error of 0.152 of the largest
    of a block's 64 weights. That weight is held in 8 bits, off by 2%. Packing in a wrong order gives 1 or more.
    """
    if find_spec("bitsandbytes") is None:
        yield figure("nf4", None, note="bitsandbytes is not installed")
        return
    dtype = choose_dtype("auto")
    weight = torch.randn(256, 512, generator=torch.Generator().manual_seed(0))
    weight = weight.to("cuda" if torch.cuda.is_available() else "cpu", dtype)
    wrong = (ROUNDINGS["nf4"](weight).float() - weight.float()).abs().view(-1, 64)
    error = (wrong / weight.float().abs().view(-1, 64).amax(1, keepdim=True)).max().item()
    yield figure("a weight's error over its block's largest", error, most=0.172)
    name = str(dtype).removeprefix("torch.")
    rounded = observe(bench, lambda model: round_weights(model, "nf4"), dtype=name, attention="sdpa")
    packed = observe(bench, dtype=name, attention="sdpa", quantization="nf4")
    yield from compare(f"nf4, {name}", packed, rounded, off_by(dtype, bench.size))


def off_by(dtype: torch.dtype, size: str) -> float:
    """The expected relative error of the last layer's output."""
    config = architecture(size)
    layers = config.text_config.num_hidden_layers + config.vision_config.num_hidden_layers - 1  # LLaVA skips the last
    additions = config.text_config.intermediate_size if dtype is torch.float32 else 1
    results = 8 * MODELS[size].get("rounded", 1)  # rounded results in a layer
    return torch.finfo(dtype).eps / 2 * math.sqrt(results * layers * additions)


def load_trainer(settings: Settings) -> UnlearnTrainer:
    """The trainer of a run in one process."""
    job, engine = prepare(settings), Engine()
    dataset, arguments = load_dataset(settings, job), training_arguments(settings, engine, job.schedule)
    return build_trainer(settings, arguments, load_trained(settings, engine, arguments), None, dataset)


class _KeepGradient(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        gradients = [weight.grad for _, weight in sorted(model.named_parameters()) if weight.grad is not None]
        self.gradient = torch.cat([gradient.float().cpu().flatten() for gradient in gradients])


def observe(bench: Bench, change: Callable[[Any], Any] = lambda model: None, **keys: Any) -> Observed:
    """The results of a step, and of questions asked one at a time. `change` is applied to the model first."""
    settings, keep = bench.settings(mkdtemp(dir=bench.folder), **STILL, **keys), _KeepGradient()
    trainer = load_trainer(settings)
    change(trainer.model)
    trainer.add_callback(keep)
    trainer.train()
    dataset = trainer.train_dataset
    vlm = VLM(trainer.accelerator.unwrap_model(trainer.model).eval(), dataset.preprocessor)
    items = [item for of_view in dataset.items.values() for item in of_view]
    with trainer.accelerator.autocast():
        texts = [answer(vlm, Asked(item.picture, item.question)) for item in items[:: len(items) // 4][:4]]
    del trainer, vlm
    clear_device_cache(garbage_collection=True)
    vectors = {"gradient": keep.gradient, "logits": torch.stack([text.logits[0] for text in texts])}
    return Observed(read_json_lines(settings.save_dir / TRAIN_LOG)[0]["loss"], vectors, texts)


def answer(vlm: VLM, asked: Asked, tokens: int = 12) -> Text:
    """The greedy response to a question that is asked alone."""
    kept = []

    class Kept(Generation):
        def draw(self, logits: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
            kept.append(logits[0].cpu())
            return super().draw(logits, seeds, positions)

    list(DECODERS[vlm.decoder](vlm, Kept(greedy=True, max_new_tokens=tokens), 1).answer([asked]))
    said = [int(logits.argmax()) for logits in kept]
    return Text(said[:-1] if said[-1] in vlm.ends else said, torch.stack(kept), sorted(vlm.ends))


def compare(
    name: str, observed: Observed, reference: Observed, off: float, beside: Observed | None = None
) -> Iterator[Figure]:
    """The distance of the observed results from the reference, in four figures.

    Args:
        off: the expected relative error of the last layer's output.
        beside: another kernel's results in the same dtype. 1.5 times their distance is allowed, and always 0.15 of the
            bound, because that kernel may be almost exact by chance.
    """
    spread = torch.cat([text.logits for text in reference.texts]).std(1).mean().item()
    yield figure(f"{name}: loss", abs(observed.loss - reference.loss), most=2 * off * spread)
    for what, most in (("gradient", 4 * off), ("logits", 2 * off)):
        if beside:
            most = min(most, max(1.5 * beside.apart(what, reference), 0.15 * most))
        yield figure(f"{name}: {what}", observed.apart(what, reference), most=most)
    yield figure(f"{name}: how near were confused tokens", confused(observed.texts, reference.texts), most=6 * off)


def confused(texts: list[Text], reference: list[Text]) -> float:
    """The widest gap between the logits of two tokens that differ; 0: no token differs."""
    return max(expected.gap(text.tokens) or 0.0 for text, expected in zip(texts, reference, strict=True))
