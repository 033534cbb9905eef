"""Two ways to train the same model on the same items, the project's own and a plain one; and whether they agree."""

import copy
import random
import shlex
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from peft import PeftModel
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    TrainerCallback,
)

from safeeraser.benchmark.conversation import IGNORE
from safeeraser.benchmark.files import read_json_lines
from safeeraser.errors import BadInput
from safeeraser.model.preprocess import Preprocessor
from safeeraser.model.turns import Row
from safeeraser.unlearn.config.compose import from_keys
from safeeraser.unlearn.config.read import read_settings
from safeeraser.unlearn.config.settings import Settings
from safeeraser.unlearn.config.trainer_arguments import training_arguments
from safeeraser.unlearn.data.batch import Viewed
from safeeraser.unlearn.data.plan import Schedule
from safeeraser.unlearn.engine import Engine
from safeeraser.unlearn.load import equip
from safeeraser.unlearn.objective.method import Method
from safeeraser.unlearn.run import build_trainer
from safeeraser.unlearn.save_dir import TRAIN_LOG

ACCUMULATION = 4  # micro-steps of one item an optimizer step
SIDES = ("ours", "plain")
TOLERANCE = 1e-4  # relative, between two ways to compute the same number in float32

Clock = tuple[float, float]  # wall and CPU seconds


