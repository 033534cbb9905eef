"""A whole audit: points measured one after another, by as many processes as there are, gathered in `audit.json`."""

import logging
import shutil
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from safeeraser.audit.card import lacking, write_card
from safeeraser.audit.measure import can_be_mended, measure_point
from safeeraser.audit.options import Options
from safeeraser.audit.plan import Plan, Point, points_of, read_point, show_plan
from safeeraser.audit.relearn import ended, merge_once, relearn, relearning_settings
from safeeraser.audit.subjects import Subjects, check_inputs, check_subjects, subjects_of
from safeeraser.benchmark.files import Busy, held, make_room_for, write_json
from safeeraser.benchmark.metrics import METRICS
from safeeraser.judge.panel import Panel
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
        measure_points(points, options, subjects)
    finally:
        # Whatever went wrong, what was measured stands.
        write_card(options, subjects)
    remove_merged(points, options)
    missing = [(point, why) for point in points for why in lacking(point, read_point(point, options))]
    for point, why in missing:
        log.warning("missing: %s: %s", point.title, why)
    log.info("done: %s", options.card)
    return INCOMPLETE if missing else 0


def check_trainings(points: list[Point], options: Options) -> None:
    """Refuse now, rather than in the night, what the model itself could not be relearned with: none is merged yet."""
    for attacker, seed in {at.attacker: at.seed for point in points if (at := point.relearned)}.items():
        how = (options.protocol, attacker, seed, options.data, options.dtype)
        with suppress(Busy):
            prepare(relearning_settings(options.model_path, options.checkpoint_path / "audit" / "unbegun", *how))


def measure_points(points: list[Point], options: Options, subjects: Subjects) -> None:
    """Measure the points, and wait for those that others are at: of a process that is killed they are taken over."""
    if before := sum(is_measured(point, options) for point in points):
        log.info("going on: %d of %d points are measured", before, len(points))
    shown, left = 0, points
    while left := measure_free(left, options, subjects):
        if len(left) != shown:
            shown = len(left)
            log.info("other processes are at %d points", shown)
        time.sleep(WAIT)


def measure_free(points: list[Point], options: Options, subjects: Subjects) -> list[Point]:
    """Measure what is not measured yet; returns the points that other processes were at."""
    busy, shown = [], False
    for number, point in enumerate(points, 1):
        if is_measured(point, options):
            continue
        where, began = f"[{number}/{len(points)}] {point.title}", time.monotonic()
        try:
            found = measure_held(point, options, subjects)
        except Busy:
            busy.append(point)
        except torch.OutOfMemoryError:
            log.warning("%s: the device's memory is too small", where)
        else:
            if found:
                log.info("%s: %s (%.0f s)", where, in_words(found), time.monotonic() - began)
            if found and not shown:
                shown = True
                log.info("%s", Plan(points, options).time_left())
    return busy


def is_measured(point: Point, options: Options) -> bool:
    """Whether the point is measured, and no more of it can be had."""
    found = read_point(point, options)
    return found is not None and not can_be_mended(found)


def measure_held(point: Point, options: Options, subjects: Subjects) -> dict[str, Any] | None:
    """Measure a point while others are kept from it, its model trained first; None if its training ended before it.

    Raises `Busy` where another process is at it, or at its training.
    """
    point.folder.mkdir(parents=True, exist_ok=True)
    with held(point.folder, point.title):
        if at := point.relearned:
            who, allowed = point.subject, options.allow_other_base
            model = merge_once(who.adapter, who.model_path, who.folder / "merged", allow_other_base=allowed)
            relearn(model, at.training, options.protocol, at.attacker, at.seed, options.data, options.dtype)
            if not at.adapter.is_dir():
                return None
        # Another process may have been through with it a moment ago.
        return None if is_measured(point, options) else measure_point(point, options, subjects)


def in_words(found: dict[str, Any]) -> str:
    """A point's rates in per cent, and what was measured inside."""
    rates = {METRICS[name].title: rate["value"] for name, rate in found["metrics"].items()}
    words = [f"{title} {'–' if value is None else f'{100 * value:.1f}'}" for title, value in rates.items()]
    inside = {name: figure["value"] for name, figure in found.get("measures", {}).items() if "_" not in name}
    return ", ".join(words + [f"{name} {value:.2f}" for name, value in inside.items() if value is not None])


def remove_merged(points: list[Point], options: Options) -> None:
    """Remove the merged models, each as large as the base, that no point is left to be trained on."""
    every = {point.subject.merged for point in points if point.relearned and point.subject.adapter}
    left = {
        point.subject.merged
        for point in points
        if (at := point.relearned) and not (is_measured(point, options) or ended(at.training))
    }
    for path in every - left:
        shutil.rmtree(path, ignore_errors=True)
