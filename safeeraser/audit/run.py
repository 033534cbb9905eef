"""Run an audit: one or several processes measure its points one after another, and gather them in `audit.json`.

Each point has its own folder. `infer` answers a point and `score` judges it, or its model is measured inside.
"""

import logging
import shutil
import time
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from rouge_score.rouge_scorer import RougeScorer

from safeeraser.audit.card import can_be_mended, lacking, write_card
from safeeraser.audit.inside import measure_all, quantity
from safeeraser.audit.inside.pairs import floor, read_pairs
from safeeraser.audit.options import Options
from safeeraser.audit.plan import Plan, Point, points_of, read_point, show_plan
from safeeraser.audit.relearn import adapter_after, ended, merge_once, relearn
from safeeraser.audit.statistics import FLOOR, INSIDE, Kind, estimate, values_at
from safeeraser.audit.subjects import check_inputs, check_subjects, subjects_of
from safeeraser.benchmark.adapters import described_by
from safeeraser.benchmark.files import Busy, held, make_room_for, read_object, write_json
from safeeraser.benchmark.metrics import METRICS
from safeeraser.benchmark.records import read_records
from safeeraser.errors import BadInput
from safeeraser.infer.options import Options as InferOptions
from safeeraser.infer.run import NothingAnswered, infer
from safeeraser.judge.judge import LACKS
from safeeraser.judge.panel import Panel
from safeeraser.model.merge import load_merged
from safeeraser.processes import Processes
from safeeraser.score.options import Options as ScoreOptions
from safeeraser.score.run import score
from safeeraser.unlearn.job import prepare

log = logging.getLogger(__name__)

INCOMPLETE = 3  # the exit code of a finished audit that has gaps

WAIT = 2.0  # seconds between two looks at the points that other processes hold


def audit(options: Options) -> int:
    """Measure the points of the chosen actions, and write `audit.json` with all points that are measured by then.

    Several processes may run at once: each takes points that no other one holds, also the points of a killed process.

    Returns the exit code: 0, or `INCOMPLETE` if a point of the chosen actions has gaps.
    """
    check_inputs(options)
    subjects = subjects_of(options)
    check_subjects(options, subjects)
    panel = Panel(replace(options.judging, dry_run=options.dry_run))
    wanted = points_of(options.actions, options, subjects, options.attacks)
    points = [point for point in wanted if not point.lacks]
    check_trainings(points, options)
    if options.dry_run:
        show_plan(points, options, panel)
        return 0
    for subject in subjects.values():
        make_room_for(subject.begun)
        write_json(subject.begun, subject.settings(options))
    for line in dict.fromkeys(f"{point.group}: {point.lacks}" for point in wanted if point.lacks):
        log.warning("left out: %s", line)
    try:
        measure_points(points, options)
    finally:
        # After an error, too, the card holds all points that were measured.
        results = write_card(options, subjects)
    remove_merged(points, results)
    missing = [(point, why) for point in points for why in lacking(point, results[point])]
    for point, why in missing:
        log.warning("missing: %s: %s", point.title, why)
    log.info("done: %s", options.card)
    return INCOMPLETE if missing else 0


def check_trainings(points: list[Point], options: Options) -> None:
    """Check each attacker's training settings now, not hours later; on the base model, as nothing is merged yet."""
    for attacker, seed in {at.attacker: at.seed for point in points if (at := point.relearned)}.items():
        where = options.checkpoint_path / "audit" / "unbegun"
        with suppress(Busy):
            prepare(options.protocol.settings(options.model_path, where, attacker, seed, options.data, options.dtype))


def measure_points(points: list[Point], options: Options) -> None:
    """Measure the points, and wait for points that other processes hold; take over the points of killed processes."""
    if before := sum(map(is_measured, points)):
        log.info("resuming: %d of %d points are measured", before, len(points))
    shown, left = 0, {point: f"[{number}/{len(points)}] {point.title}" for number, point in enumerate(points, 1)}
    while left := measure_free(left, options):
        if len(left) != shown:
            shown = len(left)
            log.info("other processes are at %d points", shown)
        time.sleep(WAIT)


