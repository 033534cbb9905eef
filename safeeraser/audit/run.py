"""A whole audit: points measured one after another, by as many processes as there are, gathered in `audit.json`."""

import logging
import shutil
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from safeeraser.audit.card import lacking, write_card
from safeeraser.audit.measure import can_be_mended, measure, read_point
from safeeraser.audit.options import Options
from safeeraser.audit.plan import show_plan, time_left
from safeeraser.audit.points import Point, Relearned, points_of
from safeeraser.audit.relearn import ended, merged, relearn, relearning_settings
from safeeraser.audit.subjects import AUDITED, Subject, Subjects, check, check_files, subjects
from safeeraser.benchmark.files import Busy, held, make_room_for, write_json
from safeeraser.benchmark.metrics import METRICS
from safeeraser.unlearn.job import prepare

log = logging.getLogger(__name__)

INCOMPLETE = 3  # the exit code of an audit that is through, but lacks something

WAIT = 2.0  # seconds before looking again at what other processes are at


def audit(options: Options, actions: Iterable[str], attacks: Collection[str], *, dry_run: bool = False) -> int:
    """Measure the points of some actions, and write `audit.json` with all that is measured by then.

    Several processes may be at it: each takes what no other one has, and what a killed one had is taken up again.

    Args:
        attacks: which of them the action `attacks` measures.

    Returns the exit code: 0, or `INCOMPLETE` if something could not be measured whole.

    Raises:
        BadInput: an option or a file cannot be used, or the folder holds an audit with other settings.
    """
    check_files(options)
    everyone = subjects(options, here=dry_run)
    panel = check(options, everyone, dry_run=dry_run)
    points = points_of(actions, options, everyone, attacks)
    for attacker, seed in {at.attacker: at.seed for one in points if (at := one.relearned) and not one.lacks}.items():
        # What is wrong with it is told now rather than in the night: on the model itself, since none is merged yet.
        nowhere = everyone[AUDITED].folder / "unbegun"
        how = (options.protocol, attacker, seed, options.data, options.dtype)
        with suppress(Busy):
            prepare(relearning_settings(options.model_path, nowhere, *how))
    if dry_run:
        show_plan(points, options, panel)
        return 0
    for subject in everyone.values():
        make_room_for(subject.begun)
        write_json(subject.begun, subject.settings(options))
    for line in dict.fromkeys(f"{point.group}: {point.lacks}" for point in points if point.lacks):
        log.warning("left out: %s", line)
    try:
        work_with_others(points, options, everyone)
    finally:
        # Whatever went wrong, what was measured stands.
        write_card(options, everyone)
    tidy(points, options)
    missing = [line for point in points if not point.lacks for line in lacking(point, read_point(point, options))]
    for line in missing:
        log.warning("missing: %s", line)
    log.info("done: %s", options.card)
    return INCOMPLETE if missing else 0


def tidy(points: list[Point], options: Options) -> None:
    """Remove the merged models, each as large as the base, that no point is left to be trained on."""
    every = {point.subject.whole for point in points if point.relearned and point.subject.adapter}
    left = {
        point.subject.whole
        for point in points
        if (at := point.relearned) and not (point.lacks or whole(point, options) or ended(at.training))
    }
    for path in every - left:
        shutil.rmtree(path, ignore_errors=True)


def work_with_others(points: list[Point], options: Options, everyone: Subjects) -> None:
    """Measure the points, and wait for those that others are at: of a process that is killed they are taken over."""
    if before := sum(whole(point, options) for point in points):
        log.info("going on: %d of %d points are measured", before, len(points))
    told, left = 0, work(points, options, everyone)
    while left:
        if len(left) != told:
            told = len(left)
            log.info("other processes are at %d points", told)
        time.sleep(WAIT)
        left = work(left, options, everyone)


def work(points: list[Point], options: Options, everyone: Subjects) -> list[Point]:
    """Measure what is not measured yet; returns the points that other processes were at."""
    left, told = [], False
    for number, point in enumerate(points, 1):
        if point.lacks or whole(point, options):
            continue
        where, began = f"[{number}/{len(points)}] {point.title}", time.monotonic()
        try:
            found = find(point, options, everyone)
        except Busy:
            left.append(point)
        except torch.OutOfMemoryError:
            log.warning("%s: the device's memory is too small", where)
        else:
            if found:
                log.info("%s: %s (%.0f s)", where, figures(found), time.monotonic() - began)
            if found and not told:
                told = True
                log.info("%s", time_left(points, options))
    return left


def whole(point: Point, options: Options) -> bool:
    """Whether the point is measured, and no more of it can be had."""
    found = read_point(point, options)
    return found is not None and not can_be_mended(found)


def find(point: Point, options: Options, everyone: Subjects) -> dict[str, Any] | None:
    """Measure a point while others are kept from it; None if its training ended before it.

    Raises:
        Busy: another process is at it, or at its training.
    """
    point.folder.mkdir(parents=True, exist_ok=True)
    with held(point.folder, point.title):
        if point.relearned:
            _relearn(point.subject, point.relearned, options)
            if not point.relearned.adapter.is_dir():
                return None
        # Another process may have been through with it a moment ago.
        return None if whole(point, options) else measure(point, options, everyone)


def _relearn(subject: Subject, at: Relearned, options: Options) -> None:
    """Train what a point's model is made by, unless it is there."""
    allowed = options.allow_other_base
    whole = merged(subject.adapter, subject.model_path, Path(subject.whole), allow_other_base=allowed)
    relearn(whole, at.training, options.protocol, at.attacker, at.seed, options.data, options.dtype)


def figures(found: dict[str, Any]) -> str:
    """The point's rates in per cent, and what was measured inside."""
    rates = {METRICS[name].title: rate["value"] for name, rate in found["metrics"].items()}
    told = [f"{title} {'–' if value is None else f'{100 * value:.1f}'}" for title, value in rates.items()]
    inside = {name: one["value"] for name, one in found.get("measures", {}).items() if "_" not in name}
    return ", ".join(told + [f"{name} {value:.2f}" for name, value in inside.items() if value is not None])
