"""What made the figures of a report, as its runs' summaries tell; and what a reader must know before using them."""

from collections.abc import Iterable, Iterator
from typing import Any

from safeeraser.benchmark.metrics import COLUMNS, METRICS, SPLITS
from safeeraser.report.judges import Judges, decisions
from safeeraser.report.runs import Run, Summary
from safeeraser.report.seeds import Method, seed_of

_BOTH = ("sensitivity", "specificity")
_MOST = 6  # of what is named in a warning
KNOWING = ("truth",)  # judges that are told the answers, and have nothing to be checked


def provenance(methods: list[Method], who: Judges) -> dict[str, Any]:
    """Of every run what its summaries tell, each value once. Empty or null is what none of them tells."""
    runs = [run for method in methods for run in method.seeds]
    told = [part.provenance for run in runs for part in _parts(run)]
    versions: dict[str, list[str]] = {}
    for package, version in (pair for one in told for pair in one.versions.items()):
        versions[package] = _each([*versions.get(package, []), version])
    checked = (of.items() for run in runs for part in _parts(run) if (of := checks(part)))
    dates = sorted(_each(one.date for one in told))
    return {
        "models": _each(one.model for one in told),
        "adapters": {run.name: digest for run in runs if (digest := _adapter(run))},
        "data": _each(one.data_sha256 for one in told),
        "recipes": _each(one.recipe for one in told),
        "judges": who.told,
        "judge_check": _each(_said(metric, of) for found in checked for metric, of in found),
        "versions": versions,
        "git_commits": _each(one.git_commit for one in told),
        "dates": [dates[0], dates[-1]] if dates else [],
        "seeds": {method.run.title: [seed_of(run) for run in method.seeds] for method in methods},
    }


def warnings(methods: list[Method], who: Judges) -> list[str]:
    """What must stand above all figures, in words."""
    told = [*who.warnings, *different_data(methods)]
    withheld = [
        f"{column.title.rstrip(' ↓↑')} of {method.run.title}"
        for method in methods
        for key, column in COLUMNS.items()
        if (figure := method.run.figures.get(key)) and figure.withheld
    ]
    if withheld:
        told.append(f"Withheld: {_some(withheld)}; the table says why.")
    if blank := [line for method in methods if (line := _blank(method.run))]:
        told.append(f"Blank responses: {_some(blank)}.")
    told.append(_unchecked([run for method in methods for run in method.seeds]))
    return list(filter(None, told))


def different_data(methods: list[Method]) -> list[str]:
    """A warning where runs were scored on other data files, as far as is told, or on other categories of them."""
    parts = [part for method in methods for run in method.seeds for part in _parts(run)]
    for split in SPLITS:
        its = [part for part in parts if part.split == split]
        if len({part.category for part in its}) > 1 or len(_each(part.provenance.data_sha256 for part in its)) > 1:
            return ["These figures were scored on different data or categories and do not compare with each other."]
    return []


def _parts(run: Run) -> Iterator[Summary]:
    yield from filter(None, (run.train, run.val))


def _adapter(run: Run) -> str | None:
    return next((digest for part in _parts(run) if (digest := part.provenance.adapter_sha256)), None)


def _judged(run: Run) -> Iterator[tuple[Summary, str, tuple]]:
    """Each figure that a judge decided who may err: where, of which metric, and by whom."""
    for part in _parts(run):
        for metric, decided in decisions(part):
            if decided.judge not in KNOWING:
                yield part, metric, (metric, decided.identity)


def _unchecked(runs: list[Run]) -> str:
    """A warning of judges that were never checked. Each metric may have one of its own; one that was checked after some
    of its figures were made, and before others, was."""
    checked = {who for run in runs for part, metric, who in _judged(run) if metric in checks(part)}
    names = []
    for run in runs:
        judged = dict.fromkeys(metric for _, metric, _ in _judged(run))
        if missing := dict.fromkeys(metric for _, metric, who in _judged(run) if who not in checked):
            told = ", ".join(METRICS[metric].title for metric in missing)
            names.append(run.title if missing == judged else f"{run.title} ({told})")
    whose = f" of {_some(names)}" if checked else ""
    return f"The judge{whose} was never checked on cases whose verdict is known, as far as is told." if names else ""


def _blank(run: Run) -> str:
    """The view in which most responses are blank, where they are more than a figure may do without."""
    bound = max((part.max_blank for part in _parts(run)), default=0.0)
    shares = run.by_view("blank")
    most = max(shares, key=lambda view: shares[view].sort_key, default="")
    if not most or shares[most].sort_key <= bound:
        return ""
    return f"{run.title} {shares[most].text}% in the view {most.removesuffix('_eff')}"


def _each(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(value for value in values if value is not None))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + more


def checks(part: Summary) -> dict[str, dict[str, Any]]:
    """How the judge of each metric did on cases of which the verdict is known, where that is told."""
    told = part.judge_check or {}
    return {name: of for name, of in told.items() if name in METRICS and isinstance(of, dict) and "right" in of}


def _said(metric: str, of: dict[str, Any]) -> str:
    """`ASR of rules: 58 of 60 cases right (2026-01-01), sensitivity 0.95, specificity 0.98`."""
    judge, date = of.get("judge"), of.get("at")
    name = f"{METRICS[metric].title} of {judge}" if judge else METRICS[metric].title
    return f"{name}: {of['right']} of {of.get('n')} cases right" + (f" ({date})" if date else "") + _shares(of, *_BOTH)


def corrected(run: Run) -> dict[str, str]:
    """By column, the rate corrected for the judge's errors, as it stands beside the figure.

    Only labels correct a rate: beside another judge, what is called so is that judge's rate.
    """
    told = {}
    for key, column in COLUMNS.items():
        part = getattr(run, column.split)
        of = part.agreement.get(column.metric) or {} if part and part.agreement and _labelled(part) else {}
        value, low, high = (_number(of, name) for name in ("corrected", "low", "high"))
        if value is not None:
            between = "" if low is None or high is None else f" ({100 * low:.1f}–{100 * high:.1f})"
            told[key] = f"† {100 * value:.1f}{between}"
    return told


def agreements(run: Run, *, labelled: bool) -> list[str]:
    """How far the judge of each figure agrees with labels, or with another judge, for the note under the table."""
    told = []
    for part in (one for one in _parts(run) if _labelled(one) == labelled):
        for metric, of in (part.agreement or {}).items():
            if metric in METRICS and of and _number(of, "corrected") is not None:
                what = "labels" if labelled else f"responses beside {_other(part)}"
                if of.get("unlabelled"):
                    what += f", none on {' and '.join(of['unlabelled'])}"
                shares = f"{_number(of, 'labels') or 0:g} {what}{_shares(of, 'kappa', 'ac1', *_BOTH)}"
                told.append(f"{run.title}, {METRICS[metric].title} on {part.split}: {shares}")
    return told


def _labelled(part: Summary) -> bool:
    """Whether it is labels that the judge was set beside, and not another judge."""
    return "labels" in (part.agreement_with or {})


def _other(part: Summary) -> str:
    return (part.agreement_with or {}).get("judge") or "a judge that is not told"


def _shares(of: dict[str, Any], *names: str) -> str:
    """Those that are told, a comma before each."""
    return "".join(f", {name} {value:.2f}" for name in names if (value := _number(of, name)) is not None)


def _number(of: dict[str, Any], name: str) -> float | None:
    """A number, or the value of a figure."""
    value = of.get(name)
    value = value.get("value") if isinstance(value, dict) else value
    return value if isinstance(value, int | float) else None
