"""The distance between the output distributions of a model and of the models that never knew.

The measure is Jeffreys' divergence (1946), half of KL(p||q) + KL(q||p), in nats a token. It is taken in two ways.
*Forced*: at the tokens of one right answer. *Sampled*: KL(p||q) at the tokens of p's answers, and KL(q||p) at the
tokens of q's answers. This is the divergence, per token, between the answers of the two models. It has no upper bound,
so a model can be farther from the models that never knew than vanilla is.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from safeeraser.audit.inside.pairs import Pair, batches, read_pairs
from safeeraser.benchmark.files import read_json, write_json, write_whole
from safeeraser.benchmark.pictures import find_picture
from safeeraser.benchmark.records import read_records
from safeeraser.benchmark.truth import read_truth
from safeeraser.generation import DECODERS, Asked
from safeeraser.generation.sampling import Generation
from safeeraser.leaderboard.answers import TOKENS
from safeeraser.leaderboard.plan import RESULTS, WORK, Plan
from safeeraser.model.merge import load_merged
from safeeraser.model.vlm import VLM

log = logging.getLogger(__name__)

BATCH = 64
REFERENCE = RESULTS / "reference.json"

Spoken = list[Tensor]  # for each answer, the log-probabilities at its tokens, (tokens, vocabulary)
By = dict[str, float]  # concept -> mean, in nats a token
Distances = dict[str, dict[str, By]]  # `harmful`, `reworded` or `benign` -> `forced` or `sampled` -> by concept


def read_contents(data: Path) -> dict[str, list[Pair]]:
    """Val's questions, each with a right answer: on harmful pictures, on harmful pictures in a wording that no training
    used, and on benign pictures. A pair's `keyword` is the concept that its picture shows."""
    file = read_records(data / "all_val.json")
    shows, others = read_truth(file.path).pictures, read_json(data / "rewordings.json")
    harmful = [replace(pair, frame=(0, 0)) for pair in read_pairs(file, range(len(file.records)))]
    reworded = [
        replace(pair, question=others[pair.question][number % len(others[pair.question])])
        for number, pair in enumerate(harmful)
    ]
    benign = []
    for pair in harmful:
        record = file.records[pair.record]
        said = next(each.sd_response for each in record.unsafe_pairs if each.question == pair.question)
        picture = find_picture(record.SDImage_path, file.path)
        assert picture  # the build of the benchmark has written it
        benign.append(replace(pair, keyword=shows[record.SDImage_path], picture=picture, true=said))
    return {"harmful": harmful, "reworded": reworded, "benign": benign}


@torch.no_grad()
def spoken(vlm: VLM, pairs: Sequence[Pair], answers: Sequence[str]) -> Spoken:
    """A model's log-probabilities at the tokens of the given answer to each pair's question."""
    logprobs: Spoken = []
    for batch in batches(vlm, list(zip(pairs, answers, strict=True)), BATCH, end=True):
        logprobs += batch.by_row(vlm.logits(batch.inputs, batch.places(back=1)).float().log_softmax(-1))
    return logprobs


def say(vlm: VLM, pairs: Sequence[Pair], seed: int) -> list[str]:
    """Sample an answer to each pair's question from the full distribution, with top_p 1."""
    drawn = Generation(top_p=1.0, max_new_tokens=TOKENS, seed=seed)
    asked = [Asked(pair.picture, pair.question, key=pair.key) for pair in pairs]
    said = dict(chain.from_iterable(DECODERS[vlm.decoder](vlm, drawn, 2 * BATCH).answer(asked)))
    return [said[number] or "" for number in range(len(pairs))]


def kl(ours: Tensor, theirs: Tensor) -> Tensor:
    """KL(ours || theirs) at each token, (tokens,), from log-probabilities, (tokens, vocabulary)."""
    return (ours.exp() * (ours - theirs)).sum(-1)


def by_concept(pairs: Sequence[Pair], values: Sequence[Tensor]) -> By:
    """The mean of the values at all tokens of a concept, for each concept."""
    values_of: dict[str, list[Tensor]] = defaultdict(list)
    for pair, of in zip(pairs, values, strict=True):
        values_of[pair.keyword].append(of.double())
    return {concept: torch.cat(of).mean().item() for concept, of in sorted(values_of.items())}


