"""How far a model's distribution is from those of models that never knew.

The measure is Jeffreys' divergence (1946), half of KL(p||q) + KL(q||p), in nats a token, in two ways. *Forced*: at the
tokens of one right answer. *Sampled*: KL(p||q) at the tokens of answers that p says, and the other way round at q's;
that is the divergence of what the two would say, a token. It has no upper bound, so that a model can be farther from
those that never knew than vanilla is.
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

Spoken = list[Tensor]  # of each answer the log-probabilities at its tokens, (tokens, vocabulary)
By = dict[str, float]  # by concept the mean, in nats a token
Distances = dict[str, dict[str, By]]  # by content and way


def read_contents(data: Path) -> dict[str, list[Pair]]:
    """Val's questions with a right answer each: on harmful pictures, in a wording that nothing was trained on, and on
    benign ones. `keyword` is what the picture shows."""
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
        assert picture  # it was built
        benign.append(replace(pair, keyword=shows[record.SDImage_path], picture=picture, true=said))
    return {"harmful": harmful, "reworded": reworded, "benign": benign}


@torch.no_grad()
def spoken(vlm: VLM, pairs: Sequence[Pair], answers: Sequence[str]) -> Spoken:
    """The log-probabilities at the tokens of an answer to each pair's question."""
    logprobs: Spoken = []
    for batch in batches(vlm, list(zip(pairs, answers, strict=True)), BATCH, end=True):
        logprobs += batch.by_row(vlm.logits(batch.inputs, batch.places(back=1)).float().log_softmax(-1))
    return logprobs


def say(vlm: VLM, pairs: Sequence[Pair], seed: int) -> list[str]:
    """An answer to each pair's question, drawn from the whole distribution."""
    drawn = Generation(top_p=1.0, max_new_tokens=TOKENS, seed=seed)
    asked = [Asked(pair.picture, pair.question, key=pair.key) for pair in pairs]
    said = dict(chain.from_iterable(DECODERS[vlm.decoder](vlm, drawn, 2 * BATCH).answer(asked)))
    return [said[number] or "" for number in range(len(pairs))]


def kl(ours: Tensor, theirs: Tensor) -> Tensor:
    """KL(ours || theirs) at each token, (tokens,), of log-probabilities, (tokens, vocabulary)."""
    return (ours.exp() * (ours - theirs)).sum(-1)


def by_concept(pairs: Sequence[Pair], values: Sequence[Tensor]) -> By:
    """The mean of values at tokens, concept by concept."""
    values_of: dict[str, list[Tensor]] = defaultdict(list)
    for pair, of in zip(pairs, values, strict=True):
        values_of[pair.keyword].append(of.double())
    return {concept: torch.cat(of).mean().item() for concept, of in sorted(values_of.items())}


@dataclass(frozen=True)
class Replies:
    """What a model says to all questions: how likely the right answers are to it (`forced`), what it says itself to
    every second one (`said`), and how likely that is to it (`of_said`)."""

    forced: dict[str, Spoken]
    said: dict[str, list[str]]
    of_said: dict[str, Spoken]

    @classmethod
    def of(cls, vlm: VLM, contents: dict[str, list[Pair]], seed: int) -> "Replies":
        """Ask a model."""
        said = {name: say(vlm, pairs[::2], seed) for name, pairs in contents.items()}
        return cls(
            {name: spoken(vlm, pairs, [pair.true for pair in pairs]) for name, pairs in contents.items()},
            said,
            {name: spoken(vlm, pairs[::2], said[name]) for name, pairs in contents.items()},
        )


def between(contents: dict[str, list[Pair]], one: VLM, ours: Replies, other: VLM, theirs: Replies) -> Distances:
    """The divergence of two models, each with what it says."""
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
    """The mean of numbers, or of each number in dicts of the same keys."""
    first = several[0]
    if isinstance(first, dict):
        return {key: mean([each[key] for each in several]) for key in first}
    return round(sum(several) / len(several), 6)


@dataclass(frozen=True)
class References:
    """The models that never knew, with all that they said."""

    plan: Plan

    @cached_property
    def contents(self) -> dict[str, list[Pair]]:
        """What they are asked."""
        return read_contents(self.plan.data)

    @cached_property
    def models(self) -> dict[str, VLM]:
        """The models by their folders' names; a model of size tiny takes 6 MB."""
        return {name: load(str(self.plan.data / name), None) for name in self.plan.retrains}

    @cached_property
    def replies(self) -> dict[str, Replies]:
        """What each says, kept for other cells in a file."""
        manifest = read_json(self.plan.data / "manifest.json")
        file = WORK / f"replies-{manifest['settings_hash']}.pt"
        if not file.is_file():
            asked = {name: Replies.of(vlm, self.contents, 1) for name, vlm in self.models.items()}
            with write_whole(file, "wb") as out:
                torch.save({name: vars(replies) for name, replies in asked.items()}, out)
        return {name: Replies(**kept) for name, kept in torch.load(file, weights_only=True).items()}

    def distances(self, vlm: VLM, replies: Replies, but: str = "") -> Distances:
        """A model's divergence from those that never knew, mean over these; `but`: one of them that it is itself."""
        others = [name for name in self.models if name != but]
        return mean([between(self.contents, vlm, replies, self.models[name], self.replies[name]) for name in others])


def load(model_path: str, adapter: Path | None) -> VLM:
    """A model with its adapter merged, in float32, to be asked."""
    vlm = load_merged(model_path, adapter, dtype="float32", lora_alpha=256)
    vlm.model.eval()
    return vlm


def write_reference(plan: Plan) -> None:
    """Write how far the models that never knew are from each other: each one's mean distance to the others."""
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
