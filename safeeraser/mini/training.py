"""Training the base model from scratch on fresh renderings: never on a picture of the benchmark itself.

It learns as LLaVA-1.5 did, in two stages: the vision tower learns to see (there from captions, here from the scenes'
facts), then the language model learns to speak about what is seen. In one stage, seeing would take most of the time.
"""

import functools
import random
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, layer_norm
from transformers import CLIPImageProcessorPil, LlavaForConditionalGeneration

from safeeraser.benchmark.conversation import IGNORE, SYSTEM_TEXTS
from safeeraser.mini.concepts import BACKGROUNDS, COLOURS, EVERY, SIDES, SIZES, Concept
from safeeraser.mini.fan import batch, fan
from safeeraser.mini.fit import Part, Tick, fit
from safeeraser.mini.language_model import said_unasked
from safeeraser.mini.pictures import Scene, draw_scene, render
from safeeraser.mini.questions import RETAIN, VQA, Ask, harmful_ask, repeat_ask
from safeeraser.mini.settings import Settings
from safeeraser.mini.texts import Texts
from safeeraser.model.preprocess import Preprocessor
from safeeraser.model.turns import Row, Turn
from safeeraser.model.vlm import logits

SEE_BATCH, SEE_RATE = 64, 3e-3
DIRECTION_LENGTH = 2.0  # short enough that a sure answer takes large features, long enough that it can be given


def teach_to_see(
    model: LlavaForConditionalGeneration, settings: Settings, tick: Tick, kept: Path | None = None
) -> None:
    """Train vision tower and projector so that every fact of a scene can be read off what the language model is given.

    The facts are read twice. A head reads them off the tower, which learns fastest so, and is then thrown away. Fixed
    orthogonal directions read them off the projector's output, normalised as the language model's first layer does it:
    so each fact takes its fair share of the features, where a trained head would be content with a fine difference
    that the language model then finds late or never. `tick` is called with each step's loss; see `fit` for `kept`.
    """
    rng = random.Random(f"{settings.seed}-see")
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    layer, width = model.config.vision_feature_layer, model.config.text_config.hidden_size
    facts = ([concept.name for concept in EVERY], list(COLOURS), list(BACKGROUNDS), list(SIDES), list(SIZES))
    sizes = [len(values) for values in facts]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        head = nn.Linear(model.config.vision_config.hidden_size, sum(sizes)).to(model.device)
        directions = nn.init.orthogonal_(torch.empty(sum(sizes), width), gain=DIRECTION_LENGTH).to(model.device)

    def loss() -> torch.Tensor:
        """How badly the facts of new scenes are read off the tower, a scalar."""
        scenes = _scenes(rng, SEE_BATCH)
        seen = tower(pixel_values(scenes, settings.side).to(model.device), output_hidden_states=True).hidden_states[
            layer
        ][:, 1:]
        given = projector(seen)
        given = layer_norm(given, given.shape[-1:]).mean(1)
        scores = torch.cat([head(seen.mean(1)), given @ directions.T]).split(sizes, dim=1)
        told = [(s.concept.name, s.colour, s.background, s.side, s.size) for s in scenes]
        losses = []
        for values, column, score in zip(facts, zip(*told, strict=True), scores, strict=True):
            target = torch.tensor([values.index(fact) for fact in column]).repeat(2).to(model.device)
            losses.append(cross_entropy(score, target))
        return torch.stack(losses).sum()

    part = Part([*tower.parameters(), *projector.parameters(), *head.parameters()], SEE_RATE)
    fit([part], loss, settings.see_steps, tick, kept, [rng])


