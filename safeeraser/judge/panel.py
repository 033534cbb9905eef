"""The judges of a run: `Panel` assigns one to each metric, asks them, and gives their replies for recording."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from safeeraser.errors import BadInput
from safeeraser.judge.dialects import GENERAL
from safeeraser.judge.judge import WHOLE, Judge, Query, Spent, Verdict
from safeeraser.judge.judging import Choice, Judging, Price
from safeeraser.judge.offline import ReplayJudge
from safeeraser.progress import progress

PRICES = {  # as OpenAI listed them in 2025; --price gives others
    "gpt-4o": Price(2.5, 10.0),
    "gpt-4o-mini": Price(0.15, 0.6),
    "gpt-4.1": Price(2.0, 8.0),
    "gpt-4.1-mini": Price(0.4, 1.6),
}


class Panel:
    """The judges of a run, one per metric. Metrics with equal choices share one judge.

    Attributes:
        main: the judge for ASR, even if it cannot decide ASR.
        by_metric: the judge of each metric that is decided.
        titles: the titles of the judges in `by_metric`, as results name them.
        served: the judges that are models.
        prices: the price of each model, by the judge's title; None if unknown.

    Raises:
        BadInput: a judge lacks a key or a file, cannot decide the metric it is named for, or cannot be asked by batch.
    """

    def __init__(self, judging: Judging) -> None:
        self.judging = judging
        served = {choice.name for choice in judging.choices.values() if choice.served}
        if judging.batch and not served:
            raise BadInput("--batch: none of the judges is asked over the network, so there is nothing for a batch")
        if judging.batch and (guards := sorted(served - {GENERAL})):
            raise BadInput(f"--batch: the judge {guards[0]} runs on a server of your own; openai alone has batches")
        judges = {choice: _make_judge(choice, judging) for choice in dict.fromkeys(judging.choices.values())}
        for metric, choice in judging.judges.items():
            if choice and metric not in judges[choice].decides:
                able = ", ".join(sorted(judges[choice].decides))
                raise BadInput(f"--{metric}_judge {choice.name}: it cannot decide {metric} (it decides {able})")
        of_metric = {metric: judges[choice] for metric, choice in judging.choices.items()}
        self.main = of_metric["asr"]
        self.by_metric = {metric: judge for metric, judge in of_metric.items() if metric in judge.decides}
        self.titles = {metric: judge.title for metric, judge in self.by_metric.items()}
        self.served = [judge for judge in judges.values() if judge.model]
        self.prices = {judge.title: judging.price or PRICES.get(judge.model or "") for judge in self.served}

    def foresee(self, queries: list[Query]) -> Iterator[tuple[str, str, Spent]]:
        """Yield the calls and tokens that asking would take, each with its metric and judge's title."""
        assigned, _ = self._assign(queries)
        for judge, share in assigned.items():
            yield from ((metric, judge.title, spent) for metric, spent in judge.foresee(share))

    def ask(self, queries: list[Query]) -> dict[Query, Verdict]:
        """Ask the judges, and return the verdicts in the queries' order."""
        assigned, verdicts = self._assign(queries)
        with progress("verdicts", sum(map(len, assigned.values())), more=self._cost) as advance:
            for judge, share in assigned.items():
                for query, verdict in judge.ask(share):
                    verdicts[query] = verdict
                    advance(1)
        return {query: verdicts[query] for query in queries if query in verdicts}

    def answered_by(self, verdicts: dict[Query, Verdict]) -> list[dict[str, Any]]:
        """The models that answered, as the servers report them (None if they do not), with their numbers of replies."""
        counts = Counter(
            (judge.title, verdict.answered_by, verdict.fingerprint)
            for query, verdict in verdicts.items()
            if (judge := self.by_metric[query.metric]).model and verdict.asked and verdict.lacks != "failed"
        )
        return [
            {"judge": title, "model": model, "fingerprint": fingerprint, "replies": count}
            for (title, model, fingerprint), count in counts.most_common()
        ]

    def replies(self, verdicts: dict[Query, Verdict]) -> list[dict[str, Any]]:
        """The replies as `ReplayJudge` reads them: metric and place, the raw reply, and why it ended if it is not
        complete. The hash of the response is added, unless the reply was itself a recorded one.
        """
        entries = []
        for query, verdict in verdicts.items():
            if not verdict.asked:
                continue
            place: dict[str, Any] = (
                {"item": query.place} if query.metric == "gpt" else {"pair": query.place, "response": query.field}
            )
            finish = {} if verdict.finish in WHOLE else {"finish": verdict.finish}
            on = {} if self.by_metric[query.metric].name == ReplayJudge.name else {"on": query.hash}
            said = {"metric": query.metric, "record": query.number, **place, "reply": verdict.reply}
            entries.append(said | finish | on)
        return entries

    def failures(self) -> str:
        """The failed calls by kind, in words; empty if none failed."""
        return ", ".join(
            f"{count} x {kind}" for judge in self.served for kind, count in Counter(judge.failures).most_common()
        )

    def _assign(self, queries: list[Query]) -> tuple[dict[Judge, list[Query]], dict[Query, Verdict]]:
        """The queries for each judge, and the verdicts on blank responses about which no judge is asked.

        Under protocol `corrected`, a blank response gets the verdict of `Judge.of_blank`. Under `official` it gets no
        verdict, as in the release, unless its judge has `judges_blank`.
        """
        official = self.judging.official
        assigned: dict[Judge, list[Query]] = {judge: [] for judge in self.by_metric.values()}
        blank: dict[Query, Verdict] = {}
        for query in queries:
            judge = self.by_metric.get(query.metric)
            if not judge or not query.there:
                continue
            if not query.blank or (official and judge.judges_blank):
                assigned[judge].append(query)
            elif not official:
                blank[query] = judge.of_blank(query)
        return assigned, blank

    def _cost(self) -> str:
        prices = ((judge.spent, self.prices[judge.title]) for judge in self.served)
        priced = [price.of(spent, share=self.judging.price_share) for spent, price in prices if price]
        return f", {sum(priced):.2f} US$" if priced else ""


