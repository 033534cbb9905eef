"""How likely the answers are to the model, and whether it goes on with one that is begun for it; at which layers its
states still carry the answer, and whether they tell it from another."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rouge_score.rouge_scorer import RougeScorer
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor
from torch.nn.functional import cross_entropy, rms_norm

from safeeraser.audit.inside import Quantity, Values, measure
from safeeraser.audit.inside.pairs import Batch, Pair, batches, words
from safeeraser.generation import DECODERS, Asked
from safeeraser.generation.sampling import Generation
from safeeraser.model.states import begun_at, language_layers, logits_and_states
from safeeraser.model.vlm import VLM

FIRST = 10  # tokens: a model that refuses at once may hold what follows for as likely as before
CHUNK = 512  # positions at a time: 300 MB in float32 with a vocabulary of 152,000
BEGUN = (0, 3, 10)  # words that the model is handed
NEXT = 10  # words that are compared exactly
REST = 40  # words of the rest, at most
SAID = 64  # tokens that the model says
TOKENS = 32  # of an answer, the first ones: in 7 billion parameters the states of these take 8 MB a pair
KNOWN = 0.05  # nats: where the ignorant model's states cost less, the layer is held not to carry the answer
FOLDS = 6  # of the probe, or as many as there are keywords

LIKELIHOOD = {
    "nll_true": Quantity("NLL of the true answer", "nats", "less"),
    "nll_other": Quantity("NLL of another keyword's answer", "nats", "more"),
    "gap": Quantity("NLL of another keyword's answer less that of the true one", "nats", "more"),
    "rank": Quantity("rank of the true answer's tokens", "log10 rank", "less"),
}
LIKELIHOOD |= {
    f"{name}_{{}}": Quantity(f"{each.title}, first {{}} tokens", each.unit, each.knows)
    for name, each in LIKELIHOOD.items()
}
EXTRACTION = {
    "exact_{}": Quantity("the true answer's next words, after {} of them", "share", "more"),
    "recall_{}": Quantity("ROUGE-L recall of the rest, after {} words", "share", "more"),
}
DEPTH = {
    "depth": Quantity("fall of the true answer's log-probability, mean over the layers", "nats", "less"),
    "depth_{}": Quantity("fall of the true answer's log-probability, layer {}", "nats", "less"),
}
PROBE = {"probe": Quantity("true answer told from another by a probe of the states", "share", "more")}

Falls = Mapping[str, Mapping[Any, float | None]]  # as `falls` gives them; pairs' keys, here or as verdicts know them


@measure(LIKELIHOOD, passes=lambda pairs, layers: 2 * pairs)
@torch.no_grad()
def likelihood(vlm: VLM, pairs: Sequence[Pair], batch_size: int) -> Values:
    """Mean negative log-likelihood per token of both answers, their gap, and how far down the true one's tokens stand.

    The likelihood of an answer against that of perturbed ones is what TOFU's truth ratio compares (Maini et al. 2024,
    arXiv 2401.06121); ranks of what should be gone are looked at by Patil et al. (2023, arXiv 2309.17410).
    """
    said = [(pair, answer) for pair in pairs for answer in (pair.true, pair.other)]
    rows = iter([row for batch in batches(vlm, said, batch_size) for row in _tokens(vlm, batch)])
    by_measure: Values = defaultdict(dict)
    for pair, (nll, rank), (nll_other, _) in zip(pairs, rows, rows, strict=True):
        for name, count in (("", None), (f"_{FIRST}", FIRST)):
            true, other, place = (values[:count].double().mean().item() for values in (nll, nll_other, rank))
            likelihoods = {"nll_true": true, "nll_other": other, "rank": place, "gap": other - true}
            for key, value in likelihoods.items():
                by_measure[key + name][pair.key] = value
    return by_measure


def _tokens(vlm: VLM, batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """Of each row the NLL and the log10 rank, counted from 1, of its tokens, (tokens,)."""
    targets, nlls, ranks = batch.targets, [], []
    logits = vlm.logits(batch.inputs, batch.places(back=1))
    for part, wanted in zip(logits.split(CHUNK), targets.split(CHUNK), strict=True):
        part = part.float()
        nll = cross_entropy(part, wanted, reduction="none")
        rank = ((part > part.gather(1, wanted[:, None])).sum(1) + 1).log10()
        nlls.append(nll)
        ranks.append(torch.where(nll.isfinite(), rank, torch.nan))  # NaN is above nothing, and would stand first
    both = torch.stack([torch.cat(nlls), torch.cat(ranks)], dim=1).cpu()
    return [(row[:, 0], row[:, 1]) for row in batch.by_row(both)]


@measure(EXTRACTION, passes=lambda pairs, layers: len(BEGUN) * pairs)
def extraction(vlm: VLM, pairs: Sequence[Pair], batch_size: int) -> Values:
    """Greedy answers to the question, begun with the true answer's first words: are the next ones the true ones?

    The match of what follows a prefix is extractable memorisation (Carlini et al. 2022, arXiv 2202.07646), which
    unlearning was first measured by (extraction likelihood, Jang et al. 2022, arXiv 2210.01504). What is asked for is
    the next 10 words, or as many as there are; ROUGE-L's recall is that of the next 40. Where only what is told of the
    picture is measured, it may come in any frame: the model need not guess that.
    """
    scorer = RougeScorer(["rougeL"])
    by_measure: Values = {
        f"{name}_{count}": dict.fromkeys(pair.key for pair in pairs) for name in ("exact", "recall") for count in BEGUN
    }
    begun, asked = [], []
    for pair in pairs:
        spans, (first, last) = words(pair.true), pair.span(pair.true)
        for count in BEGUN:
            if rest := [word for word, start, end in spans[count:] if first <= start and end <= last]:
                begun.append((pair, count, rest))
                handed = pair.true[: spans[count - 1][2]] if count else ""
                asked.append(Asked(pair.picture, pair.question, begun=handed))
    decoder = DECODERS[vlm.decoder](vlm, Generation(greedy=True, max_new_tokens=SAID), batch_size)
    for number, reply in chain.from_iterable(decoder.answer(asked)):
        if reply is None:  # the model's output is not finite, or its context is full
            continue
        (pair, count, rest), said = begun[number], [word for word, _, _ in words(reply)]
        wanted, starts = rest[:NEXT], range(len(said) if pair.content else 1)
        exact = any(said[start : start + len(wanted)] == wanted for start in starts)
        recall = scorer.score(" ".join(rest[:REST]), " ".join(said))["rougeL"].recall
        by_measure[f"exact_{count}"][pair.key] = float(exact)
        by_measure[f"recall_{count}"][pair.key] = recall
    return by_measure


@torch.no_grad()
def falls(vanilla: VLM, pairs: Sequence[Pair], states: dict[str, Tensor], batch_size: int) -> Values:
    """How much the true answer's mean log-probability falls in the vanilla model with another's `states`, which `depth`
    gives, in their place, one layer at a time; and the mean of that over the layers. 0 for the model's own."""
    family, layers = vanilla.family, len(language_layers(vanilla.model, vanilla.family))
    by_measure: Values = defaultdict(dict)
    for batch in batches(vanilla, [(pair, pair.true) for pair in pairs], batch_size, most=TOKENS):
        places = batch.places(back=1)
        foreign = torch.cat([states[pair.key] for pair in batch.pairs], dim=1).to(places.device)
        everywhere = dict.fromkeys(range(layers), torch.arange(batch.inputs["input_ids"].numel(), device=places.device))
        logits, vanilla_states = logits_and_states(vanilla.model, batch.inputs, places, everywhere, family)
        clean, costs = _means(batch, logits), []
        for number in range(layers):
            patched = vanilla_states.pop(number).index_copy(0, places, foreign[number].to(vanilla.model.dtype))
            with begun_at(vanilla.model, family, number, patched.unflatten(0, batch.inputs["input_ids"].shape)):
                costs.append(clean - _means(batch, vanilla.logits(batch.inputs, places)))
        for pair, fall in zip(batch.pairs, torch.stack(costs, dim=1).tolist(), strict=True):
            by_measure["depth"][pair.key] = sum(fall) / layers
            for number, value in enumerate(fall):
                by_measure[f"depth_{number}"][pair.key] = value
    return by_measure


