"""The judges of a run: which one each metric is put to, and asking them."""

import sys
from collections.abc import Iterable, Iterator
from functools import cached_property

from safeeraser.errors import BadInput
from safeeraser.judge.costs import Price, listed_price
from safeeraser.judge.judges import SERVED, Choice, Judge, Spent, by_metric, takes
from safeeraser.judge.queries import Query
from safeeraser.judge.verdicts import Verdict
from safeeraser.progress import progress
from safeeraser.score.options import Options

TIMEOUT = 60.0  # seconds of silence after which an attempt is given up
ENDS = {"gpt-4o": "2027-01-14"}  # models that OpenAI has announced to take off its API


class Panel:
    """The judges, one a metric. One that is named for several metrics, or for none else, is the same one.

    Raises:
        BadInput: a judge lacks what it needs (a key, a file of replies), or cannot decide the metric it is named for.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        choices = by_metric(options.judge, options.judges)
        if options.batch:
            _refuse_batch(choices.values())
        judges = {choice: _make(choice, options) for choice in dict.fromkeys(choices.values())}
        self._by_metric = {metric: judges[choice] for metric, choice in choices.items()}
        for metric, choice in options.judges.items():
            if choice and metric not in judges[choice].decides:
                able = ", ".join(sorted(judges[choice].decides))
                raise BadInput(f"--{metric}_judge {choice.name}: it cannot decide {metric} (it decides {able})")
        self.judges = list(judges.values())

    def of(self, metric: str) -> Judge:
        """The judge of a metric; it may be unable to decide it."""
        return self._by_metric[metric]

    @property
    def titles(self) -> dict[str, str]:
        """The judge of each metric that is decided, as results name it."""
        return {metric: judge.title for metric, judge in self._by_metric.items() if metric in judge.decides}

    @cached_property
    def prices(self) -> dict[str, Price | None]:
        """What each judge that is a model costs, by its title."""
        return {j.title: self.options.price or listed_price(j.model) for j in self.judges if j.name in SERVED}

    def assign(self, queries: list[Query]) -> dict[Judge, list[Query]]:
        """What each judge is asked."""
        assigned: dict[Judge, list[Query]] = {judge: [] for judge in self.judges}
        for query in queries:
            judge = self._by_metric[query.metric]
            if takes(judge, query):
                assigned[judge].append(query)
        return assigned

    def foresee(self, queries: list[Query]) -> Iterator[tuple[str, str, Spent]]:
        """Calls and tokens that asking would take: metric, judge's title, and how much."""
        for judge, its in self.assign(queries).items():
            if judge.name in SERVED:
                for metric, spent in judge.foresee(its):
                    yield metric, judge.title, spent

    def ask(self, queries: list[Query]) -> dict[Query, Verdict]:
        """The verdicts in the queries' order, whatever order they came in."""
        assigned = self.assign(queries)
        verdicts: dict[Query, Verdict] = {}
        with progress("verdicts", sum(map(len, assigned.values())), more=self._cost) as advance:
            for judge, its in assigned.items():
                for query, verdict in judge.ask(its):
                    verdicts[query] = verdict
                    advance(1)
        return {query: verdicts[query] for query in queries if query in verdicts}

    def _cost(self) -> str:
        priced = [judge for judge in self.judges if self.prices.get(judge.title)]
        dollars = sum(self.prices[judge.title].of(judge.spent, share=self.options.price_share) for judge in priced)
        return f", {dollars:.2f} US$" if priced else ""

    def failures(self) -> str:
        """Which calls failed, in words; empty if none did."""
        served = [judge for judge in self.judges if judge.name in SERVED]
        kinds = [f"{count} x {kind}" for judge in served for kind, count in judge.failures.most_common()]
        return ", ".join(kinds)


def _refuse_batch(choices: Iterable[Choice]) -> None:
    """Raises `BadInput` if there is nothing to judge in batches, or a judge whose server has none."""
    served = [choice.name for choice in choices if choice.name in SERVED]
    if not served:
        raise BadInput("--batch: none of the judges is asked over the network, so there is nothing to put into a batch")
    if guards := sorted(set(served) - {"openai"}):
        raise BadInput(f"--batch: the judge {guards[0]} runs on a server of your own; only openai judges in batches")


def _make(choice: Choice, options: Options) -> Judge:
    """Only the chosen ones' libraries are loaded."""
    if choice.name == "rules":
        from safeeraser.judge.rules import RulesJudge

        return RulesJudge()
    if choice.name == "replay":
        from safeeraser.judge.replay import ReplayJudge

        return ReplayJudge(options.replies)
    from safeeraser.chat import Chat, read_key
    from safeeraser.judge.batch import BatchChat
    from safeeraser.judge.dialects import dialect
    from safeeraser.judge.served import ChatJudge
    from safeeraser.judge.store import Store

    if choice.name != "openai" and not choice.base_url:
        raise BadInput(f"the judge {choice.name} runs on a server of your own: give its address with --base_url")
    spoken = dialect(choice.name, swapped=options.official)
    model = choice.model or spoken.model
    who = f"the judge {choice.name}"
    key = "none"
    if not options.dry_run:
        key = read_key(options.api_key, choice.base_url, who=who, otherwise="--judge rules needs none")
    server = {"api_key": key, "base_url": choice.base_url, "concurrency": options.concurrency, "timeout": TIMEOUT}
    store = Store(options.store)
    if options.batch:
        chat = BatchChat(model, store=store, **server)
    else:
        chat = Chat(model, requests_per_minute=options.requests_per_minute, **server)
    judge = ChatJudge(spoken, model, chat, store, options.extra_body)
    if model in ENDS and not choice.base_url:
        print(f"note: {model} is announced to leave OpenAI's API on {ENDS[model]}", file=sys.stderr)
    return judge
