"""Two sets of runs side by side: how each method's figures in the second differ from those in the first.

Runs are paired request by request, by the verdicts that their summaries name, and seed by seed.
"""

from collections.abc import Mapping
from pathlib import Path

from safeeraser.benchmark.figures import NOTHING, Row
from safeeraser.benchmark.intervals import spread
from safeeraser.benchmark.judged import Difference, difference, values_of
from safeeraser.benchmark.metrics import COLUMNS, SCORED
from safeeraser.benchmark.records import read_raw
from safeeraser.benchmark.summaries import Summary
from safeeraser.errors import BadInput
from safeeraser.report.methods import Method
from safeeraser.report.read import Run
from safeeraser.report.sources import decisions, differ
from safeeraser.report.tables import TITLES, Line, Table

# What was asked request by request; first what a method is judged by at a glance.
_KEYS = [key for key in dict.fromkeys(("asr_gen", "sarr", *COLUMNS)) if COLUMNS[key].metric in SCORED]


def sides_table(methods: list[Method], first: Path, second: Path) -> Table:
    """A line for each method that is in both sets, the differences in points, second less first.

    Raises:
        BadInput: no method is in both, or a file of verdicts is none.
    """
    sets: list[dict[str, Method]] = [{}, {}]
    remarks: list[str] = []
    for method in methods:
        again = f"{method.name} is there more than once in a set; compared is the first"
        if method.name in sets[method.run.place] and again not in remarks:
            remarks.append(again)
        sets[method.run.place].setdefault(method.name, method)
    both = [name for name in sets[0] if name in sets[1]]
    if not both:
        there = " and ".join(" ".join(names) or "none" for names in sets)
        raise BadInput(f"--compare {first} {second}: no method is in both; there are {there}")
    lines = []
    for name in both:
        pairs = _pair_seeds(sets[0][name], sets[1][name])
        lines.append(Line(name, {key: _difference(key, pairs) for key in _KEYS}))
    remarks += [f"{name} is in one set alone" for name in sets[0].keys() ^ sets[1].keys()]
    one, other = (first, second) if first.resolve().name == second.resolve().name else (first.name, second.name)
    caption = (
        f"Per cent points, {other} less {one}, on the requests that both answered, with 95% intervals over pictures "
        "and, where there are several, seeds. –: nothing to pair by."
    )
    columns = {key: TITLES[key] for key in _KEYS}
    return Table("sides", f"{other} less {one}", caption, columns, lines, remarks=sorted(remarks))


def _pair_seeds(one: Method, other: Method) -> list[tuple[Run, Run]]:
    """The runs of equal seeds; two runs without others, whatever their seeds."""
    if len(one.seeds) == len(other.seeds) == 1:
        return [(one.seeds[0], other.seeds[0])]
    by_seeds = {run.seeds: run for run in other.seeds}
    return [(run, by_seeds[run.seeds]) for run in one.seeds if run.seeds in by_seeds]


def _difference(key: str, pairs: list[tuple[Run, Run]]) -> Row:
    """A difference, as the table shows it."""
    column, found, asked = COLUMNS[key], list[Difference](), 0
    for runs in pairs:
        if any(column.split not in run.parts for run in runs):
            continue
        figures = [run.figure(column) for run in runs]
        parts = [run.parts[column.split] for run in runs]
        if any(figure.withheld for figure in figures):
            return Row(text_instead="–", note="withheld")
        if differ(of for part in parts for metric, of in decisions(part) if metric == column.metric):
            return Row(text_instead="–", note="judged otherwise")
        values = [_values(run, part) for run, part in zip(runs, parts, strict=True)]
        if its := difference(values[1], values[0], column.metric):
            found.append(its)
        asked += max(figure.n for figure in figures)
    if not found:
        return NOTHING
    count = sum(one.n for one in found)
    return Row(text_instead=_spell(found), note=f"{count} of {asked} answers" * (count < asked))


def _spell(found: list[Difference]) -> str:
    middle = sum(one.value for one in found) / len(found)
    known = [(one.value, one.low, one.high) for one in found if one.low is not None and one.high is not None]
    if len(known) < len(found):
        return f"{100 * middle:+.1f}"
    low, high = spread(known, -1.0)
    return f"{100 * middle:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _values(run: Run, part: Summary) -> Mapping[tuple, float]:
    """The run's values by request, nothing where its verdicts are not there."""
    path = run.folder / part.verdicts_file if part.verdicts_file else None
    if not path or not path.is_file():
        return {}
    try:
        return values_of(read_raw(path), official=part.protocol == "official")
    except (AttributeError, TypeError, ValueError, KeyError):
        raise BadInput(f"{path}: not what eval_all.py writes") from None
