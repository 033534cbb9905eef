"""Write `audit.json` for the report: the measured points, the statistics and findings from them, and all gaps."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from scipy.stats import false_discovery_control

from safeeraser.audit.findings import findings, recoveries
from safeeraser.audit.inside import quantity
from safeeraser.audit.inside.measures import score
from safeeraser.audit.options import Options
from safeeraser.audit.plan import Point, points_of, read_point
from safeeraser.audit.relearn import adapter_after, ended
from safeeraser.audit.statistics import Values, best_of, curves, difference, estimate, over_seeds, share, values_at
from safeeraser.audit.subjects import Subject, Subjects
from safeeraser.benchmark.audits import FORMAT, Audit
from safeeraser.benchmark.figures import AUDITED, write_table
from safeeraser.benchmark.files import write_json
from safeeraser.benchmark.origin import versions
from safeeraser.infer.attacks import ATTACKS

KEPT = ("group", "name", "at", "metrics", "refusals", "blank", "wrong", "measures")
COMPARED = ("asr", "recovered", "rr", "sarr", "rouge_l")  # the metrics whose differences between points are reported
NS = (1, 3, 10)  # the n of ASR@n

Measured = dict[Point, dict[str, Any]]  # the results of the measured points, as `read_point` gives them
ByMetric = dict[str, Values]


def write_card(options: Options, everyone: Subjects) -> dict[Point, dict[str, Any] | None]:
    """Write the card from all points measured so far, by any action or process; return each point's result, if any."""
    points = points_of(("all",), options, everyone)
    results = {point: read_point(point) for point in points}
    there = {point: value for point, value in results.items() if value and (value["metrics"] or value.get("measures"))}
    values = {point: values_at(point) for point in there}
    rows = [*_plain(there, values), *_relearned(there, values), *_scale_ends(there)]
    measured = Audit.model_validate({"format": FORMAT, "points": rows})
    recovering = recoveries(measured)
    for point in filter(_attacked, rows):
        point["recovers"] = bool(recovering[point["name"]])
    judge, (end, shares) = options.judging.judge, _shares(values)
    card = {
        "format": FORMAT,
        "checkpoint": str(options.checkpoint_path),
        **everyone[AUDITED].weights,
        "method": (options.trained or {}).get("forget_loss", {}).get("name"),
        "controls": {
            name: subject.weights | {"attack": subject.attack} for name, subject in everyone.items() if name != AUDITED
        },
        "settings": {
            **options.settings,
            "val_file": str(options.val_file),
            **options.judged_by,
            "judge": f"{judge.name}:{judge.model}" if judge.model else judge.name,
        },
        "points": rows,
        "quantities": {name: vars(quantity(name)) for row in rows for name in row.get("measures", {})},
        "shares_to": end,
        "shares": shares,
        "relearning": curves(measured.rows()),
        "missing": [*_missing(results)],
        "versions": versions("torch", "transformers", "peft"),
    }
    audit = Audit.model_validate(card)
    card["concluded"] = audit.conclusions().model_dump()
    card["findings"] = [finding.model_dump() for finding in findings(audit)]
    write_json(options.card, card)
    write_table(options.card.with_suffix(".figures.csv"), audit.rows())
    return results


def lacking(point: Point, result: dict[str, Any] | None) -> list[str]:
    """The gaps in a point's result, in words; without a result, the reason why the point is missing."""
    if result:
        return incomplete(result)
    if (at := point.relearned) and ended(at.training) and not adapter_after(at.training, at.step).is_dir():
        return ["its training ended before"]
    return [point.lacks or "not measured"]


def incomplete(result: dict[str, Any]) -> list[str]:
    """The gaps in the result of a measured point, in words."""
    return [gap for gap, _ in _gaps(result)]


def can_be_mended(result: dict[str, Any] | None) -> bool:
    """Whether measuring again may fill a gap: there is no result, the result names a missing part, or calls failed."""
    return result is None or any(mendable for _, mendable in _gaps(result))


