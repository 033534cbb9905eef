"""What a judge is, and how the judges of a run are chosen."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from safeeraser.arguments import one_of
from safeeraser.errors import BadInput
from safeeraser.judge.queries import METRICS, Query
from safeeraser.judge.verdicts import Verdict

SERVED = ("openai", "qwen3guard", "llamaguard")  # models behind a server, see `dialects`
JUDGES = (*SERVED, "rules", "replay")


@dataclass(frozen=True)
class Spent:
    """Calls, and the tokens they took."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )


class Judge(Protocol):
    """Answers queries with verdicts.

    Attributes:
        model: the one that is asked, if it is a model.
        decides: the metrics that the judge can tell; the others stay without a value, never made up.
        judges_blank: whether it has an opinion on an empty response; the release's judge is never asked about one.
    """

    name: str
    model: str | None = None
    decides: frozenset[str]
    judges_blank: bool

    def ask(self, queries: Iterable[Query]) -> Iterator[tuple[Query, Verdict]]:
        """Yield each query with its verdict, in any order, as they come."""

    @property
    def title(self) -> str:
        """How results name the judge."""
        return f"{self.name}:{self.model}" if self.model else self.name


def takes(judge: Judge, query: Query) -> bool:
    """Whether `query` is put to `judge`."""
    return query.metric in judge.decides and (not query.empty or (judge.judges_blank and query.response is not None))


@dataclass(frozen=True)
class Choice:
    """A judge as it is named on the command line: `NAME`, `NAME:MODEL`, `NAME@ADDRESS` or `NAME:MODEL@ADDRESS`."""

    name: str
    model: str | None = None
    base_url: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Choice":
        """Raises `BadInput` for an unknown name, or a model or address where there can be none."""
        rest, _, base_url = text.partition("@")
        name, _, model = rest.partition(":")
        choice = cls(one_of("judge", JUDGES)(name), model or None, base_url or None)
        if choice.name not in SERVED and (model or base_url):
            raise BadInput(f"the judge {name} is no model, so it takes neither model nor address")
        return choice


def by_metric(main: Choice, others: dict[str, Choice | None]) -> dict[str, Choice]:
    """The judge of each metric: the one named for it, or the main one."""
    return {metric: others.get(metric) or main for metric in METRICS}