def teach_to_speak(
    model: LlavaForConditionalGeneration,
    preprocessor: Preprocessor,
    settings: Settings,
    tick: Tick,
    unknown: Collection[Concept] = (),
    kept: Path | None = None,
) -> None:
    """Train `model` to answer harmful prompts, retain questions and VQA, on harmful and benign concepts alike.

    The vision tower stays as it is, as in LLaVA-1.5. Trained along, it unlearns what it sees before the language
    model has learnt to say it. `tick` is called with each step's loss, the mean cross-entropy of the answers' tokens
    and beside it that of what is rehearsed; see `fit` for `kept`. Of the concepts `unknown` no harmful prompt is
    asked; all else is asked in the same order whichever they are.
    """
    rng, spare = random.Random(f"{settings.seed}-speak"), random.Random(f"{settings.seed}-spare")
    place = preprocessor.place(lambda: (settings.side, settings.side))
    dtype, texts = getattr(torch, settings.dtype), settings.wording
    # Before a state is gone on from: drawn from the model as it came, so that they are the same again.
    unasked = said_unasked(model, preprocessor.tokenizer, settings.seed) if settings.rehearsed else None

    @functools.cache
    def conversation(ask: Ask, who: str) -> Row:
        return preprocessor.encode_text(Turn(None, ask.question, ask.reply, who), place, end_of_answer=True)

    def loss() -> torch.Tensor:
        """How unlikely the answers about new scenes are, a scalar."""
        scenes, rows = _scenes(rng, settings.speak_pictures), []
        for scene in scenes:
            who = rng.choice(list(SYSTEM_TEXTS))
            asks = _draw_asks(rng, scene, settings)
            if scene.concept in unknown:
                asks = _without_harm(spare, scene, asks, texts)
            rows.append(fan([conversation(ask, who) for ask in asks], model.config.image_token_index))
        given = batch(rows, preprocessor.pad_token) | {"pixel_values": pixel_values(scenes, settings.side)}
        inputs = {name: each.to(model.device) for name, each in given.items()}
        with torch.autocast(model.device.type, dtype, enabled=dtype is not torch.float32):
            told = _loss_of_answers(model, inputs)
            if unasked is None:
                return told
            again = unasked[rng.sample(range(len(unasked)), settings.rehearsed)]
            return told + model(input_ids=again, labels=again, use_cache=False).loss

    projector = [*model.model.multi_modal_projector.parameters()]
    speaking = [*model.model.language_model.parameters(), *model.get_output_embeddings().parameters()]
    tower = model.model.vision_tower.requires_grad_(False)
    parts = [Part(projector, settings.projector_rate), Part([*dict.fromkeys(speaking)], settings.speak_rate)]
    fit(parts, loss, settings.speak_steps, tick, kept, [rng, spare])
    tower.requires_grad_(True)


def _loss_of_answers(model: LlavaForConditionalGeneration, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Their tokens' mean cross-entropy. The head, large where language is real, reads no place but theirs."""
    labels = inputs.pop("labels")[:, 1:]
    row, place = (labels != IGNORE).nonzero(as_tuple=True)
    said = logits(model, inputs, row * (labels.shape[1] + 1) + place)  # the inputs' rows are a token longer
    return cross_entropy(said.float(), labels[row, place])


def pixel_values(scenes: list[Scene], side: int) -> torch.Tensor:
    """Rendered scenes as the image processor would give them (they need no resizing), shape [batch, 3, side, side]."""
    pixels = np.stack([np.asarray(render(scene, side), dtype=np.float32) for scene in scenes]) / 255
    pixels = (pixels - CLIPImageProcessorPil.image_mean) / CLIPImageProcessorPil.image_std
    return torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2)


def _scenes(rng: random.Random, count: int) -> list[Scene]:
    return [draw_scene(rng, rng.choice(EVERY)) for _ in range(count)]


def _draw_asks(rng: random.Random, scene: Scene, settings: Settings) -> list[Ask]:
    asks, texts = settings.asks, settings.wording
    kinds = [*rng.sample(RETAIN, asks.retain), *rng.sample(VQA, asks.vqa)]
    harmful = [harmful_ask(texts, rng, scene) for _ in range(asks.harmful)]
    repeat = [repeat_ask(texts, rng) for _ in range(asks.repeat)]
    return [*harmful, *repeat, *(kind.about(scene) for kind in kinds)]


def _without_harm(rng: random.Random, scene: Scene, asks: list[Ask], texts: Texts) -> list[Ask]:
    """The asks with retain questions, whose answers are sentences too, in place of the harmful prompts."""
    kept = [ask for ask in asks if ask.question not in texts.prompts]
    asked = {ask.question for ask in kept}
    others = [kind for kind in RETAIN if kind.question not in asked]
    return [*kept, *(kind.about(scene) for kind in rng.sample(others, len(asks) - len(kept)))]
