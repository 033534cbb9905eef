"""Runs that differ by nothing but their seeds, as one: the mean over seeds, with an interval over seeds and pictures
(`benchmark.intervals.spread`)."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean
from typing import Any, NamedTuple

from safeeraser.benchmark.intervals import spread
from safeeraser.benchmark.metrics import SCORED, UNKNOWN, Figure
from safeeraser.report.judges import decisions
from safeeraser.report.runs import BY_VIEW, METHODS, Run, Specificity, Summary
from safeeraser.report.tables import Told

# Keys of a training record that decide no result, and the seed.
_FREE = {"seed", "save_dir", "overwrite_dir", "resume_from_checkpoint", "save_model", "save_steps", "save_total_limit"}
_FREE |= {"workers", "report_to", "dry_run", "probe_every", "probe", "push_to_hub", "hub_model_id", "hub_private"}
_FREE |= {"tables"}  # rows that other keys are taken from, and those of other methods
SHOWN = 3  # settings that differ, beside a method's name; where more do, its folder says which run it is
_COUNTS = ("n", "failed", "unparsed", "declined", "blank", "skipped", "differ")  # of a figure: they add up


class Method(NamedTuple):
    """Runs that are the same but for their seeds, and the run that stands for them: their mean, or the one run.

    `name` may be others' too; the run's title tells them apart.
    """

    name: str
    run: Run
    seeds: list[Run]


def methods(runs: Sequence[Run]) -> list[Method]:
    """The runs, pooled over their seeds and told apart by their titles, in the order of the first of each.

    Methods of the same title are told apart by the parameters of their losses or by their folders, seeds by their
    numbers.
    """
    groups = _together(runs)
    titles = [_title(group) for group in groups]
    found = []
    for group, name in zip(groups, titles, strict=True):
        like = [other for other, its in zip(groups, titles, strict=True) if its == name]
        title = f"{name} ({_told(group, like)})" if len(like) > 1 else name
        seeds = [replace(run, title=f"{title}, seed {seed_of(run)}" if len(group) > 1 else title) for run in group]
        found.append(Method(name, replace(_pooled(seeds), title=title), seeds))
    return found


def _title(group: list[Run]) -> str:
    """What the runs of a group are called; folders that are named for their seeds leave it to the method."""
    told = {run.title for run in group}
    if len(told) == 1:
        return told.pop()
    method = group[0].settings.get("forget_loss")
    name = (method.get("name") if isinstance(method, dict) else None) or "vanilla"
    return METHODS.get(name, name)


def _told(group: list[Run], like: list[list[Run]]) -> str:
    """What tells a group from others of its title: the loss's parameters and the settings in which they differ, and
    where those are the same, or many, its folder."""
    asked = [_asked(other[0].settings) for other in like]
    keys = {key for its in asked for key in its if any(other.get(key) != its[key] for other in asked if other)}
    keys = keys if len(keys) <= SHOWN else set()
    said = [", ".join(f"{key}={its[key]}" for key in sorted(keys & its.keys())) for its in asked]
    its = next(text for other, text in zip(like, said, strict=True) if other is group)
    return its if its and said.count(its) == 1 else ", ".join(filter(None, [its, _place(group, like)]))


def _asked(settings: dict[str, Any]) -> dict[str, Any]:
    """What decides a run's result, but for what its folder may be named for: files, and what they hold."""
    own = {key: value for key, value in settings.items() if key not in _FREE | {"data", "forget_loss"}}
    return {
        key: value for key, value in _flat(own | (settings.get("forget_loss") or {})).items() if "/" not in str(value)
    }


def _flat(tree: Any) -> dict[str, Any]:
    """Settings by what their user would write; those of a loss's terms less `forget_loss.terms.`."""
    found: dict[str, Any] = {}
    for key, value in tree.items() if isinstance(tree, dict) else ():
        below = {f"{key}.{name}": one for name, one in _flat(value).items()} or {key: value}
        found |= {name.removeprefix("terms."): one for name, one in below.items()}
    return found


def _place(group: list[Run], like: list[list[Run]]) -> str:
    """What tells a group from others: how its runs' folders are called, what they lie in, or both."""
    run = group[0]
    for tell in (lambda one: one.folder.resolve().name, lambda one: one.name.rpartition("/")[0] or one.name):
        if len({tell(other[0]) for other in like}) == len(like):
            return tell(run)
    return run.name


