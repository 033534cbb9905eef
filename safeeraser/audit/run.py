"""A whole audit: points measured one after another, by as many processes as there are, gathered in `audit.json`.

A point is answered by `infer` and judged by `score`, or looked into, in a folder of its own.
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
from safeeraser.audit.inside import measure_all
from safeeraser.audit.inside.pairs import floor, read_pairs
from safeeraser.audit.options import Options
from safeeraser.audit.plan import Plan, Point, points_of, read_point, show_plan
from safeeraser.audit.relearn import adapter_after, ended, merge_once, relearn
from safeeraser.audit.statistics import FLOOR, INSIDE, estimate, values_at
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

INCOMPLETE = 3  # the exit code of an audit that is through, but lacks something

WAIT = 2.0  # seconds before looking again at what other processes are at


def audit(options: Options) -> int:
    """Measure the points of the actions asked for, and write `audit.json` with all that is measured by then.

    Several processes may be at it: each takes what no other one has, and what a killed one had is taken up again.

    Returns the exit code: 0, or `INCOMPLETE` if something could not be measured whole.
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
        # Whatever went wrong, what was measured is kept.
        results = write_card(options, subjects)
    remove_merged(points, results)
    missing = [(point, why) for point in points for why in lacking(point, results[point])]
    for point, why in missing:
        log.warning("missing: %s: %s", point.title, why)
    log.info("done: %s", options.card)
    return INCOMPLETE if missing else 0


def check_trainings(points: list[Point], options: Options) -> None:
    """Refuse now, rather than in the night, what the model itself could not be relearned with: none is merged yet."""
    for attacker, seed in {at.attacker: at.seed for point in points if (at := point.relearned)}.items():
        where = options.checkpoint_path / "audit" / "unbegun"
        with suppress(Busy):
            prepare(options.protocol.settings(options.model_path, where, attacker, seed, options.data, options.dtype))


def measure_points(points: list[Point], options: Options) -> None:
    """Measure the points, and wait for those that others are at: of a process that is killed they are taken over."""
    if before := sum(map(is_measured, points)):
        log.info("going on: %d of %d points are measured", before, len(points))
    shown, left = 0, {point: f"[{number}/{len(points)}] {point.title}" for number, point in enumerate(points, 1)}
    while left := measure_free(left, options):
        if len(left) != shown:
            shown = len(left)
            log.info("other processes are at %d points", shown)
        time.sleep(WAIT)


def measure_free(points: dict[Point, str], options: Options) -> dict[Point, str]:
    """Measure what is not measured yet, each named in the log by its text; returns what other processes were at."""
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
    """Whether the point is measured, and no more of it can be had."""
    return not can_be_mended(read_point(point))


def measure_held(point: Point, options: Options) -> dict[str, Any] | None:
    """Measure a point while others are kept from it, its model trained first; None if its training ended before it.

    Raises `Busy` where another process is at it, or at its training.
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
        # Another process may have been through with it a moment ago.
        return None if is_measured(point) else measure_point(point, options)


def remove_merged(points: list[Point], results: dict[Point, dict[str, Any] | None]) -> None:
    """Remove the merged models, each as large as the base, that no point is left to be trained on."""
    trained = [(point, at) for point in points if (at := point.relearned) and point.subject.adapter]
    left = {point.subject.merged for point, at in trained if can_be_mended(results[point]) and not ended(at.training)}
    for path in {point.subject.merged for point, _ in trained} - left:
        shutil.rmtree(path, ignore_errors=True)


def measure_point(point: Point, options: Options) -> dict[str, Any]:
    """Answer and judge, or look inside, and write `point.json`; goes on where it was stopped."""
    began = time.monotonic()
    result = {"group": point.group, "name": point.name, "at": point.at, "missing": "", **point.made_of}
    try:
        if point.inside:
            result |= {"metrics": {}, "measures": look_inside(point, options)}
        else:
            result |= {"missing": answer_point(point, options)} | judge_point(point, options)
    except BadInput as error:
        # A scale or a rounding may have broken the model, or an attack or a look inside not be possible here, for the
        # data or the device; the other points are kept all the same.
        may_lack = isinstance(error, NothingAnswered) or point.attack or point.inside
        if isinstance(error, Busy) or not may_lack:
            raise
        result |= {"metrics": {}, "missing": str(error)}
    result["seconds"] = round(time.monotonic() - began, 2)
    write_json(point.results / "point.json", result)
    return result


def answer_point(point: Point, options: Options) -> str:
    """Have the point's model answer; returns what is missing, in words."""
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
            # What another version of the attack has finished or begun is replaced.
            overwrite=earlier.get("attack_code") != point.made_of["attack_code"],
        )
    )
    return f"{len(inferred.missing)} responses are missing" if inferred.missing else ""