@dataclass(frozen=True)
class Sizes:
    """LLaVA-1.5-7B scaled down: its vocabulary, and about its proportion of picture, prompt and answer."""

    vocabulary: int = 32_000
    width: int = 512
    mlp: int = 2048
    layers: int = 12
    vision_layers: int = 4
    side: int = 168  # pixels; 144 picture tokens
    system: int = 35  # tokens, as those below
    question: tuple[int, int] = (12, 28)
    answer: tuple[int, int] = (25, 65)
    refusal: tuple[int, int] = (12, 28)

    @property
    def picture(self) -> int:
        return (self.side // 14) ** 2

    @property
    def image_token(self) -> int:
        return self.vocabulary - 1

    @property
    def pad_token(self) -> int:
        return self.vocabulary - 2


def settings(row: str, folder: Path, *overrides: str) -> Settings:
    """What `forget.py forget_loss=METHOD KEY=VALUE...` would run with, where `row` is `METHOD KEY=VALUE...`.

    The rate stays level, since a benchmark stops early.

    Raises:
        BadInput: there is no such method or key, or the values do not go together.
    """
    method, *more = shlex.split(row) or [row]
    keys: dict[str, Any] = {"forget_loss": method, "save_dir": str(folder), "gradient_accumulation_steps": ACCUMULATION}
    keys |= {"model_family": "llava-1.5", "model_path": "none", "dtype": "float32"}
    keys |= {"lr_scheduler_type": "constant", "warmup_ratio": 0, "workers": 0}
    keys["trainer"] = {"disable_tqdm": True}
    for word in (*more, *overrides):
        key, given, value = word.partition("=")
        if not given:
            raise BadInput(f"'{row}': '{word}' is no KEY=VALUE")
        try:
            keys[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise BadInput(f"'{row}': {key}: '{value}' is no value of YAML's") from None
    return read_settings(from_keys(keys))


def build_model(sizes: Sizes) -> LlavaForConditionalGeneration:
    """An untrained, frozen LLaVA; the same each time."""
    heads = max(1, sizes.width // 64)
    shape = {"hidden_size": sizes.width, "intermediate_size": sizes.mlp, "num_attention_heads": heads}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            **shape, num_hidden_layers=sizes.vision_layers, image_size=sizes.side, patch_size=14
        ),
        text_config=LlamaConfig(**shape, num_hidden_layers=sizes.layers, vocab_size=sizes.vocabulary),
        image_token_index=sizes.image_token,
        image_seq_length=sizes.picture,
    )
    torch.manual_seed(0)
    return LlavaForConditionalGeneration(config).requires_grad_(False)


def build_entries(method: Method, sizes: Sizes, count: int) -> list[list[Viewed]]:
    """`count` items of random tokens and pixels, with a row for each view that the method reads.

    A view's rows are the same whatever the method; their lengths vary as those of real questions and answers do.
    """
    return [[_row(view, sizes, random.Random(f"{view} {number}")) for view in method.views] for number in range(count)]


def _row(view: str, sizes: Sizes, rng: random.Random) -> Viewed:
    def words(count: int) -> list[int]:
        return [rng.randrange(3, sizes.pad_token) for _ in range(count)]

    head = [1, *words(sizes.system), *[sizes.image_token] * sizes.picture, *words(rng.randint(*sizes.question))]
    tail = words(rng.randint(*(sizes.refusal if view == "refusal" else sizes.answer)))
    pixels = torch.randn(3, sizes.side, sizes.side, generator=torch.Generator().manual_seed(rng.randrange(2**31)))
    return Viewed(view, Row(head + tail, [IGNORE] * len(head) + tail, {"pixel_values": pixels[None]}))


def adapt(base: LlavaForConditionalGeneration, read: Settings) -> PeftModel:
    """The model with LoRA and projector to be trained."""
    return equip(base, read).train()


def clock() -> Clock:
    """The time now."""
    return time.perf_counter(), time.process_time()


def train(side: str, entries: list[list[Viewed]], read: Settings, sizes: Sizes) -> list[Clock]:
    """Build the model, train it one pass over `entries`, and return the time at which each optimizer step ended."""
    base = build_model(sizes)
    second = read.method.needs_reference and (side == "plain" or not read.adapter)
    reference = copy.deepcopy(base).eval() if second else None
    if side == "ours":
        watch = Watch()
        train_ours(adapt(base, read), entries, read, sizes, watch, reference)
        return watch.ends
    return train_plain(adapt(base, read), reference, entries, read, sizes)


# The project's own loop.


class Joins(Preprocessor):
    """Joins rows that were made without a processor."""

    pad_token = types = None

    def __init__(self, pad_token: int) -> None:
        self.pad_token = pad_token


class Watch(TrainerCallback):
    """Keeps the time at which each optimizer step ended and, if asked, the gradient of the last one."""

    def __init__(self, keep_gradient: bool = False) -> None:
        self.ends: list[Clock] = []
        self.keep_gradient, self.gradient = keep_gradient, {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if self.keep_gradient:
            self.gradient = gradient_of(model)

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(clock())


class Made(list):
    """Entries of a plan that were made without a processor."""

    def __init__(self, entries: list[list[Viewed]], sizes: Sizes) -> None:
        super().__init__(entries)
        self.preprocessor = Joins(sizes.pad_token)


def train_ours(
    model: PeftModel,
    entries: list[list[Viewed]],
    read: Settings,
    sizes: Sizes,
    watch: Watch,
    reference: nn.Module | None = None,
) -> None:
    """One pass over `entries` as `forget.py` makes it."""
    schedule = Schedule.of(
        len(entries), batch_size=read.batch_size, accumulation=read.gradient_accumulation_steps, processes=1
    )
    arguments = training_arguments(read, Engine(), schedule)
    trainer = build_trainer(read, arguments, model, reference, Made(entries, sizes))
    trainer.add_callback(watch)
    trainer.train()


# The plain implementation.


def plain_batch(rows: list[Row], sizes: Sizes, length: int = 0) -> dict[str, Tensor]:
    """The model's input and its labels, padded to the longest row, or to `length` if that is longer."""
    length = max(length, *(len(row.input_ids) for row in rows))

    def padded(lists: list[list[int]], value: int) -> Tensor:
        return torch.tensor([[*some, *[value] * (length - len(some))] for some in lists])

    return {
        "input_ids": padded([row.input_ids for row in rows], sizes.pad_token),
        "labels": padded([row.labels for row in rows], IGNORE),
        "attention_mask": padded([[1] * len(row.input_ids) for row in rows], 0),
        "pixel_values": torch.cat([row.inputs["pixel_values"] for row in rows]),
    }


def plain_terms(
    model: nn.Module, reference: nn.Module | None, method: Method, entry: list[Viewed], sizes: Sizes
) -> dict[str, Tensor]:
    """Each term of the method's loss on one item, with a forward of its own."""
    terms = {}
    for name, term in method.terms.items():
        rows = [viewed.row for viewed in entry if viewed.view in term.views]
        if term.loss == "kl":
            # Over all positions, up to the longest of the item's views: as the official recipe has it.
            batch = plain_batch(rows, sizes, max(len(viewed.row.input_ids) for viewed in entry))
            del batch["labels"]
            with torch.no_grad():
                p_ref = F.log_softmax(reference(**batch, use_cache=False).logits.float(), dim=-1).flatten(0, 1)
            p = F.log_softmax(model(**batch, use_cache=False).logits.float(), dim=-1).flatten(0, 1)
            terms[name] = F.kl_div(p, p_ref, reduction="batchmean", log_target=True)
        else:
            terms[name] = model(**plain_batch(rows, sizes), use_cache=False).loss
    return terms


def train_plain(
    model: PeftModel, reference: nn.Module | None, entries: list[list[Viewed]], read: Settings, sizes: Sizes
) -> list[Clock]:
    """One pass over `entries`; returns the time at which each optimizer step ended."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=read.lr, weight_decay=read.weight_decay)
    ends = []
    for number, entry in enumerate(entries, start=1):
        terms = plain_terms(model, reference, read.method, entry, sizes)
        loss = sum(read.method.terms[name].weight * value for name, value in terms.items())
        (loss / ACCUMULATION).backward()
        if number % ACCUMULATION == 0:
            nn.utils.clip_grad_norm_(trained, read.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            ends.append(clock())
    return ends


# Whether the two agree.


def gradient_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of each trained parameter's gradient."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def compare(method: str, sizes: Sizes) -> dict[str, float]:
    """The terms of one item, computed both ways. Raises `AssertionError` where these or the gradients differ.

    Dropout is off, and the adapter moved off its initial value, where it does nothing and KL would be zero.
    """
    with tempfile.TemporaryDirectory() as folder:
        alone = ("LoRA.dropout=0", "max_grad_norm=0", "gradient_accumulation_steps=1")
        read = settings(method, Path(folder), *alone)
        base = build_model(sizes)
        reference = copy.deepcopy(base).eval() if read.method.needs_reference else None
        model = adapt(base, read)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.02 * torch.randn(parameter.shape)
        entries = build_entries(read.method, sizes, 1)
        terms = plain_terms(model, reference, read.method, entries[0], sizes)
        sum(read.method.terms[name].weight * value for name, value in terms.items()).backward()
        plain, wanted = {name: value.item() for name, value in terms.items()}, gradient_of(model)
        model.zero_grad()
        watch = Watch(keep_gradient=True)
        train_ours(model, entries, read, sizes, watch)
        (row,) = read_json_lines(Path(folder) / TRAIN_LOG)
    for name, value in plain.items():
        if not abs(row["terms"][name] - value) <= TOLERANCE * abs(value):
            raise AssertionError(f"{method}: term '{name}' is {row['terms'][name]} in ours and {value} in plain")
    for name, value in wanted.items():
        if not (watch.gradient[name] - value).norm() <= TOLERANCE * value.norm():
            raise AssertionError(f"{method}: the gradient of {name} is another in ours than in plain")
    return plain