def seed_of(run: Run) -> str:
    """The seed of a run; of one whose training and responses had different ones, both. Empty: it is not told."""
    return "/".join(map(str, run.seeds))


def _together(runs: Sequence[Run]) -> list[list[Run]]:
    groups: dict[Any, list[Run]] = defaultdict(list)
    for number, run in enumerate(runs):
        same = _same(run)
        groups[number if same is None else same].append(run)
    found = []
    for group in groups.values():
        # The same seed twice is no second sample, but a copy, or a run of which not all is known.
        apart = len({run.seeds for run in group}) < len(group) or _judged_otherwise(group)
        found += [[run] for run in group] if apart else [group]
    return found


def _judged_otherwise(group: list[Run]) -> bool:
    """Whether some metric was decided by one judge of one seed, by another of another."""
    judges: dict[str, set] = defaultdict(set)
    for part in (part for run in group for part in (run.train, run.val) if part):
        for metric, decided in decisions(part):
            judges[metric].add((decided.protocol, decided.judge, decided.version))
    return any(len(its) > 1 for its in judges.values())


def _same(run: Run) -> str | None:
    """What runs of other seeds have in common with this one; None where too little is known of it to tell."""
    part = run.val or run.train
    if not part or not part.made_with or not run.seeds or (part.made_with.get("checkpoint") and not run.settings):
        return None
    training = {key: value for key, value in run.settings.items() if key not in _FREE}
    asked = {key: value for key, value in part.made_with.items() if key not in ("seed", "checkpoint")}
    judged = [part.protocol, part.judge, part.judge_model, part.prompts, part.rules, part.guards, part.category]
    return json.dumps([run.place, training, asked, judged, part.split], sort_keys=True)


def _pooled(group: list[Run]) -> Run:
    if len(group) == 1:
        return group[0]
    train, val = _pooled_summary([run.train for run in group]), _pooled_summary([run.val for run in group])
    specificity = None
    if any(run.specificity for run in group):
        specificity = Specificity(**join([run.specificity or UNKNOWN for run in group]).model_dump())
    return replace(group[0], train=train, val=val, specificity=specificity, log=[], probes=[])


def _pooled_summary(parts: list[Summary | None]) -> Summary | None:
    """The first summary with each of its figures joined with the others'."""
    there = [part for part in parts if part]
    if not there:
        return None
    told: dict[str, Any] = {name: _each([getattr(part, name, {}) for part in parts]) for name in BY_VIEW}
    told["agreement"] = None
    told |= {metric: join([getattr(part, metric, UNKNOWN) for part in parts]) for metric in SCORED}
    for kind in ("by_category", "by_keyword"):
        metrics = dict.fromkeys(metric for part in there for metric in getattr(part, kind))
        told[kind] = {metric: _each([getattr(part, kind, {}).get(metric, {}) for part in parts]) for metric in metrics}
    return there[0].model_copy(update=told)


def _each(found: list[dict[str, Figure]]) -> dict[str, Figure]:
    """Seeds' figures joined key by key."""
    keys = dict.fromkeys(key for figures in found for key in figures)
    return {key: join([figures.get(key, UNKNOWN) for figures in found]) for key in keys}


def join(figures: list[Figure]) -> Figure:
    """One figure of several seeds'. It has an interval where each of them has, and is withheld where one of them is."""
    counts = {name: sum(getattr(one, name) for one in figures) for name in _COUNTS}
    withheld = sum(bool(figure.withheld) for figure in figures)
    if withheld:
        return Told(**counts, withheld=f"withheld of {withheld} of {len(figures)} seeds")
    values = [figure.value for figure in figures if figure.value is not None]
    if not values:
        return Told(**counts)
    judge = next(figure.judge for figure in figures if figure.value is not None)
    beside = "" if len(values) == len(figures) else f"{len(values)} of {len(figures)} seeds"
    intervals = [figure.interval for figure in figures if figure.interval]
    low, high = spread(intervals, 0.0) if len(intervals) == len(values) else (None, None)
    return Told(value=mean(values), low=low, high=high, judge=judge, beside=beside, **counts)