def _gaps(result: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    if result["missing"]:
        yield result["missing"], True
    refusals = {f"refusals {view}": rate for view, rate in result.get("refusals", {}).items()}
    for name, rate in (result["metrics"] | refusals).items():
        if "withheld" in rate:
            yield f"{name} withheld ({rate['withheld']})", bool(rate["failed"])
        elif rate["value"] is None:
            yield f"{name} has no value", bool(rate["failed"])


def _missing(results: dict[Point, dict[str, Any] | None]) -> Iterator[str]:
    """One line for each gap; if all points of a group have the same gap, one line for the group."""
    groups: dict[tuple[Subject, str], list[Point]] = defaultdict(list)
    for point in results:
        groups[point.subject, point.group].append(point)
    for (subject, group), points in groups.items():
        reasons = [(point.title, reason) for point in points for reason in lacking(point, results[point])]
        if len(reasons) == len(points) > 1 and len({reason for _, reason in reasons}) == 1:
            reasons = [(f"{subject.prefix}{group}", reasons[0][1])]
        yield from (f"{title}: {reason}" for title, reason in reasons)


def _plain(there: Measured, values: dict[Point, ByMetric]) -> list[dict[str, Any]]:
    """The points without relearning, with the audited model's differences to clean and to vanilla."""
    others, points = {(point.subject.name, point.group, point.name): values[point] for point in there}, []
    for point, value in there.items():
        if point.relearned:
            continue
        points.append(row := {"subject": point.subject.name} | {key: value[key] for key in KEPT if key in value})
        if point.attack and ATTACKS[point.attack].informed:
            row["informed"] = True
        if point.group == "sampling":
            row["asr_at"] = {str(n): estimate(of, "mean") for n, of in best_of(point, NS).items() if of}
        if point.subject.name == AUDITED and not point.inside:
            beside = {"to_clean": (AUDITED, "clean", "clean"), "to_vanilla": ("vanilla", point.group, point.name)}
            for name, key in beside.items():
                other = others.get(key, {})
                row[name] = _differences(values[point], other) if other is not values[point] else {}
        if (point.subject.name, point.group) == (AUDITED, "clean"):
            # The share of harmful questions refused on the harmful picture, minus the share refused on the benign one.
            row["by_picture"] = difference(values[point].get("rr", {}), values[point].get("refusal_decoupled", {}))
    for metric in COMPARED:
        differences = [_attacked(row)[metric] for row in points if metric in _attacked(row)]
        # q: the false-discovery rate at which each difference would be reported (Benjamini and Hochberg, 1995).
        ps = [each["p"] for each in differences]
        for each, q in zip(differences, false_discovery_control(ps) if ps else (), strict=True):
            each["q"] = float(q)
    return points


def _attacked(row: dict[str, Any]) -> dict[str, Any]:
    """An attack's differences to clean, for the audited model, which are corrected together; empty for other rows."""
    return row.get("to_clean", {}) if (row["subject"], row["group"]) == (AUDITED, "attack") else {}


def _differences(values: ByMetric, others: ByMetric) -> dict[str, Any]:
    metrics = (metric for metric in COMPARED if values.get(metric, {}).keys() & others.get(metric, {}).keys())
    return {metric: difference(values[metric], others[metric]) for metric in metrics}


def _relearned(there: Measured, values: dict[Point, ByMetric]) -> Iterator[dict[str, Any]]:
    """The points of the relearning curves, each a mean over seeds; step 0 is the subject's clean point."""
    steps: dict[tuple[str, str, float], list[Point]] = defaultdict(list)
    clean = {point.subject.name: point for point in there if point.group == "clean"}
    for point in there:
        if at := point.relearned:
            steps[point.subject.name, point.group, at.step].append(point)
            if begun := clean.get(point.subject.name):
                steps[point.subject.name, point.group, 0] = [begun]
    for (subject, group, step), points in sorted(steps.items()):
        seeds = [values[point] for point in points]
        asr = {point: there[point]["metrics"].get("asr", {}).get("value") for point in points}
        measured = [metric for metric in ("asr", "rr", "recovered") if all(metric in of for of in seeds)]
        yield {
            "subject": subject,
            "group": group,
            "name": f"{step:g}",
            "at": step,
            "metrics": {metric: over_seeds([of[metric] for of in seeds]) for metric in measured},
            "seeds": {str(at.seed): asr[point] for point in points if (at := point.relearned)},
        }


def _scale_ends(there: Measured) -> Iterator[dict[str, Any]]:
    """The ends of the scaling curve: scale 0 is the untouched model, scale 1 the adapter without scaling."""
    scaled, ends = any(point.group == "scaling" for point in there), {AUDITED: 1, "vanilla": 0}
    for point, value in there.items():
        if scaled and point.group == "clean" and (at := ends.get(point.subject.name)) is not None:
            metrics = value["metrics"]
            yield {"subject": AUDITED, "group": "scaling", "name": str(at), "at": at, "metrics": metrics}


def _shares(values: dict[Point, ByMetric]) -> tuple[str, dict[str, Any]]:
    """The end of the way that starts at vanilla, and the share of this way by measure and subject.

    The end is `never_knew`. Without this control it is `floor`: vanilla's figures on answers paired at random.
    """
    of_subject: dict[str, ByMetric] = defaultdict(dict)
    floor: ByMetric = {}
    for point, by_metric in values.items():
        if point.group in ("clean", "inside"):
            of_subject[point.subject.name] |= by_metric
        if point.inside and point.subject.name == "vanilla":
            floor = values_at(point, floor=True)
    end = "never_knew" if "never_knew" in of_subject else "floor"
    known, never = of_subject.pop("vanilla", {}), of_subject.pop("never_knew", floor)
    shares = {
        measure: {
            name: share(known[measure], by_metric[measure], never[measure])
            for name, by_metric in of_subject.items()
            if measure in by_metric
        }
        for measure in sorted(known.keys() & never.keys())
        if not measure.startswith(("depth", "refusal_"))
    }
    if end == "never_knew" and "depth" in never:
        shares["depth"] = {
            name: estimate({key: value for key, value in score(of, never).items() if value is not None}, "mean")
            for name, of in of_subject.items()
            if "depth" in of
        }
    return end, shares