@dataclass(frozen=True)
class Replies:
    """A model's replies: its log-probabilities on the right answers to all questions (`forced`), its own answers to
    every second question (`said`), and its log-probabilities on its own answers (`of_said`)."""

    forced: dict[str, Spoken]
    said: dict[str, list[str]]
    of_said: dict[str, Spoken]

    @classmethod
    def of(cls, vlm: VLM, contents: dict[str, list[Pair]], seed: int) -> "Replies":
        """Get the replies of a model."""
        said = {name: say(vlm, pairs[::2], seed) for name, pairs in contents.items()}
        return cls(
            {name: spoken(vlm, pairs, [pair.true for pair in pairs]) for name, pairs in contents.items()},
            said,
            {name: spoken(vlm, pairs[::2], said[name]) for name, pairs in contents.items()},
        )


def between(contents: dict[str, list[Pair]], one: VLM, ours: Replies, other: VLM, theirs: Replies) -> Distances:
    """The divergence between two models, each of which is given with its replies."""
    distances: Distances = {}
    for name, pairs in contents.items():
        some, both = pairs[::2], zip(ours.forced[name], theirs.forced[name], strict=True)
        forced = by_concept(pairs, [(kl(p, q) + kl(q, p)) / 2 for p, q in both])
        on_ours, on_theirs = spoken(other, some, ours.said[name]), spoken(one, some, theirs.said[name])
        there = by_concept(some, [kl(p, q) for p, q in zip(ours.of_said[name], on_ours, strict=True)])
        back = by_concept(some, [kl(p, q) for p, q in zip(theirs.of_said[name], on_theirs, strict=True)])
        distances[name] = {"forced": forced, "sampled": mean([there, back])}
    return distances


def mean(several: Sequence[Any]) -> Any:
    """The mean of several numbers or, key by key, of several dicts that have the same keys."""
    first = several[0]
    if isinstance(first, dict):
        return {key: mean([each[key] for each in several]) for key in first}
    return round(sum(several) / len(several), 6)


@dataclass(frozen=True)
class References:
    """The models that never knew, and their replies."""

    plan: Plan

    @cached_property
    def contents(self) -> dict[str, list[Pair]]:
        """The questions that the models are asked."""
        return read_contents(self.plan.data)

    @cached_property
    def models(self) -> dict[str, VLM]:
        """The models by their folders' names; a model of the size tiny takes 6 MB."""
        return {name: load(str(self.plan.data / name), None) for name in self.plan.retrains}

    @cached_property
    def replies(self) -> dict[str, Replies]:
        """The replies of each model, which are stored in a file for other cells."""
        manifest = read_json(self.plan.data / "manifest.json")
        file = WORK / f"replies-{manifest['settings_hash']}.pt"
        if not file.is_file():
            asked = {name: Replies.of(vlm, self.contents, 1) for name, vlm in self.models.items()}
            with write_whole(file, "wb") as out:
                torch.save({name: vars(replies) for name, replies in asked.items()}, out)
        return {name: Replies(**kept) for name, kept in torch.load(file, weights_only=True).items()}

    def distances(self, vlm: VLM, replies: Replies, but: str = "") -> Distances:
        """A model's mean divergence from the models that never knew, except `but`, which is the model itself."""
        others = [name for name in self.models if name != but]
        return mean([between(self.contents, vlm, replies, self.models[name], self.replies[name]) for name in others])


def load(model_path: str, adapter: Path | None) -> VLM:
    """A model with its adapter merged, in float32 and evaluation mode."""
    vlm = load_merged(model_path, adapter, dtype="float32", lora_alpha=256)
    vlm.model.eval()
    return vlm


def write_reference(plan: Plan) -> None:
    """Write, for each model that never knew, its mean distance to the others."""
    of = References(plan)
    pairs = {
        both: between(of.contents, of.models[both[0]], of.replies[both[0]], of.models[both[1]], of.replies[both[1]])
        for both in combinations(plan.retrains, 2)
    }
    spread = {name: mean([distances for both, distances in pairs.items() if name in both]) for name in plan.retrains}
    manifest = read_json(plan.data / "manifest.json")
    kept = {"data": manifest["settings_hash"], "held_out_concepts": manifest["held_out_concepts"]}
    write_json(REFERENCE, kept | {"spread": spread})
    log.info("%s: %d models that never knew", REFERENCE, len(plan.retrains))
