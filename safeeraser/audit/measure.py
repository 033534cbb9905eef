"""One point measured, in a folder of its own: answered by `infer` and judged by `score`, or looked into."""

import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from typing import Any

from rouge_score.rouge_scorer import RougeScorer

from safeeraser.audit.inside import measure_all
from safeeraser.audit.inside.pairs import floor, read_pairs
from safeeraser.audit.options import Options
from safeeraser.audit.plan import Point
from safeeraser.audit.statistics import FLOOR, INSIDE, estimate, values_at
from safeeraser.audit.subjects import Subjects
from safeeraser.benchmark.files import Busy, described_by, read_object, write_json
from safeeraser.benchmark.metrics import METRICS
from safeeraser.benchmark.records import read_records
from safeeraser.errors import BadInput
from safeeraser.infer.options import Options as InferOptions
from safeeraser.infer.run import NothingAnswered, infer
from safeeraser.judge.judge import LACKS
from safeeraser.model.merge import load_merged
from safeeraser.processes import Processes
from safeeraser.score.options import Options as ScoreOptions
from safeeraser.score.run import score


def incomplete(found: dict[str, Any]) -> list[str]:
    """What is not there of a point's figures, in words."""
    return [gap for gap, _ in _gaps(found)]


def can_be_mended(found: dict[str, Any]) -> bool:
    """Whether measuring again may give what is not there: missing responses and failed calls, nothing else."""
    return any(mendable for _, mendable in _gaps(found))


def _gaps(found: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    if found["missing"]:
        yield found["missing"], True
    refusals = {f"refusals {view}": rate for view, rate in found.get("refusals", {}).items()}
    for name, rate in (found["metrics"] | refusals).items():
        if "withheld" in rate:
            yield f"{name} withheld ({rate['withheld']})", bool(rate["failed"])
        elif rate["value"] is None:
            yield f"{name} has no value", bool(rate["failed"])


def measure_point(point: Point, options: Options, subjects: Subjects) -> dict[str, Any]:
    """Answer and judge, or look inside, and write `point.json`; goes on where it was stopped."""
    began = time.monotonic()
    found = {"group": point.group, "name": point.name, "at": point.at, "missing": "", **point.made_of(options)}
    try:
        if point.inside:
            found |= {"metrics": {}, "measures": look_inside(point, options, subjects)}
        else:
            found |= {"missing": answer_point(point, options)} | judge_point(point, options)
    except BadInput as error:
        # A scale or a rounding may have broken the model, or an attack or a look inside not be possible here, for the
        # data or the device; the other points stand all the same.
        may_lack = isinstance(error, NothingAnswered) or point.attack or point.inside
        if isinstance(error, Busy) or not may_lack:
            raise
        found |= {"metrics": {}, "missing": str(error)}
    found["seconds"] = round(time.monotonic() - began, 2)
    write_json(point.kept(options) / "point.json", found)
    return found


def answer_point(point: Point, options: Options) -> str:
    """Have the point's model answer; returns what is missing, in words."""
    predictions = point.folder / "predictions_val.json"
    beside = described_by(predictions)
    earlier = read_object(beside)["settings"] if beside.is_file() else {}
    how = options.generation
    if point.temperature is not None:
        greedy = point.temperature == 0
        how = replace(how, greedy=greedy, temperature=how.temperature if greedy else point.temperature)
    inferred = infer(
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
            overwrite=earlier.get("attack_code") != point.made_of(options)["attack_code"],
        )
    )
    return f"{len(inferred.missing)} responses are missing" if inferred.missing else ""


def judge_point(point: Point, options: Options) -> dict[str, Any]:
    """The point's figures: of the views that were asked, since the others have no response to judge."""
    folder = point.kept(options)
    folder.mkdir(exist_ok=True)
    # A table for each of some hundred points would bury how far the audit is.
    with open(folder / "score.log", "w", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        score(
            ScoreOptions(
                input_file=point.folder / "predictions_val.json",
                file_refer=options.val_file,
                output_file_rr=folder / "verdicts_val.json",
                summary=folder / "summary_val.json",
                split="val",
                judging=options.judging,
                max_failed=options.max_failed,
                max_blank=options.max_blank,
                refusals=point.refusals,
                recovered=True,
                overwrite=True,  # of what lies in the audit's own folder
            )
        )
    summary = read_object(folder / "summary_val.json")
    names = [name for name, metric in METRICS.items() if metric.view in point.views]
    by_view: dict[str, Any] = {key: summary[key] for key in ("blank", "wrong", "refusals") if key in summary}
    # Where all replies failed nothing is averaged, but the figure was asked for.
    asked = [name for name in names if any(summary[name][key] for key in ("n", *LACKS))]
    return {"metrics": {name: summary[name] for name in asked}, **by_view}


def look_inside(point: Point, options: Options, subjects: Subjects) -> dict[str, Any]:
    """Measure what a model knows beyond what it says, of the questions that the other points ask; returns the means.

    Each pair's values lie beside the point; of the untouched model also the floor's (docs/audit.md). Where each record
    has questions of its own, only the floor of what is extracted stands: any model tells an answer to another question.
    """
    data = read_records(options.val_file)
    pairs = read_pairs(data, options.selection(point.views).records(data), options.seed)
    sets = {INSIDE: pairs} | ({FLOOR: floor(pairs)} if point.subject.name == "vanilla" else {})
    device = Processes.join().device
    load_vanilla, load = (
        partial(load_merged, of.model_path, of.adapter, dtype=options.dtype, lora_alpha=256, device=device)
        for of in (subjects["vanilla"], point.subject)
    )
    found = measure_all(load, load_vanilla, sets)
    if FLOOR in found:
        # How much of each answer is in one to the same question of another keyword.
        recall = RougeScorer(["rougeL"], use_stemmer=True).score
        found[FLOOR]["recovered"] = {pair.key: recall(pair.true, pair.other)["rougeL"].recall for pair in pairs}
        alike = len({tuple(pair.question for pair in record.unsafe_pairs) for record in data.records}) == 1
        if not alike and not all(pair.content for pair in pairs):
            found[FLOOR] = {name: values for name, values in found[FLOOR].items() if name.startswith("exact")}
    # Each pair as verdicts know it: by its picture, its question, and which of the records with that picture.
    pictures = [record.image_path for record in data.records]
    turns = {pair.record: pictures[: pair.record].count(pictures[pair.record]) for pair in pairs}
    items = {pair.key: [pictures[pair.record], pair.question, turns[pair.record]] for pair in pairs}
    for file, values in found.items():
        write_json(point.folder / file, {"items": items, "values": values}, indent=None)
    return {name: estimate(values, "number") for name, values in values_at(point, options).items()}
