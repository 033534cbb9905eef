"""A whole audit: points measured one after another, by as many processes as there are, gathered in `audit.json`."""

import logging
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from safeeraser.audit.card import lacking, write_card
from safeeraser.audit.measure import folder_of, incomplete, measure, read_point
from safeeraser.audit.options import Options, check
from safeeraser.audit.points import ACTIONS, Point
from safeeraser.audit.relearn import relearn, relearning_settings
from safeeraser.benchmark.files import Busy, held, write_json
from safeeraser.benchmark.records import read_records
from safeeraser.infer.requests import build_requests

log = logging.getLogger(__name__)

INCOMPLETE = 3  # the exit code of an audit that is through, but lacks something

TITLES = {"asr": "ASR", "rr": "RR", "sarr": "SARR", "rouge_l": "ROUGE", "recovered": "recovered"}


def audit(options: Options, action: str, *, dry_run: bool = False) -> int:
    """Measure the points of an action, and write `audit.json` with all that is measured by then.

    Several processes may be at it: each takes what no other one has, and what a killed one had is taken up again.

    Returns the exit code: 0, or `INCOMPLETE` if something could not be measured whole.

    Raises:
        BadInput: an option or a file cannot be used, or the folder holds an audit with other settings.
    """
    check(options)
    points = [point for part in ACTIONS[action] for point in part(options)]
    for view in dict.fromkeys(point.relearned for point in points if point.relearned):
        relearning_settings(options, view)  # what is wrong with them is told now rather than in the night
    if dry_run:
        show_plan(points, options)
        return 0
    options.folder.mkdir(parents=True, exist_ok=True)
    write_json(options.folder / "settings.json", options.settings)
    if before := sum(whole(point, options) for point in points):
        log.info("going on: %d of %d points are measured", before, len(points))
    # Once more over what others were at: they may have been killed since.
    left = work(work(points, options), options)
    if left:
        log.info("%d points are left to other processes", len(left))
    write_card(options)
    there = {point: read_point(point, options) for point in points if point not in left}
    missing = [line for point, found in there.items() for line in lacking(point, found, options)]
    for line in missing:
        log.warning("missing: %s", line)
    log.info("done: %s", options.card)
    return INCOMPLETE if missing else 0


def work(points: list[Point], options: Options) -> list[Point]:
    """Measure what is not measured yet; returns the points that other processes were at."""
    left = []
    for number, point in enumerate(points, 1):
        if point.lacks or whole(point, options):
            continue
        began = time.monotonic()
        try:
            found = find(point, options)
        except Busy:
            left.append(point)
            continue
        if found:
            where = f"[{number}/{len(points)}] {point.title}"
            log.info("%s: %s (%.0f s)", where, figures(found), time.monotonic() - began)
    return left


def whole(point: Point, options: Options) -> bool:
    """Whether the point is measured, and nothing of it is missing."""
    found = read_point(point, options)
    return found is not None and not incomplete(found)


def find(point: Point, options: Options) -> dict[str, Any] | None:
    """Measure a point while others are kept from it; None if its training ended before it.

    Raises:
        Busy: another process is at it, or at its training.
    """
    folder = folder_of(point, options)
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder, point.title):
        if point.relearned:
            relearn(options, point.relearned)
            if not point.adapter.is_dir():
                return None
        # Another process may have been through with it a moment ago.
        return None if whole(point, options) else measure(point, options)


def figures(found: dict[str, Any]) -> str:
    """The point's rates in per cent."""
    rates = {title: found["metrics"][name]["value"] for name, title in TITLES.items() if name in found["metrics"]}
    return ", ".join(f"{title} {'–' if value is None else f'{100 * value:.1f}'}" for title, value in rates.items())


def show_plan(points: list[Point], options: Options) -> None:
    """Print how much there is to do, group by group, without loading a model."""
    data = read_records(options.val_file)
    responses = {
        views: len(build_requests(data, options.selection(views))) for views in {point.views for point in points}
    }
    table = Table("group", "points", "of them done", "responses")
    total = [0, 0, 0]
    for group in dict.fromkeys(point.group for point in points):
        own = [point for point in points if point.group == group]
        done = sum(bool(read_point(point, options)) for point in own)
        row = [len(own), done, sum(responses[point.views] for point in own)]
        total = [one + other for one, other in zip(total, row, strict=True)]
        table.add_row(group, *map(str, row))
    table.add_section()
    table.add_row("all", *map(str, total))
    Console().print(table)
    print("A response to a harmful question on its own picture is judged twice (ASR, RR), any other one once.")
