"""One point measured: answered by `infer`, judged by `score`, and kept in a folder of its own."""

from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from safeeraser.audit.options import Options
from safeeraser.audit.points import Point
from safeeraser.benchmark.files import described_by, read_object, write_json
from safeeraser.benchmark.metrics import METRICS
from safeeraser.infer.options import Options as InferOptions
from safeeraser.infer.run import NothingAnswered, infer
from safeeraser.score.run import score


def folder_of(point: Point, options: Options) -> Path:
    """Where a point's files lie."""
    return options.folder / point.group / point.name


def read_point(point: Point, options: Options) -> dict[str, Any] | None:
    """What was found at the point; None if it was not measured yet, or attacked or judged otherwise."""
    file = folder_of(point, options) / "point.json"
    found = read_object(file) if file.is_file() else {}
    return found if _made_of(point, options).items() <= found.items() else None


def _made_of(point: Point, options: Options) -> dict[str, Any]:
    """What decides a point's figures beside the audit's settings."""
    return {"attack_code": point.attack_code, "judged_by": options.judged_by}


def incomplete(found: dict[str, Any]) -> list[str]:
    """What is not there of a point's figures, in words."""
    lacking = [found["missing"]] if found["missing"] else []
    rates = found["metrics"] | {f"refusals {view}": rate for view, rate in found.get("refusals", {}).items()}
    return lacking + [f"{name} withheld ({rate['withheld']})" for name, rate in rates.items() if "withheld" in rate]


def can_be_mended(found: dict[str, Any]) -> bool:
    """Whether measuring again may give what is not there: missing responses and failed calls, nothing else."""
    rates = [*found["metrics"].values(), *found.get("refusals", {}).values()]
    return bool(found["missing"]) or any("withheld" in rate and rate["failed"] for rate in rates)


def measure(point: Point, options: Options) -> dict[str, Any]:
    """Answer, judge, and write `point.json`; goes on where it was stopped.

    Raises:
        BadInput: what `infer` or `score` refuse.
    """
    folder = folder_of(point, options)
    predictions = folder / "predictions_val.json"
    found = {"group": point.group, "name": point.name, "at": point.at, **_made_of(point, options)}
    try:
        answer(point, predictions, options)
        missing = len(read_object(described_by(predictions))["missing"])
        found |= judge(point, predictions, options)
        found["missing"] = f"{missing} responses are missing" if missing else ""
    except NothingAnswered as error:
        # Such as one that a scale or a rounding has broken; the other points stand all the same.
        found |= {"metrics": {}, "missing": str(error)}
    write_json(folder / "point.json", found)
    return found


def answer(point: Point, predictions: Path, options: Options) -> None:
    """Have the point's model answer, into the file `predictions`."""
    beside = described_by(predictions)
    earlier = read_object(beside)["settings"] if beside.is_file() else {}
    infer(
        InferOptions(
            eval_file=options.val_file,
            output_file=predictions,
            model_path=options.model_path,
            checkpoint_path=point.adapter,
            selection=options.selection(point.views),
            generation=options.generation,
            batch_size=options.batch_size,
            dtype=options.dtype,
            adapter_scale=point.scale,
            quantization=point.quantization,
            attack=point.attack,
            allow_other_base=options.allow_other_base,
            # What another version of the attack has finished or begun is replaced.
            overwrite=earlier.get("attack_code") != point.attack_code,
        )
    )


def judge(point: Point, predictions: Path, options: Options) -> dict[str, Any]:
    """The point's figures: of the views that were asked, since the others have no response to judge."""
    folder = predictions.parent
    # A table for each of some fifty points would bury how far the audit is.
    with open(folder / "score.log", "w", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        score(options.score_options(folder, refusals=point.refusals, recovered=True))
    told = read_object(folder / "summary_val.json")
    names = [name for name, metric in METRICS.items() if metric.view in point.views]
    found = {"metrics": {name: told[name] for name in names if told[name]["n"]}, "blank": told["blank"]}
    return found | ({"refusals": told["refusals"]} if point.refusals else {})