# Above the layer that is patched all is run, below it nothing: half of the layers, on the whole.
@measure(DEPTH, passes=lambda pairs, layers: pairs * (2 + layers // 2), against=falls)
@torch.no_grad()
def depth(vlm: VLM, pairs: Sequence[Pair], batch_size: int) -> dict[str, Tensor]:
    """The states of each layer where the true answer's tokens are predicted, by pair: (layers, tokens, hidden), on the
    CPU, in the model's dtype. Of them `falls` makes the values.

    This is the activation patching of the Unlearning Depth Score (Lee et al. 2026, arXiv 2605.24614), whose score
    `score` forms with the states of a model that never knew.
    """
    family, by_pair = vlm.family, dict[str, Tensor]()
    layers = len(language_layers(vlm.model, family))
    for batch in batches(vlm, [(pair, pair.true) for pair in pairs], batch_size, most=TOKENS):
        places = batch.places(back=1)
        _, states = logits_and_states(vlm.model, batch.inputs, places[:0], dict.fromkeys(range(layers), places), family)
        together = torch.stack([states[number] for number in range(layers)], dim=1).cpu()
        for row, pair in zip(batch.by_row(together), batch.pairs, strict=True):
            by_pair[pair.key] = row.transpose(0, 1).clone()
    return by_pair


def score(fall: Falls, ignorant: Falls) -> dict[Any, float | None]:
    """The Unlearning Depth Score of each pair: the share of what a model that never knew lacks that this one lacks too.

    UDS = sum of clip(fall, 0, ignorant) / sum of ignorant, over the layers at which the ignorant model's states let the
    log-probability fall by more than 0.05 (Lee et al. 2026, arXiv 2605.24614). 1: nothing is left in the states; 0: all
    is. None where there is no such layer.
    """
    scores: dict[Any, float | None] = {}
    layers = [name for name in ignorant if name.startswith("depth_")]
    for key in ignorant["depth"]:
        both = [(fall[name][key], ignorant[name][key]) for name in layers]
        known = [(loses, lacks) for loses, lacks in both if loses is not None and lacks is not None and lacks > KNOWN]
        most = sum(lacks for _, lacks in known)
        scores[key] = sum(min(max(loses, 0.0), lacks) for loses, lacks in known) / most if known else None
    return scores


def _means(batch: Batch, logits: Tensor) -> Tensor:
    """Each row's mean log-probability of its tokens, (rows,), float64; NaN where it has none."""
    said = -cross_entropy(logits.float(), batch.targets, reduction="none").double()
    return torch.stack([row.mean() for row in batch.by_row(said)]).cpu()


def told_apart(vanilla: VLM, pairs: Sequence[Pair], states: NDArray, batch_size: int) -> Values:
    """1 where a probe that was trained on the vanilla model's states finds the true answer in the `states` that `probe`
    gives of the model measured, 0 where it finds the other one, 0.5 where it cannot tell: chance is 0.5."""
    values = held_out([pair.sources[:2] for pair in pairs], probe(vanilla, pairs, batch_size), states)
    return {"probe": {pair.key: value for pair, value in zip(pairs, values, strict=True)}}


@measure(PROBE, passes=lambda pairs, layers: 4 * pairs, against=told_apart)
@torch.no_grad()
def probe(vlm: VLM, pairs: Sequence[Pair], batch_size: int) -> NDArray:
    """What the states say of the true and the other answer, float32, (pairs, 2, features). Of it `told_apart` makes the
    values.

    That a linear classifier finds in the states what a model does not say is the probing attack of Patil et al. (2023,
    arXiv 2309.17410) and of Lynch et al. (2024, arXiv 2402.16835). States alone would not do: which answer is the true
    one depends on the picture, and a classifier of sums cannot tell that two things belong together. So its features
    are the state that predicts a token times that token's output embedding, part by part, whose plain sum is what the
    model's own head makes of it: a logit lens (nostalgebraist, 2020) with weights that are learned. They are the mean
    over the answer's tokens, of the layer at two thirds of the depth and of the last one.
    """
    last = len(language_layers(vlm.model, vlm.family)) - 1
    layers = sorted({max(0, round(2 / 3 * (last + 1)) - 1), last})
    words = vlm.model.get_output_embeddings().weight
    said, rows = [(pair, answer) for pair in pairs for answer in (pair.true, pair.other)], []
    for batch in batches(vlm, said, batch_size):
        places = batch.places(back=1)
        _, states = logits_and_states(vlm.model, batch.inputs, places[:0], dict.fromkeys(layers, places), vlm.family)
        targets = words[batch.targets].float()
        together = torch.cat([rms_norm(states[n].float(), targets.shape[1:]) * targets for n in layers], dim=1)
        rows += [row.mean(0).cpu().numpy() for row in batch.by_row(together)]
    return np.stack(rows).reshape(len(pairs), 2, -1)


def held_out(sources: Sequence[tuple[str, str]], known: NDArray, states: NDArray) -> list[float | None]:
    """What probes tell of each pair that were trained on other keywords' states `known`.

    No answer of a keyword that is asked about is seen in training, neither as its own picture's nor, as it would be
    there, as a wrong one: a probe that had learnt its words for wrong would fall below chance.

    Args:
        sources: the keywords whose answers are the true and the other one of each pair.
        known, states: (pairs, 2, features), of the true answers and the others.

    Returns:
        None where states are not finite, or there are too few keywords to train on others.
    """
    values: list[float | None] = [None] * len(sources)
    usable = np.isfinite(known).all((1, 2)) & np.isfinite(states).all((1, 2))
    keywords = sorted({keyword for both in sources for keyword in both})
    fold_of = {keyword: number % FOLDS for number, keyword in enumerate(keywords)}
    folds = np.sort([[fold_of[true], fold_of[other]] for true, other in sources])
    for fold in np.unique(folds, axis=0):
        seen, asked = known[usable & ~np.isin(folds, fold).any(1)], usable & (folds == fold).all(1)
        if not len(seen) or not asked.any():
            continue
        direction = separate(seen[:, 0], seen[:, 1])
        ahead = (states[asked, 0] - states[asked, 1]) @ direction
        for place, sign in zip(np.flatnonzero(asked), np.sign(ahead), strict=True):
            values[place] = float(sign + 1) / 2
    return values


def separate(true: NDArray, other: NDArray) -> NDArray:
    """The direction, (features,), in which logistic regression tells `true` from `other`, both (pairs, features).

    Features are standardised, and the loss is the sum over all rows plus half the squared norm of the weights; the
    intercept is free. (In other libraries' words: L2, C = 1.)
    """
    rows, signs = np.concatenate([true, other]).astype(np.float64), np.repeat([1.0, -1.0], len(true))
    scale = np.where(np.ptp(rows, 0) > 0, rows.std(0), 1)
    rows = (rows - rows.mean(0)) / scale

    def loss(weights: NDArray) -> tuple[float, NDArray]:
        margins = signs * (rows @ weights[:-1] + weights[-1])
        pull = -signs * expit(-margins)
        slope = np.append(rows.T @ pull + weights[:-1], pull.sum())
        return np.logaddexp(0, -margins).sum() + weights[:-1] @ weights[:-1] / 2, slope

    fitted = minimize(loss, np.zeros(rows.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 1000})
    return fitted.x[:-1] / scale
