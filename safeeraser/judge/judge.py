"""What a judge is: it is asked a `Query`, a metric's question about one response, and gives a `Verdict`."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from safeeraser.benchmark.judged import WORDS
from safeeraser.benchmark.metrics import ASKED, METRICS
from safeeraser.benchmark.responses import view_of
from safeeraser.benchmark.wording import is_blank
from safeeraser.judge.costs import Spent

LACKS = ("failed", "unparsed", "declined")  # why there is a reply without a value


@dataclass(frozen=True)
class Query:
    """One question to a judge. It is text alone: no judge sees the picture, though one that knows it goes by its name.

    `place` is the pair's index in `unsafe_pairs`, or the key of an UnharmPair. `response` is None where the file has
    none. `reference` is the text a response is compared with (`gpt` only).
    """

    metric: str
    record: int
    place: int | str
    field: str
    category: str
    question: str
    response: str | None
    reference: str = ""
    number: int = 0  # of the record in its file
    picture: str = ""  # the one that was shown, as the data file names it

    @property
    def key(self) -> tuple:
        """What a recorded reply is found by."""
        return (self.metric, self.number, self.place, self.field)

    @property
    def view(self) -> str:
        """What was asked about: a view of `benchmark.responses`."""
        return view_of(self.field)

    @property
    def text(self) -> str:
        """The response; empty where there is none."""
        return self.response or ""

    @property
    def there(self) -> bool:
        """Whether there is a response, blank or not, and a reference where one is needed."""
        return self.response is not None and (self.metric != "gpt" or bool(self.reference.strip()))

    @property
    def blank(self) -> bool:
        """Whether the response is without a word."""
        return is_blank(self.text)

    @property
    def where(self) -> str:
        """How an error names the query."""
        place = f"pair {self.place}" if isinstance(self.place, int) else self.place
        return f"{self.metric}, record {self.number}, {place}, {self.field}"


@dataclass(frozen=True)
class Verdict:
    """A judge's raw reply to a query, and what it says: 1 where the metric counts it, 0 where not; for `gpt` a number.

    Attributes:
        lacks: why the value is None: one of `LACKS`.
        differs: under protocol `official`, whether a strict reading would say otherwise.
        asked: whether somebody was asked; of a blank response it is known without.
        finish: why the reply ended, as far as that is known.
        answered_by, fingerprint: the model that answered, as far as the server told.
        wrong: whether the response is neither the right answer nor a refusal; None from a judge that cannot know.
    """

    reply: str
    value: float | None
    lacks: str = ""
    differs: bool = False
    asked: bool = True
    finish: str | None = None
    answered_by: str | None = None
    fingerprint: str | None = None
    wrong: bool | None = None

    @property
    def counts(self) -> bool:
        """Whether the metric counts it, rather the one way than the other where the value is between."""
        return self.value is not None and self.value >= 0.5

    def word(self, metric: str) -> str | float:
        """The verdict in words, or as a number for `gpt`; why there is none, where there is none."""
        if self.value is None:
            return self.lacks
        if metric == "gpt":
            return self.value
        # A guard's file may give a grade a value between.
        return next((name for counted, name in WORDS[metric].values() if counted == self.value), self.value)


class Judge(ABC):
    """Answers queries with verdicts.

    Attributes:
        model: the one that is asked, if it is a model.
        decides: the metrics that the judge can tell; the others stay without a value, never made up.
        version: by which results tell it from an earlier state of its prompts, file or rules.
        judges_blank: whether it has an opinion on a blank response; the release's judge is never asked about one.
        refused, spent, failures: what a server did not take, what was paid, and which calls failed, by kind.
    """

    name: str
    model: str | None = None
    decides: frozenset[str]
    version: str = ""
    judges_blank: bool = False
    refused: frozenset[str] = frozenset()
    spent: Spent = Spent()
    failures: Mapping[str, int] = MappingProxyType({})

    @abstractmethod
    def ask(self, queries: Iterable[Query]) -> Iterator[tuple[Query, Verdict]]:
        """Yield each query with its verdict, in any order, as they come."""

    def foresee(self, queries: Iterable[Query]) -> Iterator[tuple[str, Spent]]:
        """Calls and tokens that asking would take, by metric: none, unless the judge is a model."""
        return iter(())

    def of_blank(self, query: Query) -> Verdict:
        """What a blank response is, whoever judges (protocol `corrected`); nobody is asked, and there is no reply."""
        return Verdict("", METRICS[ASKED[query.metric]].blank, asked=False)

    @property
    def title(self) -> str:
        """How results name the judge."""
        return f"{self.name}:{self.model}" if self.model else self.name
