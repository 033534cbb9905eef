"""What a judge is asked: one query a (metric, record, place, response)."""

from dataclasses import dataclass

from safeeraser.benchmark.responses import view_of
from safeeraser.benchmark.wording import is_blank


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
