"""The judges of a run: which one each metric is put to, and asking them."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import date
from functools import cached_property
from importlib import import_module
from typing import Any

from safeeraser.benchmark.truth import TRUTH
from safeeraser.errors import BadInput
from safeeraser.judge.costs import Price, Spent, listed_price
from safeeraser.judge.judges import OWN, Choice, Judge, Judging
from safeeraser.judge.queries import Query
from safeeraser.judge.verdicts import Verdict
from safeeraser.keys import NONE, OF_HOST, OPENAI_KEY, ApiKey, address_of, host_of, is_openai, openai_key, read_key
from safeeraser.progress import progress

TIMEOUT = 60.0  # seconds of silence after which an attempt is given up
ENDS = {"gpt-4o": date(2027, 1, 14)}  # models that OpenAI has announced to take off its API
NOTICE = 90  # days


class Panel:
    """The judges, one a metric. One that is named for several metrics, or for none else, is the same one.

    Raises:
        BadInput: a judge lacks what it needs (a key, a file of replies), or cannot decide the metric it is named for.
    """

    def __init__(self, judging: Judging) -> None:
        self.judging = judging
        if judging.batch:
            _refuse_batch(judging.choices.values())
        judges = {choice: _make(choice, judging) for choice in dict.fromkeys(judging.choices.values())}
        self.by_metric = {metric: judges[choice] for metric, choice in judging.choices.items()}
        for metric, choice in judging.judges.items():
            if choice and metric not in judges[choice].decides:
                able = ", ".join(sorted(judges[choice].decides))
                raise BadInput(f"--{metric}_judge {choice.name}: it cannot decide {metric} (it decides {able})")
        self.judges = list(judges.values())
        self.served = [judge for judge in self.judges if judge.model]

    def of(self, metric: str) -> Judge | None:
        """The judge that decides a metric, if one does."""
        judge = self.by_metric[metric]
        return judge if metric in judge.decides else None

    @property
    def titles(self) -> dict[str, str]:
        """The judge of each metric that is decided, as results name it."""
        return {metric: judge.title for metric in self.by_metric if (judge := self.of(metric))}

    @cached_property
    def prices(self) -> dict[str, Price | None]:
        """What each judge that is a model costs, by its title."""
        return {judge.title: self.judging.price or listed_price(judge.model) for judge in self.served}

    def assign(self, queries: list[Query]) -> dict[Judge, list[Query]]:
        """What each judge is asked. A blank response is put to nobody, but for a judge that knows what it is."""
        assigned: dict[Judge, list[Query]] = {judge: [] for judge in self.judges}
        for query in queries:
            judge = self.of(query.metric)
            if judge and query.there and (not query.blank or (judge.judges_blank and self.judging.official)):
                assigned[judge].append(query)
        return assigned

    def foresee(self, queries: list[Query]) -> Iterator[tuple[str, str, Spent]]:
        """Calls and tokens that asking would take: metric, judge's title, and how much."""
        for judge, its in self.assign(queries).items():
            yield from ((metric, judge.title, spent) for metric, spent in judge.foresee(its))

    def ask(self, queries: list[Query]) -> dict[Query, Verdict]:
        """The verdicts in the queries' order, whatever order they came in.

        Under protocol `corrected` a blank response is what it is, whoever judges; under `official` it has no verdict,
        as in the release.
        """
        assigned = self.assign(queries)
        verdicts: dict[Query, Verdict] = {}
        if not self.judging.official:
            blank = (query for query in queries if query.there and query.blank)
            verdicts |= {query: judge.of_blank(query) for query in blank if (judge := self.of(query.metric))}
        with progress("verdicts", sum(map(len, assigned.values())), more=self._cost) as advance:
            for judge, its in assigned.items():
                for query, verdict in judge.ask(its):
                    verdicts[query] = verdict
                    advance(1)
        return {query: verdicts[query] for query in queries if query in verdicts}

    def answered_by(self, verdicts: dict[Query, Verdict]) -> list[dict[str, str | int | None]]:
        """Which models the servers say have answered, with the number of replies; None where they do not say."""
        counts = Counter(
            (judge.title, *verdict.by)
            for query, verdict in verdicts.items()
            if (judge := self.by_metric[query.metric]).model and verdict.asked and verdict.lacks != "failed"
        )
        keys = ("judge", "model", "fingerprint")
        return [dict(zip(keys, who, strict=True)) | {"replies": count} for who, count in counts.most_common()]

    def failures(self) -> str:
        """Which calls failed, in words; empty if none did."""
        return ", ".join(
            f"{count} x {kind}" for judge in self.served for kind, count in Counter(judge.failures).most_common()
        )

    def _cost(self) -> str:
        share = self.judging.price_share
        prices = ((judge, self.prices[judge.title]) for judge in self.served)
        priced = [price.of(judge.spent, share=share) for judge, price in prices if price]
        return f", {sum(priced):.2f} US$" if priced else ""


