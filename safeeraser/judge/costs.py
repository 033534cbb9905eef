"""What judging costs: before it is paid, and while it is."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import astuple, dataclass

from rich.console import Console
from rich.table import Column, Table

from safeeraser.errors import BadInput


@dataclass(frozen=True)
class Spent:
    """Calls, and the tokens they took."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Price:
    """US dollars for a million tokens of prompts and of replies."""

    prompt: float
    completion: float

    def of(self, spent: Spent, *, share: float = 1.0) -> float:
        """What `spent` costs, in US dollars; `share` of it where there is a discount."""
        return share * (spent.prompt_tokens * self.prompt + spent.completion_tokens * self.completion) / 1e6


PRICES = {  # as OpenAI listed them in 2025; --price gives others
    "gpt-4o": Price(2.5, 10.0),
    "gpt-4o-mini": Price(0.15, 0.6),
    "gpt-4.1": Price(2.0, 8.0),
    "gpt-4.1-mini": Price(0.4, 1.6),
}


def parse_price(text: str) -> Price:
    """`2.5,10` as a price. Raises `BadInput`."""
    try:
        prompt, completion = map(float, text.split(","))
        if not (0 <= prompt < math.inf and 0 <= completion < math.inf):
            raise ValueError
    except ValueError:
        raise BadInput(
            "--price: two numbers, such as 2.5,10: dollars for a million tokens of prompts, of replies"
        ) from None
    return Price(prompt, completion)


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
    print("Only what the store lacks is counted. Where a price is unknown, --price tells it.")


def _cells(spent: Spent, costs: list[float | None]) -> tuple[str, str, str]:
    """Calls, tokens and dollars as far as they are known: a sum that leaves something out must not look like one."""
    known = [cost for cost in costs if cost is not None]
    dollars = f"{sum(known):.2f}"
    if len(known) < len(costs):
        dollars = f"{dollars} + unknown" if known else "unknown"
    return str(spent.calls), f"{spent.prompt_tokens + spent.completion_tokens:,}", dollars