def _make_judge(choice: Choice, judging: Judging) -> Judge:
    if not choice.served:
        return judging.make_offline(choice.name)
    from safeeraser.judge.served import ServedJudge  # imported late because the client's library takes a second to load

    return ServedJudge(choice, judging)


def show_plan(plan: Iterable[tuple[str, str, Spent]], prices: dict[str, Price | None], *, share: float) -> None:
    """Print the calls, tokens and dollars that a run would take, by metric and judge's title."""
    totals: dict[tuple[str, str], Spent] = defaultdict(Spent)
    for metric, title, spent in plan:
        totals[metric, title] += spent
    right = (Column(head, justify="right") for head in ("calls", "tokens, about", "US$, about"))
    table, costs = Table("metric", "judge", *right), []
    for (metric, title), spent in totals.items():
        price = prices.get(title)
        costs.append(price.of(spent, share=share) if price else None)
        table.add_row(metric, title, *_cells(spent, costs[-1:]))
    table.add_section()
    table.add_row("all", "", *_cells(sum(totals.values(), Spent()), costs))
    Console().print(table)
    print("Only what the store lacks is counted. Where a price is unknown, --price gives it.")


def _cells(spent: Spent, costs: list[float | None]) -> tuple[str, str, str]:
    """The cells for calls, tokens and dollars; a sum that lacks unknown prices must not look complete."""
    known = [cost for cost in costs if cost is not None]
    dollars = f"{sum(known):.2f}"
    if len(known) < len(costs):
        dollars = f"{dollars} + unknown" if known else "unknown"
    return str(spent.calls), f"{spent.prompt_tokens + spent.completion_tokens:,}", dollars
