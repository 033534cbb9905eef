"""Precision, memory and four bits: a step of PO+PD in this process, of the parts that forget.py is put together of.

Where two steps have the same weights, all that differs is how products and sums are rounded: each by at most u of its
size, 2^-8 in bfloat16, 2^-24 in float32, and n in a row by u sqrt(n) (Higham & Mary, 2019, doi 10.1137/18M1226312).
From that `off_by` and the bounds follow. They are too wide for one bad kernel in a deep model: so fused attention,
which rounds less often than eager's, is held to that as well.
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
from safeeraser.unlearn.config.settings import Settings
from safeeraser.unlearn.config.trainer_arguments import training_arguments
from safeeraser.unlearn.engine import Engine
from safeeraser.unlearn.job import prepare
from safeeraser.unlearn.load import load_dataset, load_trained
from safeeraser.unlearn.run import build_trainer
from safeeraser.unlearn.save_dir import TRAIN_LOG
from safeeraser.unlearn.trainer import UnlearnTrainer

# Hardly a step, so that text and step are of the same weights; not clipped, which would rescale what differs; of eight
# items, since among two a single one may make one kernel twice as far off as another; and of an adapter that does
# something, with a gradient for both of its parts: as it begins, one of them is zero.
STILL = {"lr": 1e-30, "warmup_ratio": 0, "max_grad_norm": 0, "max_train_steps": 1, "gradient_accumulation_steps": 8}
STILL |= {"LoRA.init_lora_weights": False, "LoRA.alpha": 32, "gradient_checkpointing": True}


@dataclass
class Text:
    """A greedy response: its tokens without what ends it; the logits that each was chosen from, (tokens, vocabulary);
    and the tokens that end one."""

    tokens: list[int]
    logits: Tensor
    ends: list[int]

    def gap(self, tokens: list[int]) -> float | None:
        """How far apart the logits of the first tokens are that differ, in standard deviations; None: none does.

        Where one response ends and the other goes on, any token that ends counts as said.
        """
        if tokens == self.tokens:
            return None
        pairs = enumerate(zip(self.tokens, tokens, strict=False))
        place = next((n for n, (a, b) in pairs if a != b), min(len(self.tokens), len(tokens)))
        if place == len(self.logits):
            return math.inf  # it goes on beyond the limit
        logits = self.logits[place]
        said = logits[tokens[place]] if place < len(tokens) else logits[self.ends].max()
        return ((logits.max() - said) / logits.std()).item()


@dataclass
class Observed:
    """What a step and a few questions gave; in `vectors` the gradient, and the logits of the first tokens."""

    loss: float
    vectors: dict[str, Tensor]
    texts: list[Text]

    def apart(self, what: str, other: "Observed") -> float:
        """|a - b| / |b| of a vector."""
        return ((self.vectors[what] - other.vectors[what]).norm() / other.vectors[what].norm()).item()


def precision(bench: Bench) -> Iterator[Figure]:
    """Each dtype and attention that is here, beside float32 with eager attention."""
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
    """The most that was given out in two optimizer steps, as torch's allocator reports it on a GPU, and on a CPU the
    profiler, beside the dry run's estimate."""
    settings = bench.settings("memory", max_train_steps=2, gradient_accumulation_steps=2, save_model=False)
    parts, trainer, gpu = estimate(settings), load_trainer(settings), torch.cuda.is_available()
    gc.collect()  # what was there before would be freed meanwhile, and subtracted
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
        # An upper bound by a little: 5% are for what an allocator rounds up and the estimate leaves out, and one that
        # is more than a tenth too high keeps people from cards that would do.
        yield figure("estimated over counted", estimated / counted, least=0.95, most=1.1)


def nf4(bench: Bench) -> Iterator[Figure]:
    """bitsandbytes' packed weights: their error, and a step with its products beside the same weights rounded.

    The widest gap between NF4's values (QLoRA, arXiv 2305.14314), -1 to -0.696, makes an error of 0.152 of the largest
    of a block's 64 weights, which itself is held in 8 bits, off by 2%. Packed in a wrong order: 1 and more.
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
    """By what share of its size the last layer's output is expected to be off."""
    config = architecture(size)
    layers = config.text_config.num_hidden_layers + config.vision_config.num_hidden_layers - 1  # LLaVA's last but one
    additions = config.text_config.intermediate_size if dtype is torch.float32 else 1
    results = 8 * MODELS[size].get("rounded", 1)  # of a layer that are rounded
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
    """What a step and questions, asked one at a time, give. `change`: what is done to the model first."""
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
    """A greedy response, alone."""
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
    """How far what was found is from the reference, in four figures.

    Args:
        off: by what share the last layer's output is expected to be off.
        beside: what another kernel found in the same dtype: 1.5 times as far off is allowed; and always 0.15 of the
            bound, since by chance that kernel may be off by next to nothing.
    """
    spread = torch.cat([text.logits for text in reference.texts]).std(1).mean().item()
    yield figure(f"{name}: loss", abs(observed.loss - reference.loss), most=2 * off * spread)
    for what, most in (("gradient", 4 * off), ("logits", 2 * off)):
        if beside:
            most = min(most, max(1.5 * beside.apart(what, reference), 0.15 * most))
        yield figure(f"{name}: {what}", observed.apart(what, reference), most=most)
    yield figure(f"{name}: how near were confused tokens", confused(observed.texts, reference.texts), most=6 * off)


def confused(texts: list[Text], reference: list[Text]) -> float:
    """The widest gap of tokens that were taken for each other; 0: none was."""
    return max(expected.gap(text.tokens) or 0.0 for text, expected in zip(texts, reference, strict=True))
