"""Loss, gradient and greedy text in each dtype and attention, beside float32 with eager attention.

What a step gives is compared on the same weights: those are stored in the narrower dtype, so float32 holds them
exactly, and all that differs is how products and sums are rounded. An operation in a dtype is off by a share of at most
u, half the distance from 1 to the next number: 2^-8 in bfloat16, 2^-24 in float32. Roundings are independent, nearly,
so that n of them in a row come to u sqrt(n) rather than u n (Higham & Mary, 2019, doi 10.1137/18M1226312).

About 8 results of a layer are rounded before they come to the next (norm, projection, scores, attention, projection,
norm, gate times up, down; additions round in between). With L layers, those of the vision tower too, what the head sees
is off by e = u sqrt(8 L) of its size: 0.022 for tiny's 4 in bfloat16, 0.08 for the 54 of 7B. In bfloat16 a product adds
up in float32, and is rounded once; in float32 each of its n additions is rounded too, and e is sqrt(n) times as much.
A gradient has come as far back as forward: 2 e. Logits are held to 2 e and gradients to 4 e, twice what is expected. A
loss moves by no more than the logits do, 2 e times their spread. A greedy token may be another one only where the two
logits lie nearer than both can be off: 6 e of their spread, three standard deviations for each.

These bounds hold for any kernel, and are too wide for a single bad one in a deep model. So a kernel is held to the next
one as well: fused attention rounds less often than eager's, and in the same dtype may be off by no more than 1.5 times
as much. That is how flash-attention's authors test theirs, with a factor of 2.
"""

import gc
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.utils import is_flash_attn_2_available

from safeeraser.benchmark.files import read_json_lines
from safeeraser.generation import DECODERS, Asked
from safeeraser.generation.sampling import Generation
from safeeraser.model.vlm import VLM
from safeeraser.selftest.families import FAMILIES
from safeeraser.selftest.material import Bench, architecture
from safeeraser.selftest.memory import free, needed
from safeeraser.selftest.result import Figure, Skip
from safeeraser.selftest.training import load_trainer
from safeeraser.unlearn.save_dir import TRAIN_LOG
from safeeraser.unlearn.trainer import UnlearnTrainer

ROUNDED = 8  # results of a layer
TOKENS = 12  # of each greedy text
# An adapter that does something, with a gradient for both of its parts: as it begins, one of them is zero.
ADAPTER = {"LoRA.init_lora_weights": False, "LoRA.alpha": 32}
NO_WORSE = 1.5  # times as far off as eager attention in the same dtype
FLOOR = 0.2  # of what is expected: where eager attention happens to be off by next to nothing, 1.5 times that is too


@dataclass
class Text:
    """A greedy response, token by token, with the logits that each was chosen from, (tokens, vocabulary)."""

    tokens: list[int]
    logits: Tensor


@dataclass
class Observed:
    """What a step and a few questions gave."""

    loss: float
    gradient: dict[str, Tensor]
    texts: list[Text]


def check(bench: Bench) -> Iterator[Figure]:
    """Each dtype and attention that is here."""
    more = reference_fits(bench)
    reference = observe(bench, "float32", "eager", **more)
    off = off_by(torch.float32, bench.size)
    yield from compare("float32, sdpa", observe(bench, "float32", "sdpa", **more), reference, off)
    off, eager = off_by(torch.bfloat16, bench.size), observe(bench, "bfloat16", "eager", **more)
    yield from compare("bfloat16, eager", eager, reference, off)
    flash = is_flash_attn_2_available()
    for attention in ["sdpa"] + ["flash_attention_2"] * flash:
        found = observe(bench, "bfloat16", attention, **more)
        yield from compare(f"bfloat16, {attention}", found, reference, off, beside=eager)
    if not flash:
        yield Figure("bfloat16, flash_attention_2", None, note="flash-attn is not installed, or there is no GPU for it")


def reference_fits(bench: Bench) -> dict[str, Any]:
    """What lets float32 with eager attention fit. Raises `Skip` if nothing does."""
    for keys in ({}, {"gradient_checkpointing": True}):
        takes = needed(bench.size, dtype="float32", attention="eager", **keys)
        if takes <= free():
            return keys
    raise Skip(f"float32 takes {takes / 2**30:.1f} GiB, and {free() / 2**30:.1f} are free; a smaller --size fits")


def off_by(dtype: torch.dtype, size: str) -> float:
    """By what share of its size the last layer's output is expected to be off: e."""
    config = architecture(size)
    layers = config.text_config.num_hidden_layers + config.vision_config.num_hidden_layers - 1  # LLaVA's last but one
    additions = config.text_config.intermediate_size if dtype is torch.float32 else 1
    more = FAMILIES.get(size, {}).get("rounded", 1)
    return torch.finfo(dtype).eps / 2 * math.sqrt(ROUNDED * layers * additions * more)


