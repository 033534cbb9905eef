"""One point measured: answered by `infer`, judged by `score`, and kept in a folder of its own."""

import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from safeeraser.audit.inside import CODE
from safeeraser.audit.look import look_inside
from safeeraser.audit.options import Options
from safeeraser.audit.points import Point
from safeeraser.audit.subjects import Subjects
from safeeraser.benchmark.files import Busy, described_by, read_object, write_json
from safeeraser.benchmark.metrics import METRICS
from safeeraser.errors import BadInput
from safeeraser.infer.options import Options as InferOptions
from safeeraser.infer.run import NothingAnswered, infer
from safeeraser.judge.judge import LACKS
from safeeraser.score.run import score


def read_point(point: Point, options: Options) -> dict[str, Any] | None:
    """What was found at the point; None if it was not measured yet, or attacked or judged otherwise."""
    file = point.kept(options) / "point.json"
    found = read_object(file) if file.is_file() else {}
    return found if _made_of(point, options).items() <= found.items() else None


def _made_of(point: Point, options: Options) -> dict[str, Any]:
    """What decides a point's figures beside the audit's settings and the judges."""
    if point.inside:
        return {"measured_by": CODE}
    return {"attack_code": point.attack_code, "judged_by": options.judged_by}


def incomplete(found: dict[str, Any]) -> list[str]:
    """What is not there of a point's figures, in words."""
    lacking = [found["missing"]] if found["missing"] else []
    rates = found["metrics"] | {f"refusals {view}": rate for view, rate in found.get("refusals", {}).items()}
    return lacking + [f"{name} {why}" for name, rate in rates.items() if (why := _lacks(rate))]


def can_be_mended(found: dict[str, Any]) -> bool:
    """Whether measuring again may give what is not there: missing responses and failed calls, nothing else."""
    rates = [*found["metrics"].values(), *found.get("refusals", {}).values()]
    return bool(found["missing"]) or any(_lacks(rate) and rate["failed"] for rate in rates)


def _lacks(rate: dict[str, Any]) -> str:
    """Why a figure cannot be used, in words; empty where it can."""
    if "withheld" in rate:
        return f"withheld ({rate['withheld']})"
    return "has no value" if rate["value"] is None else ""


def measure(point: Point, options: Options, everyone: Subjects) -> dict[str, Any]:
    """Answer, judge, and write `point.json`; goes on where it was stopped.

    Raises:
        BadInput: what `infer` or `score` refuse.
    """
    began = time.monotonic()
    predictions = point.folder / "predictions_val.json"
    found = {"group": point.group, "name": point.name, "at": point.at, "missing": "", **_made_of(point, options)}
    try:
        if point.inside:
            found |= {"metrics": {}, "measures": look_inside(point, options, everyone)}
        else:
            answer(point, predictions, options)
            missing = len(read_object(described_by(predictions))["missing"])
            found |= judge(point, predictions, options)
            found["missing"] = f"{missing} responses are missing" if missing else ""
    except Busy:
        raise
    except NothingAnswered as error:
        # Such as one that a scale or a rounding has broken; the other points stand all the same.
        found |= {"metrics": {}, "missing": str(error)}
    except BadInput as error:
        # So does what an attack, or a look inside, could not be made with: a device too small for it, or data.
        if not (point.attack or point.inside):
            raise
        found |= {"metrics": {}, "missing": str(error)}
    found["seconds"] = round(time.monotonic() - began, 2)
    write_json(point.kept(options) / "point.json", found)
    return found


def answer(point: Point, predictions: Path, options: Options) -> None:
    """Have the point's model answer, into the file `predictions`."""
    beside = described_by(predictions)
    earlier = read_object(beside)["settings"] if beside.is_file() else {}
    how = options.generation
    if point.temperature is not None:
        greedy = point.temperature == 0
        how = replace(how, greedy=greedy, temperature=how.temperature if greedy else point.temperature)
    infer(
        InferOptions(
            eval_file=options.val_file,
            output_file=predictions,
            model_path=point.model_path,
            checkpoint_path=point.adapter,
            selection=options.selection(point.views, point.samples),
            generation=how,
            batch_size=options.batch_size,
            dtype=options.dtype,
            decode=options.decode,
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
    folder = point.kept(options)
    folder.mkdir(exist_ok=True)
    # A table for each of some hundred points would bury how far the audit is.
    with open(folder / "score.log", "w", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        score(options.score_options(predictions.parent, refusals=point.refusals, recovered=True))
    told = read_object(folder / "summary_val.json")
    names = [name for name, metric in METRICS.items() if metric.view in point.views]
    by_view: dict[str, Any] = {key: told[key] for key in ("blank", "wrong", "refusals") if key in told}
    # Where all replies failed nothing is averaged, but the figure was asked for.
    asked = [name for name in names if any(told[name][key] for key in ("n", *LACKS))]
    return {"metrics": {name: told[name] for name in asked}, **by_view}
