"""What judging costs: before it is paid, and while it is."""

import json
import math
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from safeeraser.errors import BadInput


@dataclass(frozen=True)
class Spent:
    """Calls, and the tokens they took."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Price:
    """US dollars for a million tokens of prompts and of replies."""

    prompt: float
    completion: float

    def of(self, spent: Spent, *, share: float = 1.0) -> float:
        """What `spent` costs, in US dollars; `share` of it where there is a discount."""
        return share * (spent.prompt_tokens * self.prompt + spent.completion_tokens * self.completion) / 1e6


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


def listed_price(model: str | None) -> Price | None:
    """The list price of a model, where it is known."""
    known = json.loads(Path(__file__).with_name("prices.json").read_text(encoding="utf-8"))["prices"]
    return Price(*known[model]) if model in known else None


def show_plan(plan: Iterable[tuple[str, str, Spent]], prices: dict[str, Price | None], *, share: float) -> None:
    """Print the calls, tokens and dollars that a run would take, by metric and judge's title."""
    totals: dict[tuple[str, str], Spent] = {}
    for metric, title, spent in plan:
        totals[metric, title] = totals.get((metric, title), Spent()) + spent
    table = Table("metric", "judge", "calls", "tokens, about", "US$, about")
    for column in table.columns[2:]:
        column.justify = "right"
    whole, costs = Spent(), []
    for (metric, title), spent in totals.items():
        price = prices.get(title)
        costs.append(price.of(spent, share=share) if price else None)
        whole += spent
        tokens = spent.prompt_tokens + spent.completion_tokens
        table.add_row(metric, title, str(spent.calls), f"{tokens:,}", _dollars(costs[-1:]))
    table.add_section()
    table.add_row("all", "", str(whole.calls), f"{whole.prompt_tokens + whole.completion_tokens:,}", _dollars(costs))
    Console().print(table)
    print("Only what the store lacks is counted. Where a price is unknown, --price tells it.")


def _dollars(costs: list[float | None]) -> str:
    """What they come to, as far as it is known: a sum that leaves something out must not look like one."""
    known = [cost for cost in costs if cost is not None]
    if len(known) == len(costs):
        return f"{sum(known):.2f}"
    return f"{sum(known):.2f} + unknown" if known else "unknown"