class _KeepGradient(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.found = {name: each.grad.float().cpu() for name, each in model.named_parameters() if each.grad is not None}


def observe(
    bench: Bench, dtype: str, attention: str, change: Callable[[nn.Module], None] | None = None, **keys: Any
) -> Observed:
    """Loss and gradient of a step, and greedy answers.

    Args:
        change: what is done to the model first.
        keys: other settings of the run.
    """
    folder = bench.folder / "precision" / f"{dtype}-{attention}-{len(list(bench.folder.glob('precision/*')))}"
    # Hardly a step, so that text and step are of the same weights; and not clipped, which would rescale what differs.
    still = {"lr": 1e-30, "warmup_ratio": 0, "max_grad_norm": 0, "max_train_steps": 1, "gradient_accumulation_steps": 2}
    settings = bench.settings(folder, dtype=dtype, attention=attention, **ADAPTER, **still, **keys)
    trainer, keep = load_trainer(settings), _KeepGradient()
    if change:
        change(trainer.model)
    trainer.add_callback(keep)
    trainer.train()
    (row,) = read_json_lines(folder / TRAIN_LOG)
    observed = Observed(row["loss"], keep.found, list(answers(trainer)))
    del trainer
    release()
    return observed


def release() -> None:
    """Let go of what is no longer used, on the GPU too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def answers(trainer: UnlearnTrainer, questions: int = 4) -> Iterator[Text]:
    """Greedy responses as a probe would have them, one at a time."""
    dataset, model = trainer.train_dataset, trainer.accelerator.unwrap_model(trainer.model)
    items = [item for its in dataset.items.values() for item in its][:: max(1, len(dataset) // questions)][:questions]
    model.eval()
    with trainer.accelerator.autocast():
        for item in items:
            yield answer(VLM(model, dataset.preprocessor), Asked(item.picture, item.question))


def answer(vlm: VLM, asked: Asked, tokens: int = TOKENS) -> Text:
    """A greedy response, alone."""
    kept = []

    class Kept(Generation):
        def draw(self, logits: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
            kept.append(logits[0].cpu())
            return super().draw(logits, seeds, positions)

    for _ in DECODERS[vlm.decoder](vlm, Kept(greedy=True, max_new_tokens=tokens), 1).answer([asked]):
        pass
    logits = torch.stack(kept)
    return Text(logits.argmax(1).tolist(), logits)


def compare(
    name: str, found: Observed, reference: Observed, off: float, beside: Observed | None = None
) -> Iterator[Figure]:
    """How far what was found is from the reference, in four figures.

    Args:
        off: by what share the last layer's output is expected to be off.
        beside: what another kernel found in the same dtype.
    """
    spread = torch.cat([text.logits for text in reference.texts]).std(1).mean().item()
    expected = {"loss": off * spread, "gradient": 2 * off, "logits": off}
    its = {} if beside is None else distances(beside, reference)
    for what, far in distances(found, reference).items():
        most = 2 * expected[what]
        if its and what != "loss":  # which is one number, and may be near by chance
            most = min(most, NO_WORSE * max(its[what], FLOOR * expected[what]))
        yield Figure(f"{name}: {what}", far, most=most)
    yield Figure(f"{name}: how near were confused tokens", confused(found.texts, reference.texts), most=6 * off)


def distances(found: Observed, reference: Observed) -> dict[str, float]:
    """|a - b| of the losses; |a - b| / |b| of the gradients, all of them together, and of the first tokens' logits."""
    names = list(reference.gradient)
    one, two = (torch.cat([each.gradient[name].flatten() for name in names]) for each in (found, reference))
    first, its = (torch.stack([text.logits[0] for text in each.texts]) for each in (found, reference))
    return {
        "loss": abs(found.loss - reference.loss),
        "gradient": ((one - two).norm() / two.norm()).item(),
        "logits": ((first - its).norm() / its.norm()).item(),
    }


def confused(found: list[Text], reference: list[Text]) -> float:
    """How far apart the reference has two tokens that were taken for each other, in standard deviations of its logits.

    Each text is looked at up to the first token that differs, where both still go on from the same. 0: none does.
    """
    worst = 0.0
    for mine, its in zip(found, reference, strict=True):
        place = next((n for n, (a, b) in enumerate(zip(mine.tokens, its.tokens, strict=False)) if a != b), None)
        if place is not None:
            logits = its.logits[place]
            gap = (logits[its.tokens[place]] - logits[mine.tokens[place]]) / logits.std()
            worst = max(worst, gap.item())
    return worst
