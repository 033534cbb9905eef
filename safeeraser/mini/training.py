"""Train the base model on freshly drawn pictures, never on a picture of the benchmark itself.

Training has two stages, as LLaVA-1.5's has. First the vision tower learns to see (there from captions, here from facts
about scenes), then the language model learns to speak about pictures. In one stage, seeing would take most of the time.
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
DIRECTION_LENGTH = 2.0  # so short that a confident answer requires large features, but not impossibly large ones


def teach_to_see(
    model: LlavaForConditionalGeneration, settings: Settings, tick: Tick, kept: Path | None = None
) -> None:
    """Train vision tower and projector so that every fact of a scene can be read off the language model's input.

    The facts are read twice. A head reads them off the tower, which learns fastest this way, and is then discarded.
    Fixed orthogonal directions read them off the projector's output, which is normalized because the language model's
    first layer normalizes too. They give each fact its share of the features. A trained head would do with a small
    difference, which the language model would find late or never. `tick` gets each step's loss; see `fit` for `kept`.
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
        """The cross-entropy of both readings of new scenes' facts, summed over the facts, a scalar."""
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
    """Train `model` to answer harmful prompts, retain questions and VQA, about harmful and benign concepts alike.

    The vision tower is frozen, as in LLaVA-1.5. If it were trained too, it would forget how to see before the language
    model has learnt to speak about pictures. `tick` gets each step's loss: the mean cross-entropy of the answers'
    tokens, plus that of rehearsed texts if there are any. See `fit` for `kept`. No harmful prompt is asked about the
    concepts `unknown`. All other questions are the same, whichever concepts are `unknown`.
    """
    rng, spare = random.Random(f"{settings.seed}-speak"), random.Random(f"{settings.seed}-spare")
    place = preprocessor.place(lambda: (settings.side, settings.side))
    dtype, texts = getattr(torch, settings.dtype), settings.wording
    # Sampled from the initial model, before `fit` restores a saved state, so that a resumed run has the same texts.
    unasked = said_unasked(model, preprocessor.tokenizer, settings.seed) if settings.rehearsed else None

    @functools.cache
    def conversation(ask: Ask, who: str) -> Row:
        return preprocessor.encode_text(Turn(None, ask.question, ask.reply, who), place, end_of_answer=True)

    def loss() -> torch.Tensor:
        """The loss of the answers about new scenes, and of rehearsed texts if there are any, a scalar."""
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
    """The mean cross-entropy of the answers' tokens. The head, large for a real vocabulary, runs only for them."""
    labels = inputs.pop("labels")[:, 1:]
    row, place = (labels != IGNORE).nonzero(as_tuple=True)
    said = logits(model, inputs, row * (labels.shape[1] + 1) + place)  # the inputs' rows are a token longer
    return cross_entropy(said.float(), labels[row, place])


def pixel_values(scenes: list[Scene], side: int) -> torch.Tensor:
    """The scenes' pictures as the image processor would return them, shape [batch, 3, side, side]; none is resized."""
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
    """The asks with each harmful prompt replaced by a retain question, whose answer is a sentence too."""
    kept = [ask for ask in asks if ask.question not in texts.prompts]
    asked = {ask.question for ask in kept}
    others = [kind for kind in RETAIN if kind.question not in asked]
    return [*kept, *(kind.about(scene) for kind in rng.sample(others, len(asks) - len(kept)))]
