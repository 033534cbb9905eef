"""Pool the runs that differ only in their seeds into methods, and compare two sets of runs method by method.

A method's figures are means over its seeds, with an interval over seeds and pictures (`benchmark.intervals.spread`).
For a comparison, runs are paired by seed, and by request in the verdicts that their summaries name.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from safeeraser.benchmark.figures import NOTHING, Row
from safeeraser.benchmark.intervals import spread
from safeeraser.benchmark.judged import Difference, difference, values_of
from safeeraser.benchmark.metrics import COLUMNS, SCORED, SPLITS
from safeeraser.benchmark.records import read_raw
from safeeraser.benchmark.summaries import Summary
from safeeraser.errors import BadInput
from safeeraser.report.read import METHODS, Run
from safeeraser.report.sources import decisions, differ
from safeeraser.report.writing import Line, Table

# Settings of a training run that do not affect its result, and the seed.
_FREE = {"seed", "save_dir", "overwrite_dir", "resume_from_checkpoint", "save_model", "save_steps", "save_total_limit"}
_FREE |= {"workers", "report_to", "dry_run", "probe_every", "probe", "push_to_hub", "hub_model_id", "hub_private"}
_FREE |= {"tables"}  # other keys take values from it; the rest is for other methods
SHOWN = 3  # if more settings differ, methods of the same name are distinguished by their folders
_COUNTS = ("n", "failed", "unparsed", "declined", "blank", "skipped", "differ")  # counts: they add up over seeds
# Columns of metrics that are scored request by request; the two main ones come first.
_KEYS = [key for key in dict.fromkeys(("asr_gen", "sarr", *COLUMNS)) if COLUMNS[key].metric in SCORED]


class Method(NamedTuple):
    """Runs that differ only in their seeds, and the run that represents them: their mean, or the single run.

    Several methods may share a `name`; the title of `run` is unique.
    """

    name: str
    run: Run
    seeds: list[Run]

    @property
    def line(self) -> Line:
        """The method's figures as a table line, with the lines of its seeds if there are several."""
        seeds = tuple(Line(run.title, run.figures) for run in self.seeds)
        return Line(self.run.title, self.run.figures, seeds if len(seeds) > 1 else ())


def group_runs(runs: Sequence[Run]) -> list[Method]:
    """Pool the runs over their seeds into methods with unique titles, in the order of each method's first run.

    The title distinguishes methods of the same name by the settings in which they differ, or by their folders. Seeds
    are distinguished by their numbers.
    """
    groups = _by_seed(runs)
    names = [_name(group) for group in groups]
    methods = []
    for group, name in zip(groups, names, strict=True):
        namesakes = [other for other, other_name in zip(groups, names, strict=True) if other_name == name]
        title = f"{name} ({_difference(group, namesakes)})" if len(namesakes) > 1 else name
        seeds = [replace(run, title=f"{title}, seed {seed_of(run)}" if len(group) > 1 else title) for run in group]
        methods.append(Method(name, replace(_pool(seeds), title=title), seeds))
    return methods


def _name(group: list[Run]) -> str:
    """The common title of a group's runs. If their titles differ, as folders named by seed do, the method's name."""
    titles = {run.title for run in group}
    if len(titles) == 1:
        return titles.pop()
    method = group[0].settings.get("forget_loss")
    name = (method.get("name") if isinstance(method, dict) else None) or "vanilla"
    return METHODS.get(name, name)


def _difference(group: list[Run], namesakes: list[list[Run]]) -> str:
    """The text that distinguishes a group from its namesakes: the settings in which they differ. Its folder follows if
    the text is not unique, and replaces it if more than `SHOWN` settings differ."""
    settings = [_deciding(other[0].settings) for other in namesakes]
    keys = {key for each in settings for key in each if any(other.get(key) != each[key] for other in settings if other)}
    keys = keys if len(keys) <= SHOWN else set()
    texts = [", ".join(f"{key}={each[key]}" for key in sorted(keys & each.keys())) for each in settings]
    text = next(text for other, text in zip(namesakes, texts, strict=True) if other is group)
    return text if text and texts.count(text) == 1 else ", ".join(filter(None, [text, _place(group, namesakes)]))


