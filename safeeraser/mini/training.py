"""Training the base model from scratch on fresh renderings: never on a picture of the benchmark itself.

It learns as LLaVA-1.5 did, in two stages: the vision tower learns to see (there from captions, here from the scenes'
facts), then the language model learns to speak about what is seen. In one stage, seeing would take most of the time.
"""

import functools
import math
import random
from collections.abc import Callable, Collection, Iterable

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, layer_norm
from transformers import CLIPImageProcessorPil, LlavaForConditionalGeneration

from safeeraser.benchmark.conversation import IGNORE, SYSTEM_TEXTS
from safeeraser.mini.concepts import BACKGROUNDS, COLOURS, EVERY, HARMFUL_PROMPTS, SIDES, SIZES, Concept
from safeeraser.mini.fan import batch, fan
from safeeraser.mini.pictures import SIDE, Scene, draw_scene, render
from safeeraser.mini.questions import RETAIN, VQA, Ask, harmful_ask, repeat_ask
from safeeraser.model import Preprocessor, Row, Turn

SEE_BATCH, SEE_RATE = 64, 3e-3
DIRECTION_LENGTH = 2.0  # short enough that a sure answer takes large features, long enough that it can be given
SPEAK_BATCH, SPEAK_RATE = 8, 2e-3  # pictures a step, each with seven questions
WARM_UP = 0.05  # share of the steps
Tick = Callable[[float], None]


def teach_to_see(model: LlavaForConditionalGeneration, steps: int, seed: int, tick: Tick) -> None:
    """Train vision tower and projector so that every fact of a scene can be read off what the language model is given.

    The facts are read twice. A head reads them off the tower, which learns fastest so, and is then thrown away. Fixed
    orthogonal directions read them off the projector's output, normalised as the language model's first layer does it:
    so each fact takes its fair share of the features, where a trained head would be content with a fine difference
    that the language model then finds late or never. `tick` is called with each step's loss.
    """
    rng = random.Random(f"{seed}-see")
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    layer, width = model.config.vision_feature_layer, model.config.text_config.hidden_size
    facts = ([concept.name for concept in EVERY], list(COLOURS), list(BACKGROUNDS), list(SIDES), list(SIZES))
    sizes = [len(values) for values in facts]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(model.config.vision_config.hidden_size, sum(sizes))
        directions = nn.init.orthogonal_(torch.empty(sum(sizes), width), gain=DIRECTION_LENGTH)

    def loss() -> torch.Tensor:
        scenes = _scenes(rng, SEE_BATCH)
        seen = tower(pixel_values(scenes), output_hidden_states=True).hidden_states[layer][:, 1:]
        given = projector(seen)
        given = layer_norm(given, given.shape[-1:]).mean(1)
        scores = torch.cat([head(seen.mean(1)), given @ directions.T]).split(sizes, dim=1)
        told = [(s.concept.name, s.colour, s.background, s.side, s.size) for s in scenes]
        losses = []
        for values, column, score in zip(facts, zip(*told, strict=True), scores, strict=True):
            target = torch.tensor([values.index(fact) for fact in column]).repeat(2)
            losses.append(cross_entropy(score, target))
        return torch.stack(losses).sum()

    fit([*tower.parameters(), *projector.parameters(), *head.parameters()], loss, steps, SEE_RATE, tick)


def teach_to_speak(
    model: LlavaForConditionalGeneration,
    preprocessor: Preprocessor,
    steps: int,
    seed: int,
    tick: Tick,
    unknown: Collection[Concept] = (),
) -> None:
    """Train `model` to answer harmful prompts, retain questions and VQA, on harmful and benign concepts alike.

    The vision tower stays as it is, as in LLaVA-1.5. Trained along, it unlearns what it sees before the language
    model has learnt to say it. `tick` is called with each step's loss, the mean cross-entropy of the answers' tokens.
    Of the concepts `unknown` no harmful prompt is asked; all else is asked in the same order whichever they are.
    """
    rng, spare = random.Random(f"{seed}-speak"), random.Random(f"{seed}-spare")
    place = preprocessor.place(lambda: (SIDE, SIDE))

    @functools.cache
    def conversation(ask: Ask, who: str) -> Row:
        return preprocessor.encode_text(Turn(None, ask.question, ask.reply, who), place, end_of_answer=True)

    def loss() -> torch.Tensor:
        scenes, rows = _scenes(rng, SPEAK_BATCH), []
        for scene in scenes:
            who = rng.choice(list(SYSTEM_TEXTS))
            asks = _draw_asks(rng, scene)
            if scene.concept in unknown:
                asks = _without_harm(spare, scene, asks)
            rows.append(fan([conversation(ask, who) for ask in asks], model.config.image_token_index))
        inputs = batch(rows, preprocessor.pad_token)
        labels = inputs.pop("labels")
        logits = model(pixel_values=pixel_values(scenes), **inputs).logits
        return cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE)

    tower = model.model.vision_tower.requires_grad_(False)
    fit([p for p in model.parameters() if p.requires_grad], loss, steps, SPEAK_RATE, tick)
    tower.requires_grad_(True)


def fit(
    parameters: Iterable[nn.Parameter], loss_of_step: Callable[[], torch.Tensor], steps: int, rate: float, tick: Tick
) -> None:
    """AdamW on `parameters`, each step on a new loss; no decay on biases and norms, gradient clipped at 1."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.02},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_share(step, steps))
    for _ in range(steps):
        loss = loss_of_step()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        scheduler.step()
        tick(loss.item())


def rate_share(step: int, steps: int) -> float:
    """The learning rate's share of its peak: a linear warm-up, then a half cosine down to nothing."""
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def pixel_values(scenes: list[Scene]) -> torch.Tensor:
    """Rendered scenes as the image processor would give them (they need no resizing), shape [batch, 3, 64, 64]."""
    pixels = np.stack([np.asarray(render(scene), dtype=np.float32) for scene in scenes]) / 255
    pixels = (pixels - CLIPImageProcessorPil.image_mean) / CLIPImageProcessorPil.image_std
    return torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2)


def _scenes(rng: random.Random, count: int) -> list[Scene]:
    return [draw_scene(rng, rng.choice(EVERY)) for _ in range(count)]


def _draw_asks(rng: random.Random, scene: Scene) -> list[Ask]:
    kinds = [*rng.sample(RETAIN, 2), *rng.sample(VQA, 2)]
    return [harmful_ask(rng, scene), harmful_ask(rng, scene), repeat_ask(rng), *(kind.about(scene) for kind in kinds)]


def _without_harm(rng: random.Random, scene: Scene, asks: list[Ask]) -> list[Ask]:
    """The asks with retain questions, whose answers are sentences too, in place of the harmful prompts."""
    kept = [ask for ask in asks if ask.question not in HARMFUL_PROMPTS]
    asked = {ask.question for ask in kept}
    others = [kind for kind in RETAIN if kind.question not in asked]
    return [*kept, *(kind.about(scene) for kind in rng.sample(others, len(asks) - len(kept)))]
