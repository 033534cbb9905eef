"""`audit.json`: every point that is measured, and what is missing, in the form that the report reads."""

from importlib.metadata import version
from typing import Any

from safeeraser import __version__
from safeeraser.audit.further import RELEARNED, adapter_after, ended, relearning_settings
from safeeraser.audit.measure import incomplete, read_point
from safeeraser.audit.options import Options
from safeeraser.audit.points import ACTIONS, Point
from safeeraser.benchmark.files import write_json

NOT_MEASURED = "not measured"
KEPT = ("group", "name", "at", "metrics", "refusals", "blank")


def write_card(options: Options) -> None:
    """Gather what is measured by now, by whichever action and process."""
    points = [point for part in ACTIONS["all"] for point in part(options)]
    found = {point: read_point(point, options) for point in points}
    judge, settings = options.judging.judge, options.settings
    del settings["relearn_lr"]  # what became of it stands below
    there = {point: value for point, value in found.items() if value and value["metrics"]}
    card = {
        "checkpoint": str(options.checkpoint_path),
        "checkpoint_sha256": settings.pop("checkpoint_sha256"),
        "model_path": settings.pop("model_path"),
        "method": (options.trained or {}).get("forget_loss", {}).get("name"),
        "settings": {
            **settings,
            "relearning": _relearning(options),
            "val_file": str(options.val_file),
            **options.judged_by,
            "judge": f"{judge.name}:{judge.model}" if judge.model else judge.name,
        },
        "points": [{key: value[key] for key in KEPT if key in value} for value in _with_ends(there)],
        "missing": _missing(found, options),
        "versions": {"safeeraser": __version__}
        | {package: version(package) for package in ("torch", "transformers", "peft")},
    }
    write_json(options.card, card)


def lacking(point: Point, found: dict[str, Any] | None, options: Options) -> list[str]:
    """What is not there of a point, in words."""
    if found:
        return [f"{point.title}: {reason}" for reason in incomplete(found)]
    reason = point.lacks or NOT_MEASURED
    if view := point.relearned:
        stopped = ended(options, view) and not adapter_after(options, view, int(point.at)).is_dir()
        reason = "its training ended before" if stopped else reason
    return [f"{point.title}: {reason}"]


def _missing(found: dict[Point, dict[str, Any] | None], options: Options) -> list[str]:
    """What is not there; a group of which nothing is measured in one line."""
    lines = {point: lacking(point, value, options) for point, value in found.items()}
    told = []
    for group in dict.fromkeys(point.group for point in found):
        own = [line for point, its in lines.items() if point.group == group for line in its]
        untouched = all(line.endswith(NOT_MEASURED) for line in own)
        whole = len(own) == sum(point.group == group for point in found)
        told += [f"{group}: {NOT_MEASURED}"] if own and untouched and whole else own
    return told


def _relearning(options: Options) -> dict[str, Any]:
    """What decides how fast an adapter relearns, beside the data."""
    settings = relearning_settings(options, RELEARNED[0])
    items = settings.batch_size * settings.gradient_accumulation_steps
    return {
        "lr": settings.lr,
        "items_a_step": items,
        "recipe": settings.recipe.name,
        "LoRA": settings.LoRA.model_dump(),
    }


def _with_ends(there: dict[Point, dict[str, Any]]) -> list[dict[str, Any]]:
    """The points, and the clean one at the places of the curves where it belongs: scale 1, and step 0."""
    clean = [value for point, value in there.items() if point.group == "clean"]
    ends = {"scaling": 1.0} | {point.group: 0 for point in there if point.relearned}
    measured = {group: value["metrics"].keys() for value in there.values() if (group := value["group"]) in ends}
    shared = [
        {
            "group": group,
            "name": f"{ends[group]:g}",
            "at": ends[group],
            "metrics": {name: metric for name, metric in value["metrics"].items() if name in measured[group]},
        }
        for group in measured
        for value in clean
    ]
    return [*there.values(), *shared]
