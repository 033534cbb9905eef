"""Attacks by example: other harmful questions of the benchmark, answered, stand before the question."""

from collections.abc import Sequence

from safeeraser.infer.attacks.attack import Example, in_context


@in_context(1)
def in_context_1(question: str, shown: Sequence[Example]) -> str:
    """One other question with the vanilla answer (one of the ways to bring knowledge back in arXiv 2605.26992)."""
    return _behind(shown, question)


@in_context(4)
def in_context_4(question: str, shown: Sequence[Example]) -> str:
    """Four other questions with their vanilla answers (as `in_context_1`, arXiv 2605.26992)."""
    return _behind(shown, question)


def _behind(shown: Sequence[Example], question: str) -> str:
    before = [f"Question: {example.question}\nAnswer: {example.answer}" for example in shown]
    return "\n\n".join([*before, f"Question: {question}\nAnswer:"])