def _deciding(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide a run's result, under the keys that a user writes (less `forget_loss.` and `terms.`).

    Paths of files and the record of the data are left out: the run's folder may be named for them.
    """
    deciding = {key: value for key, value in settings.items() if key not in _FREE | {"data", "forget_loss"}}
    left, flat = list((deciding | (settings.get("forget_loss") or {})).items()), dict[str, Any]()
    for key, value in left:
        if isinstance(value, dict) and value:  # the loop reaches its parts later, at the end of `left`
            left += [(f"{key}.{name}".removeprefix("terms."), part) for name, part in value.items()]
        elif "/" not in str(value):
            flat[key] = value
    return flat


def _place(group: list[Run], namesakes: list[list[Run]]) -> str:
    """The place that distinguishes a group from its namesakes: its first run's folder, the folder above it, or both."""
    for name in (lambda run: run.folder.resolve().name, lambda run: run.name.rpartition("/")[0] or run.name):
        if len({name(other[0]) for other in namesakes}) == len(namesakes):
            return name(group[0])
    return group[0].name


def seed_of(run: Run) -> str:
    """The seed of a run as text: both seeds if training and responses had different ones, empty if unknown."""
    return "/".join(map(str, run.seeds))


def _by_seed(runs: Sequence[Run]) -> list[list[Run]]:
    groups: dict[Any, list[Run]] = defaultdict(list)
    for number, run in enumerate(runs):
        groups[_common(run) or number].append(run)
    apart = []
    for group in groups.values():
        decided = [(metric, who) for run in group for part in run.parts.values() for metric, who in decisions(part)]
        judges = {(metric, who.protocol, who.judge, who.version) for metric, who in decided}
        # A repeated seed is no second sample, but a copy, or a run that is not fully known. A seed of which another
        # judge decided some metric is no further sample either.
        alone = len({run.seeds for run in group}) < len(group) or len(judges) > len({metric for metric, _ in decided})
        apart += [[run] for run in group] if alone else [group]
    return apart


def _common(run: Run) -> str | None:
    """The facts that a run shares with runs of other seeds, as JSON; None where too little is known about the run."""
    part = run.parts.get("val") or run.parts.get("train")
    if not part or not part.made_with or not run.seeds or (part.made_with.get("checkpoint") and not run.settings):
        return None
    training = {key: value for key, value in run.settings.items() if key not in _FREE}
    inference = {key: value for key, value in part.made_with.items() if key not in ("seed", "checkpoint")}
    judged = [part.protocol, part.judge, part.judge_model, part.prompts, part.rules, part.guards, part.category]
    return json.dumps([run.place, training, inference, judged, part.split], sort_keys=True)


def _pool(group: list[Run]) -> Run:
    """The run that represents several seeds: each of its scored figures is the mean over the seeds."""
    if len(group) == 1:
        return group[0]
    tables = [{row.place: row for row in run.rows if row.split in SPLITS and row.relative != "labels"} for run in group]
    places = dict.fromkeys(place for table in tables for place in table)
    rows = [join_seeds([table.get(place, Row()) for table in tables]) for place in places]
    return replace(group[0], rows=rows, audit=None, log=[], probes=[])


def join_seeds(rows: list[Row]) -> Row:
    """A figure's mean over seeds, with an interval if every measured seed has one; withheld if any seed's is."""
    place = next((row for row in rows if row.metric), rows[0])
    joined: dict[str, Any] = dict.fromkeys(("value", "low", "high", "judge")) | {"withheld": "", "note": ""}
    joined |= {name: sum(getattr(row, name) for row in rows) for name in _COUNTS}
    known = [row for row in rows if row.value is not None]
    if withheld := sum(bool(row.withheld) for row in rows):
        joined["withheld"] = f"withheld of {withheld} of {len(rows)} seeds"
    elif known:
        joined |= {"value": mean(row.value for row in known if row.value is not None), "judge": known[0].judge}
        intervals = [row.interval for row in known if row.interval]
        if len(intervals) == len(known):
            joined["low"], joined["high"] = spread(intervals, 0.0)
        if len(known) < len(rows):
            joined["note"] = f"{len(known)} of {len(rows)} seeds"
    return place.model_copy(update=joined)


def sides_table(methods: list[Method], first: Path, second: Path) -> Table:
    """The differences between two sets of runs in points, second minus first: a line for each method in both sets.

    Raises:
        BadInput: no method is in both sets, or a verdicts file cannot be used.
    """
    sets: list[dict[str, Method]] = [{}, {}]
    again = set()
    for method in methods:
        if sets[method.run.place].setdefault(method.name, method) is not method:
            again.add(method.name)
    both = [name for name in sets[0] if name in sets[1]]
    if not both:
        there = " and ".join(" ".join(names) or "none" for names in sets)
        raise BadInput(f"--compare {first} {second}: no method is in both; there are {there}")
    pairs = {name: _pair_seeds(sets[0][name], sets[1][name]) for name in both}
    lines = [Line(name, {key: _paired_difference(key, pairs[name]) for key in _KEYS}) for name in both]
    remarks = [f"{name} occurs more than once in a set; only the first is compared" for name in again]
    remarks += [f"{name} is in one set alone" for name in sets[0].keys() ^ sets[1].keys()]
    one, other = (first, second) if first.resolve().name == second.resolve().name else (first.name, second.name)
    caption = (
        f"Per cent points, {other} less {one}, on the requests that both answered, with 95% intervals over pictures "
        "and, where there are several, seeds. –: nothing to pair by."
    )
    columns = {key: COLUMNS[key].title for key in _KEYS}
    return Table("sides", f"{other} less {one}", caption, columns, lines, remarks=sorted(remarks))


def _pair_seeds(one: Method, other: Method) -> list[tuple[Run, Run]]:
    """The pairs of runs with equal seeds. If both methods have a single run, the two are paired whatever the seeds."""
    if len(one.seeds) == len(other.seeds) == 1:
        return [(one.seeds[0], other.seeds[0])]
    by_seeds = {run.seeds: run for run in other.seeds}
    return [(run, by_seeds[run.seeds]) for run in one.seeds if run.seeds in by_seeds]


def _paired_difference(key: str, pairs: list[tuple[Run, Run]]) -> Row:
    """The mean difference of a column over the pairs, as the table shows it."""
    column, differences, asked = COLUMNS[key], list[Difference](), 0
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
        if change := difference(values[1], values[0], column.metric):
            differences.append(change)
        asked += max(figure.n for figure in figures)
    if not differences:
        return NOTHING
    text, count = f"{100 * mean(each.value for each in differences):+.1f}", sum(each.n for each in differences)
    known = [
        (each.value, each.low, each.high) for each in differences if each.low is not None and each.high is not None
    ]
    if len(known) == len(differences):
        low, high = spread(known, -1.0)
        text += f" ({100 * low:+.1f} to {100 * high:+.1f})"
    return Row(text_instead=text, note=f"{count} of {asked} answers" * (count < asked))


def _values(run: Run, part: Summary) -> Mapping[tuple, float]:
    """The run's values by request; empty where its verdicts file is missing."""
    path = run.folder / part.verdicts_file if part.verdicts_file else None
    if not path or not path.is_file():
        return {}
    try:
        return values_of(read_raw(path), official=part.protocol == "official")
    except (AttributeError, TypeError, ValueError, KeyError):
        raise BadInput(f"{path}: not what eval_all.py writes") from None
