"""Two runs side by side on the same requests: the difference of each metric, with its interval."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from safeeraser.benchmark.files import read_json
from safeeraser.benchmark.judged import difference, values_of
from safeeraser.benchmark.metrics import METRICS, SCORED, Figure
from safeeraser.benchmark.records import read_raw
from safeeraser.errors import BadInput
from safeeraser.score.options import Options


@dataclass(frozen=True)
class Other:
    """The run to compare with: its summary, its values by request, and the models that answered as its judges."""

    path: Path
    summary: dict[str, Any]
    values: dict[tuple, float]
    models: dict[str, list[str]]


def read_other(path: Path, options: Options) -> Other:
    """Read the run whose summary is `path`, before anything is judged or written.

    Raises:
        BadInput: it cannot be used, is of another protocol, or its verdicts are what this run is to overwrite.
    """
    summary, verdicts = verdicts_of(path, f"--compare {path}")
    protocol = options.judging.protocol
    if summary.get("protocol") != protocol:
        raise BadInput(f"--compare {path}: of protocol {summary.get('protocol')}, this run of {protocol}")
    if options.output_file_rr and verdicts.resolve() == options.output_file_rr.resolve():
        raise BadInput(f"--compare {path}: its verdicts are in --output_file_rr {verdicts}, which would be overwritten")
    try:
        metrics = {metric: Figure.model_validate(summary.get(metric) or {"value": None}) for metric in SCORED}
        models = _models(summary.get("answered_by") or [])
        values = values_of(read_raw(verdicts), official=options.official)
        sum(values.values())
    except (AttributeError, TypeError, ValueError, KeyError):
        raise BadInput(f"--compare {path}: it, or {verdicts}, is not what eval_all.py writes") from None
    return Other(path, summary | metrics, values, models)


def verdicts_of(path: Path, where: str) -> tuple[dict[str, Any], Path]:
    """A run's summary, and the verdicts file that it names. Raises `BadInput`, beginning with `where`."""
    summary = read_json(path)
    name = summary.get("verdicts") if isinstance(summary, dict) else None
    if not isinstance(name, str):
        raise BadInput(
            f"{where}: no summary that names its verdicts file; eval_all.py writes one where it is given "
            "--output_file_rr and --summary"
        )
    verdicts = path.parent / name
    if not verdicts.is_file():
        raise BadInput(f"{where}: the verdicts that it names, {verdicts}, are not there")
    return summary, verdicts


def compare(
    values: dict[tuple, float], other: Other, figures: dict[str, Figure], told: dict[str, Any]
) -> dict[str, Any]:
    """What differs between this run's `values` and the other's, metric by metric.

    `difference` is this run's mean less the other's, over the same questions about the same pictures. A metric that
    either run withholds, or that different judges decided, has none: `note` says why.

    Args:
        told: this run's summary. Where other models answered for the other run, or were asked with other parameters,
            `note` says so beside the figure.
    """
    metrics, models = {}, _models(told["answered_by"])
    for metric in SCORED:
        theirs, judge = other.summary[metric], figures[metric].judge
        its = difference(values, other.values, metric)
        found: dict[str, Any] = {"difference": None, "low": None, "high": None, "n": its.n if its else 0, "note": None}
        if figures[metric].withheld or theirs.withheld:
            found["note"] = "withheld"
        elif judge != theirs.judge:
            found["note"] = f"judged by {theirs.judge} there"
        elif _version(told, judge) != _version(other.summary, judge):
            found["note"] = f"other {_version(told, judge)[0]} there"
        elif its:
            found |= {"difference": its.value, "low": its.low, "high": its.high}
            if judge and other.models and models.get(judge) != other.models.get(judge):
                found["note"] = f"answered by {', '.join(other.models.get(judge, ['nobody']))} there"
            elif judge in models and other.summary.get("asked_with") != told["asked_with"]:
                found["note"] = "asked with other parameters there"
        metrics[metric] = found
    if not any(of["n"] for of in metrics.values()):
        raise BadInput(f"--compare {other.path}: it has no question about a picture in common with this run")
    return {"summary": str(other.path), "judge": other.summary.get("judge"), **metrics}


def _version(summary: dict[str, Any], judge: str | None) -> tuple[str, str | None]:
    """By what the judge goes, and which version of it a summary tells."""
    name = (judge or "").partition(":")[0]
    kind = {"openai": "prompts", "rules": "rules", "truth": "truth"}.get(name, "guards")
    return kind, (summary.get("guards") or {}).get(name) if kind == "guards" else summary.get(kind)


def _models(answered: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Of each judge the models that answered as it."""
    models: dict[str, set[str]] = {}
    for entry in answered:
        models.setdefault(entry["judge"], set()).add(" ".join(filter(None, (entry["model"], entry["fingerprint"]))))
    return {judge: sorted(names) for judge, names in models.items()}


def show(compared: dict[str, Any]) -> None:
    """Print the differences, in per cent points."""
    print(f"beside {compared['summary']}:")
    right = (Column(head, justify="right") for head in ("difference, points", "95%", "n"))
    table = Table("metric", *right, "")
    for metric in SCORED:
        of = compared[metric]
        points = "–" if of["difference"] is None else f"{100 * of['difference']:+.1f}"
        between = "" if of["low"] is None else f"{100 * of['low']:+.1f} to {100 * of['high']:+.1f}"
        table.add_row(METRICS[metric].title, points, between, str(of["n"]), of["note"] or "")
    Console().print(table)