def measure_free(points: dict[Point, str], options: Options) -> dict[Point, str]:
    """Measure the points that are left, and log each under its text; return the points that other processes held."""
    busy, shown = {}, False
    for point, where in points.items():
        if is_measured(point):
            continue
        began = time.monotonic()
        try:
            result = measure_held(point, options)
        except Busy:
            busy[point] = where
        except torch.OutOfMemoryError:
            log.warning("%s: the device's memory is too small", where)
        else:
            if result:
                log.info("%s: %s (%.0f s)", where, in_words(result), time.monotonic() - began)
            if result and not shown:
                shown = True
                log.info("%s", Plan(list(points), options).time_left())
    return busy


def is_measured(point: Point) -> bool:
    """Whether the point is measured, and measuring again would fill no gap."""
    return not can_be_mended(read_point(point))


def measure_held(point: Point, options: Options) -> dict[str, Any] | None:
    """Lock a point, relearn its model if it needs that, and measure it; None if its training ended before its step.

    None also if another process has just measured it. Raises `Busy` if another process holds it or its training.
    """
    point.folder.mkdir(parents=True, exist_ok=True)
    with held(point.folder, point.title):
        if at := point.relearned:
            who, allowed = point.subject, options.allow_other_base
            model = merge_once(who.adapter, who.model_path, who.folder / "merged", allow_other_base=allowed)
            how = (at.attacker, at.seed, options.data, options.dtype)
            relearn(options.protocol.settings(model, at.training, *how))
            if not adapter_after(at.training, at.step).is_dir():
                return None
        # Another process may have measured it just before this one got the lock.
        return None if is_measured(point) else measure_point(point, options)


def remove_merged(points: list[Point], results: dict[Point, dict[str, Any] | None]) -> None:
    """Remove the merged models that no training needs any more; each is as large as its base model."""
    trained = [(point, at) for point in points if (at := point.relearned) and point.subject.adapter]
    left = {point.subject.merged for point, at in trained if can_be_mended(results[point]) and not ended(at.training)}
    for path in {point.subject.merged for point, _ in trained} - left:
        shutil.rmtree(path, ignore_errors=True)


def measure_point(point: Point, options: Options) -> dict[str, Any]:
    """Answer and judge a point, or measure inside, and write `point.json`; a stopped point resumes."""
    began = time.monotonic()
    result = {"group": point.group, "name": point.name, "at": point.at, "missing": "", **point.made_of}
    try:
        if point.inside:
            result |= {"metrics": {}, "measures": look_inside(point, options)}
        else:
            result |= {"missing": answer_point(point, options)} | judge_point(point, options)
    except BadInput as error:
        # After scaling or rounding, the model may answer nothing. The data or the device may not allow an attack or a
        # measure inside. The audit continues with the other points.
        may_lack = isinstance(error, NothingAnswered) or point.attack or point.inside
        if isinstance(error, Busy) or not may_lack:
            raise
        result |= {"metrics": {}, "missing": str(error)}
    result["seconds"] = round(time.monotonic() - began, 2)
    write_json(point.results / "point.json", result)
    return result


def answer_point(point: Point, options: Options) -> str:
    """Have the point's model answer; return a text that counts the missing responses, empty if there are none."""
    predictions = point.folder / "predictions_val.json"
    beside = described_by(predictions)
    earlier = read_object(beside)["settings"] if beside.is_file() else {}
    how = options.generation
    if point.temperature is not None:
        how = replace(how, greedy=point.temperature == 0, temperature=point.temperature or how.temperature)
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
            # Replace responses that were made with another version of the attack's code.
            overwrite=earlier.get("attack_code") != point.made_of["attack_code"],
        )
    )
    return f"{len(inferred.missing)} responses are missing" if inferred.missing else ""


