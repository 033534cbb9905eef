"""Two ways to train the same model on the same items, the project's and a plain one, and a check that they agree."""

import copy
import random
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from shared import Clock, clock
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, TrainerCallback

from safeeraser.benchmark.conversation import IGNORE, pad
from safeeraser.model.preprocess import Preprocessor
from safeeraser.model.turns import Row
from safeeraser.unlearn.config.compose import from_keys
from safeeraser.unlearn.config.engine import Engine
from safeeraser.unlearn.config.read import read_settings
from safeeraser.unlearn.config.settings import Settings
from safeeraser.unlearn.config.trainer_arguments import Schedule, training_arguments
from safeeraser.unlearn.data.batch import Viewed
from safeeraser.unlearn.load import equip
from safeeraser.unlearn.objective.method import Method
from safeeraser.unlearn.run import build_trainer

SIDES, TOLERANCE = ("ours", "plain"), 1e-4  # relative, between two ways to compute the same gradient in float32
# LLaVA-1.5-7B scaled down, with its vocabulary, and about its proportions of picture, prompt and answer, in tokens.
VOCABULARY, WIDTH, MLP, LAYERS, VISION_LAYERS, SIDE = 32_000, 512, 2048, 12, 4, 168
IMAGE, PAD, PICTURE = VOCABULARY - 1, VOCABULARY - 2, (SIDE // 14) ** 2
SYSTEM, QUESTION, ANSWER, REFUSAL = 35, (12, 28), (25, 65), (12, 28)


def settings(row: str, folder: Path, *overrides: str) -> Settings:
    """The settings of `forget.py forget_loss=METHOD KEY=VALUE...`, where `row` is `METHOD KEY=VALUE...`.

    The learning rate is constant, because a benchmark stops early. Raises `BadInput` for an unknown method or key.
    """
    method, *words = *row.split(), *overrides
    keys = {"forget_loss": method, "save_dir": str(folder), "gradient_accumulation_steps": 4}
    keys |= {"model_family": "llava-1.5", "model_path": "none", "dtype": "float32", "trainer": {"disable_tqdm": True}}
    keys |= {"lr_scheduler_type": "constant", "warmup_ratio": 0, "workers": 0}
    keys |= {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in words)}
    return read_settings(from_keys(keys))


def build_model() -> LlavaForConditionalGeneration:
    """An untrained, frozen LLaVA; the same each time."""
    shape = {"hidden_size": WIDTH, "intermediate_size": MLP, "num_attention_heads": WIDTH // 64}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**shape, num_hidden_layers=VISION_LAYERS, image_size=SIDE, patch_size=14),
        text_config=LlamaConfig(**shape, num_hidden_layers=LAYERS, vocab_size=VOCABULARY),
        image_token_index=IMAGE,
        image_seq_length=PICTURE,
    )
    torch.manual_seed(0)
    return LlavaForConditionalGeneration(config).requires_grad_(False)


def build_entries(read: Settings, count: int) -> list[list[Viewed]]:
    """`count` items of random tokens and pixels, with a row for each view that the run reads.

    A view's rows are the same for every method. Their lengths vary as the lengths of real questions and answers do.
    """
    return [[_row(view, random.Random(f"{view} {number}")) for view in read.views] for number in range(count)]


def _row(view: str, rng: random.Random) -> Viewed:
    def words(count: int) -> list[int]:
        return [rng.randrange(3, PAD) for _ in range(count)]

    head = [1, *words(SYSTEM), *[IMAGE] * PICTURE, *words(rng.randint(*QUESTION))]
    tail = words(rng.randint(*(REFUSAL if view == "refusal" else ANSWER)))
    pixels = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(rng.randrange(2**31)))
    return Viewed(view, Row(head + tail, [IGNORE] * len(head) + tail, {"pixel_values": pixels[None]}))


def train(side: str, entries: list[list[Viewed]], read: Settings, noise: float = 0) -> "Watch":
    """Build the model and train it one pass over `entries`.

    Args:
        noise: scale of noise on the parameters, because a new adapter does nothing; if it is not 0, gradients are kept.
    """
    base = build_model()
    second = read.method.needs_reference and (side == "plain" or not read.adapter)
    reference = copy.deepcopy(base).eval() if second else None
    model, watch = equip(base, read).train(), Watch(keep_gradient=bool(noise))
    torch.manual_seed(1)
    for parameter in trained(model).values():
        parameter.data += noise * torch.randn(parameter.shape)
    (train_ours if side == "ours" else train_plain)(model, reference, entries, read, watch)
    return watch


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


