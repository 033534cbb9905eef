"""What a judge is, and how the judges of a run are chosen."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from safeeraser.arguments import one_of, without_credentials
from safeeraser.benchmark import wording
from safeeraser.benchmark.metrics import ASKED
from safeeraser.benchmark.truth import read_truth
from safeeraser.errors import BadInput
from safeeraser.judge import prompts
from safeeraser.judge.costs import Price, Spent
from safeeraser.judge.dialects import GENERAL, SERVED, read_guard
from safeeraser.judge.queries import Query
from safeeraser.judge.verdicts import Verdict

PROTOCOLS = ("official", "corrected")
# The judges that are no model: a name, which is its module's in this room, and its class there, made of a `Judging`.
OWN = {
    "rules": "RulesJudge",
    "truth": "TruthJudge",
    "replay": "ReplayJudge",
}
JUDGES = (*SERVED, *OWN)


class Judge(Protocol):
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

    def ask(self, queries: Iterable[Query]) -> Iterator[tuple[Query, Verdict]]:
        """Yield each query with its verdict, in any order, as they come."""

    def foresee(self, queries: Iterable[Query]) -> Iterator[tuple[str, Spent]]:
        """Calls and tokens that asking would take, by metric: none, unless the judge is a model."""
        return iter(())

    def of_blank(self, query: Query) -> Verdict:
        """What a blank response is, whoever judges (protocol `corrected`); nobody is asked."""
        return Verdict.of_blank(query.metric)

    @property
    def title(self) -> str:
        """How results name the judge."""
        return f"{self.name}:{self.model}" if self.model else self.name


@dataclass(frozen=True)
class Choice:
    """A judge as it is named on the command line: `NAME`, `NAME:MODEL`, `NAME@ADDRESS` or `NAME:MODEL@ADDRESS`."""

    name: str
    model: str | None = None
    base_url: str | None = field(default=None, repr=False)  # may hold credentials

    @classmethod
    def parse(cls, text: str) -> "Choice":
        """Raises `BadInput` for an unknown name, or a model or address where there can be none."""
        rest, _, base_url = text.partition("@")
        name, _, model = rest.partition(":")
        choice = cls(one_of("judge", JUDGES)(name), model or None, base_url or None)
        if not choice.served and (model or base_url):
            raise BadInput(f"the judge {name} is no model, so it takes neither model nor address")
        return choice

    @property
    def served(self) -> bool:
        """Whether it is a model behind a server."""
        return self.name in SERVED

    @property
    def told(self) -> dict[str, Any]:
        """The choice as results carry it: without a name and a password that the address may hold."""
        return asdict(self) | {"base_url": without_credentials(self.base_url)}


@dataclass(frozen=True)
class Judging:
    """Who judges, and how a judge behind a server is asked; the command line's help describes each."""

    judge: Choice = Choice("openai")
    judges: dict[str, Choice | None] = field(default_factory=dict)  # by metric, where it is another one
    protocol: str = "official"
    api_key: str | None = field(default=None, repr=False)
    concurrency: int = 32
    requests_per_minute: int | None = None
    max_tokens: int | None = None  # of a reply; None: what the judge's kind needs
    extra_body: dict[str, Any] = field(default_factory=dict)
    store: Path = Path("results/verdicts.jsonl")
    store_shared: bool = False  # several processes at once judge what is not the same
    price: Price | None = None
    batch: bool = False
    replies: Path | None = None
    data: Path | None = None  # the file whose questions were answered; beside it may stand what is true
    dry_run: bool = False

    @property
    def official(self) -> bool:
        """Whether replies are read as the release reads them, and GPT-Eval's texts swapped as there."""
        return self.protocol == "official"

    @property
    def price_share(self) -> float:
        """What of the list price is paid."""
        return 0.5 if self.batch else 1.0

    @property
    def choices(self) -> dict[str, Choice]:
        """The judge of each metric: the one named for it, or the main one."""
        return {metric: self.judges.get(metric) or self.judge for metric in ASKED}

    @property
    def versions(self) -> dict[str, Any]:
        """Which prompts, rules and guards these are, as results carry it."""
        guards = {choice.name for choice in self.choices.values() if choice.served} - {GENERAL}
        states = {name: read_guard(name).version for name in sorted(guards)}
        told = {"prompts": prompts.version(), "rules": wording.version(), "guards": states}
        knowing = any(choice.name == "truth" for choice in self.choices.values())
        return told | ({"truth": read_truth(self.data).version} if knowing and self.data else {})

    @property
    def told(self) -> dict[str, Any]:
        """What the verdicts depend on beside the responses, as results carry it."""
        others = {metric: choice.told for metric, choice in self.judges.items() if choice}
        asked = {key: getattr(self, key) for key in ("protocol", "max_tokens", "extra_body")}
        return {"judge": self.judge.told, "judges": others, **asked, **self.versions}