def leaving(model: str, today: date) -> str | None:
    """What must be known of a model that leaves OpenAI's API soon, or has left; None if there is nothing to say."""
    end = next((end for name, end in ENDS.items() if model == name or model.startswith(f"{name}-20")), None)
    if end is None or (days := (end - today).days) > NOTICE:
        return None
    when = f"leaves OpenAI's API on {end}, in {days} days" if days > 0 else f"was to leave OpenAI's API on {end}"
    return f"{model} {when}; docs/scoring.md says how to bridge to another judge"


def _refuse_batch(choices: Iterable[Choice]) -> None:
    """Raises `BadInput` if there is nothing to judge in batches, or a judge whose server has none."""
    served = {choice.name for choice in choices if choice.served}
    if not served:
        raise BadInput("--batch: none of the judges is asked over the network, so there is nothing to put into a batch")
    if guards := sorted(served - {"openai"}):
        raise BadInput(f"--batch: the judge {guards[0]} runs on a server of your own; only openai judges in batches")


def _make(choice: Choice, judging: Judging) -> Judge:
    """Only the chosen ones' libraries are loaded."""
    if not choice.served:
        return getattr(import_module(f"safeeraser.judge.{choice.name}"), OWN[choice.name])(judging)
    from safeeraser.chat import Chat
    from safeeraser.judge.batch import BatchChat
    from safeeraser.judge.dialects import dialect
    from safeeraser.judge.served import ServedJudge
    from safeeraser.judge.store import Store

    if choice.name != "openai" and not choice.base_url:
        raise BadInput(f"the judge {choice.name} runs on a server of your own: give its address with --base_url")
    spoken = dialect(choice.name, official=judging.official)
    model = choice.model or spoken.model
    key = ApiKey(NONE) if judging.dry_run else _key(choice, judging)
    server: dict[str, Any] = {"api_key": key, "base_url": choice.base_url, "concurrency": judging.concurrency}
    server["timeout"] = TIMEOUT
    store = Store(judging.store, shared=judging.store_shared)
    chat: Chat[str]
    if judging.batch:
        chat = BatchChat(model, store=store, **server)
    else:
        chat = Chat(model, requests_per_minute=judging.requests_per_minute, **server)
    if is_openai(address_of(choice.base_url)) and (note := leaving(model, date.today())):
        print(f"note: {note}", file=sys.stderr)
    return ServedJudge(spoken, model, chat, store, judging)


def _key(choice: Choice, judging: Judging) -> ApiKey:
    """The key of a judge behind a server. OpenAI's goes to OpenAI, and where `OPENAI_BASE_URL` or the main judge's
    address has the judge `openai`; a guard has a variable of its own.

    Raises:
        BadInput: a key was given, and the judges are at several hosts, of which it may belong to one alone.
    """
    hosts = {host_of(address_of(each.base_url)) for each in judging.choices.values() if each.served}
    if judging.api_key and len(hosts) > 1:
        raise BadInput(
            f"--api_key, --api_key_file: a key belongs to one host, and the judges are at {', '.join(sorted(hosts))}: "
            f"set {OPENAI_KEY}, for a guard NAME_API_KEY, for any other {OF_HOST}HOST"
        )
    main, variables = judging.judge, [f"{choice.name.upper()}_API_KEY"]
    if choice.name == "openai":
        variables = openai_key(choice.base_url, main.base_url if main.name == "openai" else None)
    who = f"the judge {choice.name}"
    return read_key(judging.api_key, choice.base_url, variables=variables, who=who, otherwise=_keyless(judging))


def _keyless(judging: Judging) -> str:
    """Which judge needs no key: the one that knows, where it can."""
    knowing = judging.data is not None and judging.data.with_name(TRUTH).is_file()
    return "--judge truth needs none, and knows the answers here" if knowing else "--judge rules needs none"
