"""Two sets of runs side by side: how each method's figures in the second differ from those in the first.

Runs are paired request by request, by the verdicts that their summaries name, and seed by seed.
"""

from pathlib import Path

from safeeraser.benchmark.intervals import spread
from safeeraser.benchmark.judged import Difference, difference, values_of
from safeeraser.benchmark.metrics import COLUMNS, SCORED
from safeeraser.benchmark.records import read_raw
from safeeraser.errors import BadInput
from safeeraser.report.judges import decisions, differ
from safeeraser.report.runs import Run, Summary
from safeeraser.report.seeds import Method
from safeeraser.report.tables import Row, Table, Told

# What was asked request by request; first what a method is judged by at a glance.
_KEYS = dict.fromkeys(("asr_gen", "sarr", *COLUMNS))
_COLUMNS = {key: COLUMNS[key] for key in _KEYS if COLUMNS[key].metric in SCORED}


def sides_table(found: list[Method], first: Path, second: Path) -> Table:
    """A line for each method that is in both sets, the differences in points, second less first.

    Raises:
        BadInput: no method is in both, or a file of verdicts is none.
    """
    sets: list[dict[str, Method]] = [{}, {}]
    remarks: list[str] = []
    for method in found:
        again = f"{method.name} is there more than once in a set; compared is the first"
        if method.name in sets[method.run.place] and again not in remarks:
            remarks.append(again)
        sets[method.run.place].setdefault(method.name, method)
    both = [name for name in sets[0] if name in sets[1]]
    if not both:
        there = " and ".join(" ".join(one) or "none" for one in sets)
        raise BadInput(f"--compare {first} {second}: no method is in both; there are {there}")
    rows = []
    for name in both:
        pairs = _paired(sets[0][name], sets[1][name])
        rows.append(Row(name, {key: _cell(key, pairs) for key in _COLUMNS}))
    remarks += [f"{name} is in one set alone" for name in sets[0].keys() ^ sets[1].keys()]
    one, other = (first, second) if first.resolve().name == second.resolve().name else (first.name, second.name)
    caption = (
        f"Per cent points, {other} less {one}, on the requests that both answered, with 95% intervals over pictures "
        "and, where there are several, seeds. –: nothing to pair by."
    )
    titles = {key: column.title for key, column in _COLUMNS.items()}
    return Table("sides", f"{other} less {one}", caption, titles, rows, remarks=sorted(remarks))


def _paired(one: Method, other: Method) -> list[tuple[Run, Run]]:
    """The runs of equal seeds; two runs without others, whatever their seeds."""
    if len(one.seeds) == len(other.seeds) == 1:
        return [(one.seeds[0], other.seeds[0])]
    by_seeds = {run.seeds: run for run in other.seeds}
    return [(run, by_seeds[run.seeds]) for run in one.seeds if run.seeds in by_seeds]


def _cell(key: str, pairs: list[tuple[Run, Run]]) -> Told:
    """A difference, as the table shows it."""
    column, found, asked = _COLUMNS[key], [], 0
    for runs in pairs:
        parts = [getattr(run, column.split) for run in runs]
        if None in parts:
            continue
        figures = [getattr(part, column.metric) for part in parts]
        if any(figure.withheld for figure in figures):
            return Told(instead="–", beside="withheld")
        if differ(of for part in parts for metric, of in decisions(part) if metric == column.metric):
            return Told(instead="–", beside="judged otherwise")
        values = [_values(run, part) for run, part in zip(runs, parts, strict=True)]
        if its := difference(values[1], values[0], column.metric):
            found.append(its)
        asked += max(figure.n for figure in figures)
    count = sum(one.n for one in found)
    return Told(instead=_said(found), beside=f"{count} of {asked} answers" * (count < asked)) if found else Told()


def _said(found: list[Difference]) -> str:
    middle = sum(one.value for one in found) / len(found)
    known = [(one.value, one.low, one.high) for one in found if one.low is not None and one.high is not None]
    if len(known) < len(found):
        return f"{100 * middle:+.1f}"
    low, high = spread(known, -1.0)
    return f"{100 * middle:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _values(run: Run, part: Summary) -> dict[tuple, float]:
    """The run's values by request, nothing where its verdicts are not there."""
    # The name that stands for one that is not told is val's.
    told = part.split == "val" or "verdicts" in part.model_fields_set
    path = run.folder / part.verdicts if told and part.verdicts else None
    if not path or not path.is_file():
        return {}
    try:
        return values_of(read_raw(path), official=part.protocol == "official")
    except (AttributeError, TypeError, ValueError, KeyError):
        raise BadInput(f"{path}: not what eval_all.py writes") from None