class Watch(TrainerCallback):
    """Records the time at which each optimizer step ended and, if asked, the gradient of the last one."""

    def __init__(self, keep_gradient: bool) -> None:
        self.ends: list[Clock] = []
        self.keep_gradient, self.gradient = keep_gradient, {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if self.keep_gradient:
            self.gradient = {name: parameter.grad.clone() for name, parameter in trained(model).items()}

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(clock())


class Joins(Preprocessor):
    """Joins rows that were made without a processor."""

    types, pad_token = None, PAD

    def __init__(self) -> None:
        pass


class Made(list):
    """Entries of a plan that were made without a processor."""

    preprocessor = Joins()


def train_ours(
    model: nn.Module, reference: nn.Module | None, entries: list[list[Viewed]], read: Settings, watch: Watch
) -> None:
    """Train one pass over `entries` as `forget.py` does."""
    how = {"batch_size": read.batch_size, "accumulation": read.gradient_accumulation_steps, "processes": 1}
    arguments = training_arguments(read, Engine(), Schedule.of(len(entries), **how))
    trainer = build_trainer(read, arguments, model, reference, Made(entries))
    trainer.add_callback(watch)
    trainer.train()


def plain_batch(rows: list[Row], longest: list[Row]) -> dict[str, Tensor]:
    """The model's input and its labels for `rows`, padded to the longest row in `rows` and `longest`."""
    every = [*rows, *longest]
    batch = Made.preprocessor.join(every) | {"labels": torch.tensor(pad([row.labels for row in every], IGNORE))}
    return {key: value[: len(rows)] for key, value in batch.items()}


def plain_loss(model: nn.Module, reference: nn.Module | None, method: Method, entry: list[Viewed]) -> Tensor:
    """The method's loss on one item, with a forward pass for each term."""
    loss = torch.zeros(())
    for term in method.terms.values():
        rows = [viewed.row for viewed in entry if viewed.view in term.views]
        if term.loss == "kl":
            # Over all positions, up to the end of the item's longest view, as in the official recipe.
            batch = plain_batch(rows, [viewed.row for viewed in entry])
            del batch["labels"]
            with torch.no_grad():
                p_ref = F.log_softmax(reference(**batch, use_cache=False).logits.float(), dim=-1).flatten(0, 1)
            p = F.log_softmax(model(**batch, use_cache=False).logits.float(), dim=-1).flatten(0, 1)
            loss = loss + term.weight * F.kl_div(p, p_ref, reduction="batchmean", log_target=True)
        else:
            loss = loss + term.weight * model(**plain_batch(rows, []), use_cache=False).loss
    return loss


def train_plain(
    model: nn.Module, reference: nn.Module | None, entries: list[list[Viewed]], read: Settings, watch: Watch
) -> None:
    """Train one pass over `entries` in the plainest way."""
    parameters = [*trained(model).values()]
    optimizer = torch.optim.AdamW(parameters, lr=read.lr, weight_decay=read.weight_decay)
    for number, entry in enumerate(entries, start=1):
        (plain_loss(model, reference, read.method, entry) / read.gradient_accumulation_steps).backward()
        if number % read.gradient_accumulation_steps == 0:
            watch.on_pre_optimizer_step(None, None, None, model)
            if read.max_grad_norm:
                nn.utils.clip_grad_norm_(parameters, read.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            watch.on_step_end(None, None, None)


def compare(method: str) -> None:
    """Raise `AssertionError` if the two sides give different gradients on the same item, without dropout."""
    with tempfile.TemporaryDirectory() as folder:
        read = settings(method, Path(folder), "LoRA.dropout=0", "max_grad_norm=0", "gradient_accumulation_steps=1")
        ours, plain = (train(side, build_entries(read, 1), read, noise=0.02).gradient for side in SIDES)
    for name, value in plain.items():
        if not (ours[name] - value).norm() <= TOLERANCE * value.norm():
            raise AssertionError(f"{method}: the gradient of {name} is another in ours than in plain")
