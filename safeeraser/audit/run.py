"""A whole audit: points measured one after another, by as many processes as there are, gathered in `audit.json`."""

import logging
import time
from contextlib import suppress
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from safeeraser.audit.card import lacking, write_card
from safeeraser.audit.further import ended, relearn, relearning_settings
from safeeraser.audit.measure import can_be_mended, folder_of, measure, read_point
from safeeraser.audit.options import Options, check
from safeeraser.audit.points import ACTIONS, CROSSED, Point
from safeeraser.benchmark.files import Busy, held, make_room_for, write_json
from safeeraser.benchmark.metrics import ASKED, METRICS
from safeeraser.benchmark.records import read_records
from safeeraser.infer.requests import build_requests
from safeeraser.judge.panel import Panel
from safeeraser.unlearn.job import prepare

log = logging.getLogger(__name__)

INCOMPLETE = 3  # the exit code of an audit that is through, but lacks something

WAIT = 2.0  # seconds before looking again at what other processes are at


def audit(options: Options, action: str, *, dry_run: bool = False) -> int:
    """Measure the points of an action, and write `audit.json` with all that is measured by then.

    Several processes may be at it: each takes what no other one has, and what a killed one had is taken up again.

    Returns the exit code: 0, or `INCOMPLETE` if something could not be measured whole.

    Raises:
        BadInput: an option or a file cannot be used, or the folder holds an audit with other settings.
    """
    panel = check(options, dry_run=dry_run)
    points = [point for part in ACTIONS[action] for point in part(options)]
    for view in dict.fromkeys(point.relearned for point in points if point.relearned):
        # What is wrong with it is told now rather than in the night.
        with suppress(Busy):
            prepare(relearning_settings(options, view))
    if dry_run:
        show_plan(points, options, panel)
        return 0
    make_room_for(options.begun)
    write_json(options.begun, options.settings)
    for point in points:
        if point.lacks:
            log.warning("left out: %s: %s", point.title, point.lacks)
    try:
        work_with_others(points, options)
    finally:
        # Whatever went wrong, what was measured stands.
        write_card(options)
    missing = [
        line for point in points if not point.lacks for line in lacking(point, read_point(point, options), options)
    ]
    for line in missing:
        log.warning("missing: %s", line)
    log.info("done: %s", options.card)
    return INCOMPLETE if missing else 0


def work_with_others(points: list[Point], options: Options) -> None:
    """Measure the points, and wait for those that others are at: of a process that is killed they are taken over."""
    if before := sum(whole(point, options) for point in points):
        log.info("going on: %d of %d points are measured", before, len(points))
    told, left = 0, work(points, options)
    while left:
        if len(left) != told:
            told = len(left)
            log.info("other processes are at %d points", told)
        time.sleep(WAIT)
        left = work(left, options)


def work(points: list[Point], options: Options) -> list[Point]:
    """Measure what is not measured yet; returns the points that other processes were at."""
    left = []
    for number, point in enumerate(points, 1):
        if point.lacks or whole(point, options):
            continue
        where, began = f"[{number}/{len(points)}] {point.title}", time.monotonic()
        try:
            found = find(point, options)
        except Busy:
            left.append(point)
        except torch.OutOfMemoryError:
            log.warning("%s: the device's memory is too small", where)
        else:
            if found:
                log.info("%s: %s (%.0f s)", where, figures(found), time.monotonic() - began)
    return left


def whole(point: Point, options: Options) -> bool:
    """Whether the point is measured, and no more of it can be had."""
    found = read_point(point, options)
    return found is not None and not can_be_mended(found)


def find(point: Point, options: Options) -> dict[str, Any] | None:
    """Measure a point while others are kept from it; None if its training ended before it.

    Raises:
        Busy: another process is at it, or at its training.
    """
    folder = folder_of(point, options)
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder, point.title):
        if point.relearned:
            if not ended(options, point.relearned):
                relearn(options, point.relearned)
            if not point.adapter.is_dir():
                return None
        # Another process may have been through with it a moment ago.
        return None if whole(point, options) else measure(point, options)


def figures(found: dict[str, Any]) -> str:
    """The point's rates in per cent."""
    rates = {METRICS[name].title: rate["value"] for name, rate in found["metrics"].items()}
    return ", ".join(f"{title} {'–' if value is None else f'{100 * value:.1f}'}" for title, value in rates.items())


def show_plan(points: list[Point], options: Options, panel: Panel) -> None:
    """Print how much there is to do, group by group, without loading a model."""
    data = read_records(options.val_file)
    asked = {view: len(build_requests(data, options.selection((view,)))) for view in CROSSED}
    table = Table("group", "points", "of them done", "responses", "calls of a judge")
    total = [0, 0, 0, 0]
    for group in dict.fromkeys(point.group for point in points):
        own = [point for point in points if point.group == group and not point.lacks]
        answered = sum(asked[view] for point in own for view in point.views)
        row = [len(own), sum(whole(point, options) for point in own), answered]
        row.append(sum(asked[view] * calls(view, point, panel) for point in own for view in point.views))
        total = [one + other for one, other in zip(total, row, strict=True)]
        table.add_row(group, *map(str, row))
    table.add_section()
    table.add_row("all", *map(str, total))
    Console().print(table)
    print("Of calls at most: equal ones are made once, and what the store holds is not asked for again.")


def calls(view: str, point: Point, panel: Panel) -> int:
    """How often a served judge is asked about a response of the view."""
    metrics = [metric for metric, key in ASKED.items() if METRICS[key].view == view]
    metrics += ["rr"] if point.refusals and view != "forget" else []
    return sum(bool((judge := panel.of(metric)) and judge.model) for metric in metrics)
