"""What a judge is, and how one is chosen."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from safeeraser.score.queries import Query

JUDGES = ("gpt-4o", "rules", "replay")


class Judge(Protocol):
    """Answers queries with raw replies, which `parse` reads.

    `decides` names the metrics the judge can tell; the others stay without a value, never made up.
    `judges_blank` says whether it has an opinion on an empty response; the release's judge is never asked about one.
    """

    name: str
    decides: frozenset[str]
    judges_blank: bool

    def reply(self, queries: Iterable[Query]) -> Iterator[tuple[Query, str]]:
        """Yield each query with its reply, in any order, as they arrive."""

    def finish(self) -> str:
        """Called once the outputs are written; returns what the user should know, or nothing."""
        return ""


def takes(judge: Judge, query: Query) -> bool:
    """Whether `query` is put to `judge`."""
    return query.metric in judge.decides and (not query.empty or (judge.judges_blank and query.response is not None))


def make_judge(
    name: str,
    *,
    model: str,
    api_key: str | None,
    base_url: str | None,
    concurrency: int,
    swapped: bool,
    replies: Path | None,
    ledger: Path,
) -> Judge:
    """The judge called `name`, ready to be asked. Only the chosen one's libraries are loaded.

    Args:
        swapped: hand GPT-Eval its two texts in the release's order.
        ledger: where a paid judge keeps its replies until the run is through.

    Raises:
        BadInput: the judge lacks what it needs: an API key, or a file of replies.
    """
    if name == "rules":
        from safeeraser.score.rules import RulesJudge

        return RulesJudge()
    if name == "replay":
        from safeeraser.score.replay import ReplayJudge

        return ReplayJudge(replies)
    from safeeraser.score.openai_judge import OpenAIJudge

    return OpenAIJudge(model, api_key, base_url, concurrency=concurrency, swapped=swapped, ledger=ledger)