def judge_point(point: Point, options: Options) -> dict[str, Any]:
    """The point's figures: of the views that were asked, since the others have no response to judge."""
    folder = point.results
    folder.mkdir(exist_ok=True)
    # A table for each of some hundred points would bury how far the audit is.
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
    # Where all replies failed nothing is averaged, but the figure was asked for.
    asked = [name for name in names if any(summary[name][key] for key in ("n", *LACKS))]
    return {"metrics": {name: summary[name] for name in asked}, **by_view}


def look_inside(point: Point, options: Options) -> dict[str, Any]:
    """Measure what a model knows beyond what it says, of the questions that the other points ask; returns the means.

    Each pair's values lie beside the point; of the untouched model also the floor's
    (docs/guides/audit.md). Where each record has questions of its own, only the floor of what is extracted counts: any
    model knows an answer to another question from one to this.
    """
    data = read_records(options.val_file)
    pairs = read_pairs(data, options.selection(point.views).records(data), options.seed)
    sets = {INSIDE: pairs} | ({FLOOR: floor(pairs)} if point.subject.name == "vanilla" else {})
    load = partial(load_merged, dtype=options.dtype, lora_alpha=256, device=Processes.join().device)
    vanilla = partial(load, options.model_path, None)
    by_file = measure_all(partial(load, point.model_path, point.adapter), vanilla, sets)
    if FLOOR in by_file:
        # How much of each answer is in one to the same question of another keyword.
        recall = RougeScorer(["rougeL"], use_stemmer=True).score
        by_file[FLOOR]["recovered"] = {pair.key: recall(pair.true, pair.other)["rougeL"].recall for pair in pairs}
        alike = len({tuple(pair.question for pair in record.unsafe_pairs) for record in data.records}) == 1
        if not alike and not all(pair.content for pair in pairs):
            by_file[FLOOR] = {name: values for name, values in by_file[FLOOR].items() if name.startswith("exact")}
    # Each pair as verdicts know it: by its picture, its question, and which of the records with that picture.
    pictures = [record.image_path for record in data.records]
    turns = {pair.record: pictures[: pair.record].count(pictures[pair.record]) for pair in pairs}
    items = {pair.key: [pictures[pair.record], pair.question, turns[pair.record]] for pair in pairs}
    for file, values in by_file.items():
        write_json(point.folder / file, {"items": items, "values": values}, indent=None)
    return {name: estimate(values, "number") for name, values in values_at(point).items()}


def in_words(result: dict[str, Any]) -> str:
    """A point's rates in per cent, and what was measured inside."""
    rates = {METRICS[name].title: rate["value"] for name, rate in result["metrics"].items()}
    words = [f"{title} {'–' if value is None else f'{100 * value:.1f}'}" for title, value in rates.items()]
    inside = {name: figure["value"] for name, figure in result.get("measures", {}).items() if "_" not in name}
    return ", ".join(words + [f"{name} {value:.2f}" for name, value in inside.items() if value is not None])
