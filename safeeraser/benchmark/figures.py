"""The one table of figures: every number in a table, a page, a plot or a card is one of its rows.

`score` and `audit` write their rows next to their results, `report` the rows of all runs, as a CSV file that
`pandas.read_csv` reads in one line. Shares are in 0..1, other quantities in their own unit.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from safeeraser.benchmark.files import write_whole
from safeeraser.benchmark.metrics import Figure

AUDITED = "audited"  # the subject that is the run itself
SUBJECTS = (AUDITED, "vanilla", "tuned", "told", "never_knew")  # in the order of tables; other subjects follow
DIFFERENCES = ("clean", "vanilla", "benign picture", "never_knew")  # values of `relative` for signed differences


class Row(Figure):
    """A figure and where it belongs.

    Attributes:
        run: the name of its run among the runs shown together.
        subject: the run itself (`audited`), or a control that was asked the same.
        condition: the treatment of the model or its input: `clean` (none), `inside` (its hidden states were read),
            `attack`, `quantized`, `scaled`, `sampled`, `relearned`.
        name: which attack, rounding, scale, temperature or attacker.
        at: the optimizer step, the scale or the temperature; for the figure of a layer, the layer.
        metric: a key of METRICS, or a quantity that an audit measures.
        split: `train` or `val`; `audit`: the part of val that an audit asks about.
        view: the view whose responses it is measured on.
        by, group: the records that it is measured on: those of a `category` or `keyword`, or those whose `concept` is
            `shown` in training or `held-out`; empty: all records. For steps of relearning, `by` is `bound`, and `group`
            the bound of ASR that they lead to.
        relative: what it is relative to: `clean`, `vanilla`, `benign picture` or `never_knew` (a difference), `way`
            (the share of the way from vanilla to never_knew), `labels` (a rate corrected by labels). Empty: nothing.
        unit: `%` for a share; empty: the value is shown as it is.
        pictures: how many pictures it is measured on, where that was counted.
        p, q: p of a test that there is no difference, and the false-discovery rate of several tests together.
        protocol, seed: the protocol of the scoring; the seed, if the figure is of one seed among several.
        note: a remark for the reader.
        text_instead: the text that is shown in place of the value.
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
        """The figure as a reader sees it, or `text_instead` if there is one."""
        return self.text_instead or super().text

    @property
    def remarks(self) -> list[str]:
        """The remarks that a reader needs with the figure, its note first."""
        return [*filter(None, [self.note]), *super().remarks]

    @property
    def position(self) -> float:
        """Its position on its curve; 0 if it is on no curve."""
        return self.at or 0.0

    @property
    def place(self) -> tuple:
        """The columns that distinguish one kind of figure from others, whatever the run and the seed."""
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
    """The rows with these values. `relative`, `by` and `seed` must be empty unless they are named: this gives plain
    figures, of all records and all seeds."""
    where = {"relative": "", "by": "", "seed": ""} | where
    return [row for row in rows if all(getattr(row, name) == value for name, value in where.items())]


def find(rows: Iterable[Row], **where: Any) -> Row:
    """The first row that `pick` gives; `NOTHING` if there is none."""
    return next(iter(pick(rows, **where)), NOTHING)


def list_subjects(names: Iterable[str]) -> list[str]:
    """The subjects among some names, each once, in the order of `SUBJECTS`, with others after them."""
    return sorted(dict.fromkeys(names), key=lambda name: SUBJECTS.index(name) if name in SUBJECTS else len(SUBJECTS))


def highest(rows: Iterable[Row]) -> Row | None:
    """The row with the highest value; None if no row has a value."""
    return max((row for row in rows if row.value is not None), key=lambda row: row.sort_key, default=None)


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV; an empty text or None becomes an empty cell."""
    with write_whole(path) as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([_cell(getattr(row, name)) for name in COLUMNS] for row in rows)


def _cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
