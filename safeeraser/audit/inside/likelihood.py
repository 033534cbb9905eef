"""How likely the answers are to the model, whatever it says, and whether it goes on with one that is begun for it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from safeeraser.audit.inside import Quantity, Values, measure
from safeeraser.audit.inside.pairs import Batch, Pair, batches, words
from safeeraser.generation import DECODERS, Asked
from safeeraser.generation.sampling import Generation
from safeeraser.model import VLM

FIRST = 10  # tokens: a model that refuses at once may hold what follows for as likely as before
CHUNK = 512  # positions at a time: 300 MB in float32 with a vocabulary of 152,000
BEGUN = (0, 3, 10)  # words that the model is handed
NEXT = 10  # words that are compared exactly
REST = 40  # words of the rest, at most
TOKENS = 64  # that the model says

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


@measure(LIKELIHOOD, passes=lambda pairs, layers: 2 * pairs)
@torch.no_grad()
def likelihood(vlm: VLM, pairs: Sequence[Pair], batch_size: int) -> Values:
    """Mean negative log-likelihood per token of both answers, their gap, and how far down the true one's tokens stand.

    The likelihood of an answer against that of perturbed ones is what TOFU's truth ratio compares (Maini et al. 2024,
    arXiv 2401.06121); ranks of what should be gone are looked at by Patil et al. (2023, arXiv 2309.17410).
    """
    said = [(pair, answer) for pair in pairs for answer in (pair.true, pair.other)]
    rows = iter([row for batch in batches(vlm, said, batch_size) for row in _tokens(vlm, batch)])
    found: Values = {}
    for pair, (nll, rank), (nll_other, _) in zip(pairs, rows, rows, strict=True):
        for name, count in (("", None), (f"_{FIRST}", FIRST)):
            true, other = _mean(nll[:count]), _mean(nll_other[:count])
            told = {"nll_true": true, "nll_other": other, "rank": _mean(rank[:count])}
            told["gap"] = None if true is None or other is None else other - true
            for key, value in told.items():
                found.setdefault(key + name, {})[pair.key] = value
    return found


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


def _mean(values: Tensor) -> float | None:
    return values.double().mean().item() if len(values) else None


class _Begun(NamedTuple):
    pair: Pair
    handed: int  # words of the answer that the model is given
    text: str  # up to the last of them
    rest: list[str]  # the words that are to come


@measure(EXTRACTION, passes=lambda pairs, layers: len(BEGUN) * pairs)
def extraction(vlm: VLM, pairs: Sequence[Pair], batch_size: int) -> Values:
    """Greedy answers to the question, begun with the true answer's first words: are the next ones the true ones?

    The match of what follows a prefix is extractable memorisation (Carlini et al. 2022, arXiv 2202.07646), which
    unlearning was first measured by (extraction likelihood, Jang et al. 2022, arXiv 2210.01504). What is asked for is
    the next 10 words, or as many as there are; ROUGE-L's recall is that of the next 40. Where only what is told of the
    picture is measured, it may come in any frame: the model need not guess that.
    """
    from rouge_score.rouge_scorer import RougeScorer  # brings half a second of other libraries along

    scorer = RougeScorer(["rougeL"])
    found: Values = {
        f"{name}_{count}": dict.fromkeys(pair.key for pair in pairs) for name in ("exact", "recall") for count in BEGUN
    }
    begun = [each for pair in pairs for count in BEGUN if (each := _begin(pair, count)).rest]
    for each, reply in zip(begun, _replies(vlm, begun, batch_size), strict=True):
        if reply is None:
            continue
        said, wanted = [word for word, _, _ in words(reply)], each.rest[:NEXT]
        starts = range(len(said) if each.pair.content else 1)
        exact = any(said[start : start + len(wanted)] == wanted for start in starts)
        recall = scorer.score(" ".join(each.rest[:REST]), " ".join(said))["rougeL"].recall
        found[f"exact_{each.handed}"][each.pair.key] = float(exact)
        found[f"recall_{each.handed}"][each.pair.key] = recall
    return found


def _begin(pair: Pair, count: int) -> _Begun:
    said, (first, last) = words(pair.true), pair.span(pair.true)
    text = pair.true[: said[count - 1][2]] if 0 < count <= len(said) else ""
    return _Begun(pair, count, text, [word for word, start, end in said[count:] if first <= start and end <= last])


def _replies(vlm: VLM, begun: Sequence[_Begun], batch_size: int) -> list[str | None]:
    """What the model says behind each beginning; None where its output is not finite, or its context is full."""
    decoder = DECODERS[vlm.decoder](vlm, Generation(greedy=True, max_new_tokens=TOKENS), batch_size)
    asked = [Asked(each.pair.picture, each.pair.question, begun=each.text) for each in begun]
    replies: list[str | None] = [None] * len(asked)
    for ended in decoder.answer(asked):
        for number, reply in ended:
            replies[number] = reply
    return replies
