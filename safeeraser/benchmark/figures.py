"""The one table of figures: every number that a table, a page, a plot or a card shows is a row of it.

`score` and `audit` write their rows beside their results, `report` those of all runs, as a CSV file that
`pandas.read_csv` reads in a line. Shares are in 0..1, other quantities in their own unit.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from safeeraser.benchmark.files import write_whole
from safeeraser.benchmark.metrics import Figure

AUDITED = "audited"  # the subject that is the run itself
SUBJECTS = (AUDITED, "vanilla", "tuned", "told", "never_knew")  # in the order of tables; others follow
DIFFERENCES = ("clean", "vanilla", "benign picture", "never_knew")  # what a figure may be relative to, with a sign


class Row(Figure):
    """A figure and where it belongs.

    Attributes:
        run: the name of its run among those shown together.
        subject: the run itself (`audited`), or a control that was asked the same.
        condition: what was done to the model or to what it was asked: `clean` (nothing), `inside` (its states were
            read), `attack`, `quantized`, `scaled`, `sampled`, `relearned`.
        name: which attack, rounding, scale, temperature or attacker.
        at: the optimizer step, the scale, the temperature; of a layer's figure the layer.
        metric: a key of METRICS, or a quantity that an audit measures.
        split: `train` or `val`; `audit`: the part of val that an audit asks.
        view: which responses it is measured on.
        by, group: the `category` or `keyword` whose records it is measured on, or whether the `concept` is `shown` in
            training or `held-out`; empty: all records. Steps of relearning are `by` the `bound` of ASR that they lead
            to.
        relative: what it is relative to: `clean`, `vanilla`, `benign picture` or `never_knew` (a difference), `way`
            (the share of the way from vanilla to never_knew), `labels` (a rate corrected by labels). Empty: nothing.
        unit: `%` for a share; empty: it is shown as it is.
        pictures: how many it is measured on, where that was counted.
        p, q: of a test that a difference is none, and the false-discovery rate of several tests together.
        protocol, seed: how it was scored; the seed that it is of, where it is of one among several.
        note: what a reader must know beside it.
        text_instead: what is shown in place of its value.
    """

    value: float | None = None
    run: str = ""
    subject: str = AUDITED
    condition: str = "clean"
    name: str = ""
    at: float | None = None
    metric: str = ""
    split: str = "val"
    view: str = ""
    by: str = ""
    group: str = ""
    relative: str = ""
    unit: str = "%"
    pictures: int | None = None
    p: float | None = None
    q: float | None = None
    protocol: str = ""
    seed: str = ""
    note: str = ""
    text_instead: str = ""

    @property
    def text(self) -> str:
        """The figure as a reader sees it; `text_instead` takes its place."""
        return self.text_instead or super().text

    @property
    def remarks(self) -> list[str]:
        """What a reader must know beside the figure, its note first."""
        return [*filter(None, [self.note]), *super().remarks]

    @property
    def position(self) -> float:
        """Where it is on its curve; 0 if it is on none."""
        return self.at or 0.0

    @property
    def place(self) -> tuple:
        """What distinguishes its kind from others, whatever the run and the seed."""
        return tuple(getattr(self, name) for name in PLACE)

    @property
    def _is_share(self) -> bool:
        return self.unit == "%"

    @property
    def _is_difference(self) -> bool:
        return self.relative in DIFFERENCES


PLACE = ("subject", "condition", "name", "at", "metric", "split", "view", "by", "group", "relative")
_COUNTS = ("n", "pictures", "failed", "unparsed", "declined", "blank", "skipped", "differ", "withheld")
COLUMNS = ("run", *PLACE, "unit", "value", "low", "high", *_COUNTS, "p", "q", "judge", "protocol", "seed", "note")
NOTHING = Row()  # a figure that was not measured


def pick(rows: Iterable[Row], **where: Any) -> list[Row]:
    """The rows that have these values. Unless they are named, `relative`, `by` and `seed` must be empty: the figures
    themselves, of all records and all seeds."""
    where = {"relative": "", "by": "", "seed": ""} | where
    return [row for row in rows if all(getattr(row, name) == value for name, value in where.items())]


def find(rows: Iterable[Row], **where: Any) -> Row:
    """The first row that `pick` gives; `NOTHING` where there is none."""
    return next(iter(pick(rows, **where)), NOTHING)


def list_subjects(names: Iterable[str]) -> list[str]:
    """The subjects among some names, each once: in the order of `SUBJECTS`, others after them."""
    return sorted(dict.fromkeys(names), key=lambda name: SUBJECTS.index(name) if name in SUBJECTS else len(SUBJECTS))


def highest(rows: Iterable[Row]) -> Row | None:
    """The row with the highest value of those that have one; None without any."""
    return max((row for row in rows if row.value is not None), key=lambda row: row.sort_key, default=None)


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV; what is empty or None is an empty cell."""
    with write_whole(path) as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([_cell(getattr(row, name)) for name in COLUMNS] for row in rows)


def _cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
