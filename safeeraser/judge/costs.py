"""What judging costs: before it is paid, and while it is."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from safeeraser.errors import BadInput
from safeeraser.judge.judges import Spent


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
    whole, dollars = Spent(), 0.0
    for (metric, title), spent in totals.items():
        price = prices.get(title)
        cost = price.of(spent, share=share) if price else None
        dollars += cost or 0.0
        whole += spent
        tokens = spent.prompt_tokens + spent.completion_tokens
        table.add_row(metric, title, str(spent.calls), f"{tokens:,}", "?" if cost is None else f"{cost:.2f}")
    table.add_section()
    table.add_row("all", "", str(whole.calls), f"{whole.prompt_tokens + whole.completion_tokens:,}", f"{dollars:.2f}")
    Console().print(table)
    print("Only what the store lacks is counted. ?: no price is known; --price tells it.")