def judge_point(point: Point, options: Options) -> dict[str, Any]:
    """Judge the responses; return the figures of the point's views, because the other views have no responses."""
    folder = point.results
    folder.mkdir(exist_ok=True)
    # Printing a table of scores for each point would hide the progress of the audit.
    with open(folder / "score.log", "w", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        score(
            ScoreOptions(
                input_file=point.folder / "predictions_val.json",
                file_refer=options.val_file,
                output_file_rr=folder / "verdicts_val.json",
                summary=folder / "summary_val.json",
                overwrite=True,
                split="val",
                judging=options.judging,
                max_failed=options.max_failed,
                max_blank=options.max_blank,
                refusals=point.refusals,
                recovered=True,
            ),
            Panel(options.judging),
        )
    summary = read_object(folder / "summary_val.json")
    names = [name for name, metric in METRICS.items() if metric.view in point.views]
    by_view: dict[str, Any] = {key: summary[key] for key in ("blank", "wrong", "refusals") if key in summary}
    # A metric whose replies all failed has n = 0, but it was asked for and is reported.
    asked = [name for name in names if any(summary[name][key] for key in ("n", *LACKS))]
    return {"metrics": {name: summary[name] for name in asked}, **by_view}


def look_inside(point: Point, options: Options) -> dict[str, Any]:
    """Measure what a model knows about the questions that the other points ask; return the mean of each measure.

    The values of all pairs are written to the point's folder, and for the untouched model the floor's values as well
    (docs/guides/audit.md). If records differ in their questions and the answers' content is not known, the floor keeps
    only `exact_*`: for the other measures, any model can see whether an answer belongs to the question.
    """
    data = read_records(options.val_file)
    pairs = read_pairs(data, options.selection(point.views).records(data), options.seed)
    sets = {INSIDE: pairs} | ({FLOOR: floor(pairs)} if point.subject.name == "vanilla" else {})
    load = partial(load_merged, dtype=options.dtype, lora_alpha=256, device=Processes.join().device)
    vanilla = partial(load, options.model_path, None)
    by_file = measure_all(partial(load, point.model_path, point.adapter), vanilla, sets)
    if FLOOR in by_file:
        # The ROUGE-L recall of each true answer in the answer to the same question for another keyword.
        recall = RougeScorer(["rougeL"], use_stemmer=True).score
        by_file[FLOOR]["recovered"] = {pair.key: recall(pair.true, pair.other)["rougeL"].recall for pair in pairs}
        alike = len({tuple(pair.question for pair in record.unsafe_pairs) for record in data.records}) == 1
        if not alike and not all(pair.content for pair in pairs):
            by_file[FLOOR] = {name: values for name, values in by_file[FLOOR].items() if name.startswith("exact")}
    # Name each pair as verdicts do: by picture, question, and the record's number among the records of that picture.
    pictures = [record.image_path for record in data.records]
    turns = {pair.record: pictures[: pair.record].count(pictures[pair.record]) for pair in pairs}
    items = {pair.key: [pictures[pair.record], pair.question, turns[pair.record]] for pair in pairs}
    for file, values in by_file.items():
        write_json(point.folder / file, {"items": items, "values": values}, indent=None)
    # Shares are bounded, so even shares that are all 0 have an interval with a width.
    kinds: dict[str, Kind] = {"share": "mean"}
    return {name: estimate(of, kinds.get(quantity(name).unit, "number")) for name, of in values_at(point).items()}


def in_words(result: dict[str, Any]) -> str:
    """A point's rates in per cent and its measures inside, as one text."""
    rates = {METRICS[name].title: rate["value"] for name, rate in result["metrics"].items()}
    words = [f"{title} {'–' if value is None else f'{100 * value:.1f}'}" for title, value in rates.items()]
    inside = {name: figure["value"] for name, figure in result.get("measures", {}).items() if "_" not in name}
    return ", ".join(words + [f"{name} {value:.2f}" for name, value in inside.items() if value is not None])
