"""How fast training and inference are, beside what this machine does at most: a product of matrices, a copy.

Operations of a training step, two for each weight and token in each direction (multiply, add):
    4 x frozen weights of the language model's layers x tokens   forward, and back to what came in
    6 x trained weights x tokens                                 the weights' own gradient besides
    4 x the head's weights x positions read
    2 x the vision tower's weights x patches                     forward alone: nothing before it is trained
Padding is counted, since it is computed. Attention's own products are left out: 12 x length x width a layer and token,
forward and back, 4% of the whole in 7B at 640 tokens.

Each token of inference reads all of the language model's weights, and each row's keys and values, once. Its share of
the bandwidth is that over what a copy moves, reading and writing.
"""

import time
from collections.abc import Callable, Iterator

import torch
from transformers import TrainerCallback

from safeeraser import model as models
from safeeraser.benchmark.records import read_records
from safeeraser.generation.decoder import Asked, Decoder
from safeeraser.generation.sampling import Generation
from safeeraser.infer.checkpoint import load_merged
from safeeraser.infer.engine import Engine
from safeeraser.infer.requests import build_requests
from safeeraser.processes import Processes
from safeeraser.selftest.material import Bench
from safeeraser.selftest.precision import release
from safeeraser.selftest.result import Figure
from safeeraser.selftest.training import load_trainer
from safeeraser.unlearn.trainer import UnlearnTrainer

WARM, STEPS = 1, 4  # optimizer steps before and within the clock
# Rows and columns of the product, bytes of the copy, seconds that each is repeated: enough to leave the caches.
ON_GPU, ON_CPU = (8192, 2**30, 1.0), (1024, 2**27, 0.3)
ROWS, TOKENS = 32, 32
# A share of more than all is a clock or a count that is wrong. Clocks of turbo modes leave a little.
WHOLE = 1.05


def check(bench: Bench) -> Iterator[Figure]:
    """Peaks, training, inference."""
    dtype, device = models.choose_dtype("auto"), Processes().device
    peak, bandwidth = product_rate(device, dtype), copy_rate(device)
    name = str(dtype).removeprefix("torch.")
    yield Figure(f"product of matrices in {name}", peak / 1e9, unit="GFLOP/s")
    yield Figure("copy, reading and writing", bandwidth / 1e9, unit="GB/s")
    items, operations = training(bench)
    yield Figure("training", items, unit="items/s")
    yield Figure("training: share of the product's rate", operations / peak, most=WHOLE, unit="%")
    release()
    tokens, moved = answering(bench, device)
    yield Figure(f"inference, {ROWS} responses at a time", tokens, unit="tokens/s")
    yield Figure("inference: share of the copy's rate", moved / bandwidth, most=WHOLE, unit="%")


def best(work: Callable[[], object], seconds: float, device: torch.device) -> float:
    """Seconds that `work` takes at the least, over several times."""
    least, until = float("inf"), time.perf_counter() + seconds
    work()
    while time.perf_counter() < until or least == float("inf"):
        wait(device)
        began = time.perf_counter()
        work()
        wait(device)
        least = min(least, time.perf_counter() - began)
    return least


def wait(device: torch.device) -> None:
    """Until all is done that was asked of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a product of square matrices, 2 n^3 each."""
    side, _, seconds = ON_GPU if device.type == "cuda" else ON_CPU
    one, two = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / best(lambda: one @ two, seconds, device)


def copy_rate(device: torch.device) -> float:
    """Bytes a second that a copy reads and writes."""
    _, size, seconds = ON_GPU if device.type == "cuda" else ON_CPU
    one = torch.zeros(size, dtype=torch.uint8, device=device)
    two = torch.ones_like(one)
    return 2 * size / best(lambda: two.copy_(one), seconds, device)


class _Clock(TrainerCallback):
    """When each optimizer step was through."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.at: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):
        wait(self.device)
        self.at.append(time.perf_counter())


def training(bench: Bench) -> tuple[float, float]:
    """Items and operations a second, of one process with the settings' own batch size."""
    settings = bench.settings(bench.folder / "speed", max_train_steps=WARM + STEPS, save_model=False)
    trainer = load_trainer(settings)
    clock, counted, collate = _Clock(trainer.args.device), [], trainer.data_collator

    def collate_and_count(rows):
        counted.append(collate(rows))
        return counted[-1]

    trainer.data_collator = collate_and_count
    trainer.add_callback(clock)
    trainer.train()
    taken = clock.at[-1] - clock.at[WARM - 1]
    micro_steps = settings.gradient_accumulation_steps * STEPS
    items = micro_steps * settings.batch_size
    work = sum(step_operations(trainer, batch) for batch in counted[-micro_steps:])
    return items / taken, work / taken


def step_operations(trainer: UnlearnTrainer, batch: dict) -> float:
    """Operations of a micro-step, as this file's beginning counts them."""
    model, preprocessor = trainer.model, trainer.train_dataset.preprocessor
    family, ids = preprocessor.family, batch["inputs"]["input_ids"]
    weights = dict(model.named_parameters())
    frozen = sum(w.numel() for name, w in weights.items() if family.in_layers(name) and not w.requires_grad)
    trained = sum(w.numel() for name, w in weights.items() if family.in_layers(name) and w.requires_grad)
    part = {name: family.part_of(name) for name in weights}
    projector = sum(w.numel() for name, w in weights.items() if part[name] == "projector" and w.requires_grad)
    seeing = sum(w.numel() for name, w in weights.items() if part[name] == "vision_tower")
    tokens, patches = ids.numel(), int((ids == preprocessor.picture_token).sum())  # a patch gives a token
    head = trainer.head.weight.numel() * len(batch["read"])
    return (4 * frozen + 6 * trained) * tokens + 6 * projector * patches + 4 * head + 2 * seeing * patches


def answering(bench: Bench, device: torch.device) -> tuple[float, float]:
    """Tokens a second, and bytes a second that had to be read for them; prompts are within the clock."""
    vlm = load_merged(str(bench.model), None, dtype="auto", lora_alpha=1, device=device)
    model = vlm.model
    vlm.ends.clear()  # of one length all, so that it is known how many tokens there are
    requests = build_requests(read_records(bench.data))[:ROWS]
    engine = Engine(vlm, Generation(max_new_tokens=TOKENS), ROWS)
    list(engine.answer(requests[:2]))
    wait(device)
    began = time.perf_counter()
    list(engine.answer(requests))
    wait(device)
    taken = time.perf_counter() - began
    text = model.config.text_config
    state = 2 * text.num_hidden_layers * text.hidden_size * model.dtype.itemsize  # keys and values of a token
    asked = [Asked(requests[0].picture, requests[0].question)]
    prompt = len(Decoder(vlm, engine.generation, 1).prompts(asked)[0])
    language = sum(w.nbytes for name, w in model.named_parameters() if ".layers." in name and ".language_" in name)
    each = language + model.lm_head.weight.nbytes + len(requests) * (prompt + TOKENS / 2) * state
    return len(requests) * TOKENS / taken, TOKENS * each / taken
