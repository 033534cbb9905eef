"""Measure a cell: a row's run on one base model with one seed. Each part is stored as soon as it is measured."""

import logging
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from safeeraser.audit.inside import measure_all
from safeeraser.audit.inside.pairs import read_pairs
from safeeraser.benchmark.adapters import run_of
from safeeraser.benchmark.files import read_json, read_object, write_json
from safeeraser.benchmark.origin import versions
from safeeraser.benchmark.records import read_records
from safeeraser.infer.requests import Selection
from safeeraser.leaderboard.answers import BENIGN, FORGET, RETAIN, Subject, Totals, add_up, answers
from safeeraser.leaderboard.distance import References, Replies, between, load
from safeeraser.leaderboard.figures import INSIDE
from safeeraser.leaderboard.plan import Cell, Plan
from safeeraser.leaderboard.relearn import curves, new
from safeeraser.leaderboard.train import adapter_of, model_of
from safeeraser.mini.vqa import share_right

log = logging.getLogger(__name__)

PACKAGES = ("torch", "transformers", "peft")


def write_cell(plan: Plan, cell: Cell) -> None:
    """Train and measure a cell, and write `cell.kept`; a stopped cell resumes."""
    began, cell_row = time.monotonic(), plan.row(cell.row)
    adapter = adapter_of(plan, cell)
    subject = Subject(model_of(plan, cell), adapter, cell.folder, cell.seed, plan.data)
    record: dict[str, Any] = {"row": cell.row, "base": cell.base, "seed": cell.seed}
    record["data"] = read_json(plan.data / "manifest.json")["settings_hash"]
    record["settings"] = plan.settings(cell.row) if cell_row.is_trained else {}
    record["versions"] = versions(*PACKAGES)
    if adapter and not cell_row.noise_of:
        sittings = run_of(adapter)["sittings"]
        if all("seconds" in each for each in sittings):  # a sitting that was killed has recorded only its start
            record["training_seconds"] = round(sum(each["seconds"] for each in sittings))
    for name, measure in PARTS.items():
        file = cell.folder / f"{name}.json"
        if not file.is_file():
            at = time.monotonic()
            write_json(file, measure(plan, subject, cell))
            log.info("%s, %s: %s (%.0f s)", cell.row, cell.name, name, time.monotonic() - at)
        record[name] = read_object(file)
    write_json(cell.kept, record, indent=None)
    log.info("%s (%.0f s)", cell.kept, time.monotonic() - began)


def measure_answers(plan: Plan, subject: Subject, cell: Cell) -> dict[str, Any]:
    """The metrics on train and on val, and the score on the plain questions (VQA)."""
    about = {"data": plan.data, "model_path": subject.model_path, "checkpoint_path": subject.adapter}
    plain = share_right(Namespace(**about, batch_size=128, dtype="float32", allow_other_base=False))
    return {
        "train": answers(subject, "train", Selection((FORGET, BENIGN))),
        "val": answers(subject, "val", Selection((FORGET, BENIGN, RETAIN))),
        "vqa": {"vqa": [plain["value"] * plain["n"], plain["n"]]},
    }


def measure_distance(plan: Plan, subject: Subject, cell: Cell) -> dict[str, Any]:
    """The model's distances to the models that never knew, and to its base model."""
    to, vlm = References(plan), load(subject.model_path, subject.adapter)
    vanilla = load(plan.model("base_model", cell.base), None)
    replies = Replies.of(vlm, to.contents, cell.seed)
    return {
        "never_knew": to.distances(vlm, replies, but=Path(subject.model_path).name),
        "vanilla": between(to.contents, vlm, replies, vanilla, Replies.of(vanilla, to.contents, cell.seed + 1)),
    }


def measure_inside(plan: Plan, subject: Subject, cell: Cell) -> dict[str, Totals]:
    """The audit's measures of the true answers, by concept."""
    data = read_records(plan.data / "all_val.json")
    pairs = read_pairs(data, range(len(data.records)))
    vanilla = partial(load, plan.model("base_model", cell.base), None)
    measured = measure_all(partial(load, subject.model_path, subject.adapter), vanilla, {"pairs": pairs})["pairs"]
    keyword = {pair.key: pair.keyword for pair in pairs}
    return {
        name: add_up((keyword[key], value) for key, value in measured[name].items() if value is not None)
        for name in INSIDE
    }


def measure_attacks(plan: Plan, subject: Subject, cell: Cell) -> dict[str, Totals]:
    """ASR under each attack, with one sample a question; the records that some attacks learn from are never asked."""
    selection = Selection((FORGET,), skip=1, samples=1)
    return {name: answers(subject, "val", selection, attack=name)["asr"] for name in plan.attacks}


def measure_relearning(plan: Plan, subject: Subject, cell: Cell) -> dict[str, Any]:
    """The answers that relearning brings back, and how fast the model learns a new concept."""
    return {"curves": curves(subject, plan.relearning), "new": new(subject, plan.relearning)}


PARTS: dict[str, Callable[[Plan, Subject, Cell], dict[str, Any]]] = {
    "answers": measure_answers,
    "distance": measure_distance,
    "inside": measure_inside,
    "attacks": measure_attacks,
    "relearning": measure_relearning,
}
