"""From an adapter to its Specificity: merge, let lmms-eval run task after task, take the mean."""

import json
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from safeeraser.benchmark.adapters import run_of
from safeeraser.benchmark.conversation import CHAT_TEMPLATE
from safeeraser.benchmark.family import Family
from safeeraser.benchmark.files import lock, make_room_for, read_json, write_json
from safeeraser.errors import BadInput
from safeeraser.specificity import harness
from safeeraser.specificity.options import Job

log = logging.getLogger(__name__)

RESULT = "specificity.json"  # in a run's folder, where the report looks for it


def measure(job: Job) -> dict[str, Any]:
    """Run what is to be run and write `RESULT`, which is returned.

    A task that is done is kept in `specificity/TASK/score.json` and not run again; one that fails does not keep the
    others from being run, but withholds the mean.
    """
    folder = job.out / "specificity"
    make_room_for(folder / "lock")
    with _alone(folder) as held:
        scores, missing = {}, dict(job.missing)
        model = cache(lambda: _model(job))  # for the first task that is not kept
        for number, task in enumerate(job.tasks, 1):
            where = f"{task} ({number} of {len(job.tasks)})"
            try:
                kept = _kept(job, folder / task)
                score = kept or _run(job, task, model(), folder / task, held)
                scores[task] = _entry(job, task, score)
            except harness.TaskFailed as error:
                missing[task] = str(error)
                log.info("%s: failed: %s; its log: %s", where, error, folder / task / "log.txt")
            else:
                log.info("%s: %s%s", where, _told(scores[task]), ", kept from before" if kept else "")
        result = _result(job, scores, missing)
        write_json(job.out / RESULT, result)
    return result


@contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """Keep other runs away. The harness gets the handle too, and so keeps them away even if this process is shot."""
    with open(folder / "lock", "wb") as handle:
        lock(handle.fileno(), str(folder))
        yield handle.fileno()


def _model(job: Job) -> Path:
    """The folder that the harness loads; merged now, unless it is there from this adapter."""
    if job.model_path and not job.adapter and _speaks_our_words(Path(job.model_path), job.family):
        return Path(job.model_path).resolve()
    folder = job.out / "merged"
    wanted = {"adapter_sha256": job.adapter_sha256} if job.adapter else {}
    wanted |= {"model_path": job.model_path} if job.model_path else {}
    if folder.exists():
        run = _written_for_this(folder)
        made_of = run.get("merged" if job.adapter else "copied")
        if made_of and wanted.items() <= made_of.items():
            return folder.resolve()
        if not run:
            raise BadInput(f"{folder}: exists and is no merged model; move it away")
        shutil.rmtree(folder.resolve())  # of another adapter; a link to it stays
    log.info("writing the model to be asked to %s", folder)
    call = ["merge", str(job.adapter), str(folder)] if job.adapter else ["copy", job.model_path, str(folder)]
    if job.adapter and job.model_path:
        call += ["--model_path", job.model_path]
    if job.adapter and job.allow_other_base:
        call += ["--allow_other_base"]
    done = subprocess.run([sys.executable, "-m", "safeeraser.model", *call], capture_output=True, text=True)
    if done.returncode:
        told = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "it said nothing")
        raise BadInput(told.removeprefix("error: "))
    return folder.resolve()


def remove_merged(job: Job) -> None:
    """Remove the model that was written to be asked, and no other that lies in its place; a link to it stays."""
    folder = (job.out / "merged").resolve()
    if _written_for_this(folder) and not (job.model_path and Path(job.model_path).resolve() == folder):
        shutil.rmtree(folder, ignore_errors=True)


def _written_for_this(folder: Path) -> dict[str, Any]:
    """What `merge` or `copy` noted of the model in a folder; empty for any other folder."""
    run = run_of(folder)
    return {key: run[key] for key in ("merged", "copied") if key in run}


def _speaks_our_words(folder: Path, family: Family) -> bool:
    """Whether a folder's chat template is what `merge` would give it: its own, unless the wording is this project's."""
    if family.chat is None:
        return folder.is_dir()
    template = folder / "chat_template.jinja"
    return template.is_file() and template.read_text(encoding="utf-8") == CHAT_TEMPLATE


def _run(job: Job, task: str, model: Path, folder: Path, held: int) -> dict[str, Any]:
    """Have the harness run a task, and keep what it found in `folder`. Raises `TaskFailed`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    more = ["--limit", str(job.limit)] if job.limit else []
    more += ["--log_samples"] if job.log_samples else []
    call = harness.command_line(
        *(job.python, model, task, folder.resolve()),
        asked=job.lmms_eval,
        gpus=job.gpus,
        dtype=job.dtype,
        include_path=job.include_path,
        more=more,
    )
    began = time.monotonic()
    log.info("%s is running; its log: %s", task, folder / "log.txt")
    harness.run(call, task, folder / "log.txt", held)
    score = harness.read(folder, folder / "log.txt", task)
    kept = {**vars(score), "seconds": round(time.monotonic() - began, 1), "settings": _settings(job, task)}
    write_json(folder / "score.json", kept)
    return kept


def _kept(job: Job, folder: Path) -> dict[str, Any] | None:
    """What an earlier run with the same settings found."""
    file = folder / "score.json"
    if not file.is_file() or (job.log_samples and not any(folder.glob("*/*_samples_*.jsonl"))):
        return None
    kept = read_json(file)
    return kept if kept["settings"] == json.loads(json.dumps(_settings(job, folder.name))) else None


def _settings(job: Job, task: str) -> dict[str, Any]:
    judge, file = job.judge(task), job.known["tasks"][task]["file_sha256"]
    return {**job.settings, "task_file_sha256": file, **({"judge": judge} if judge else {})}


def _entry(job: Job, task: str, score: dict[str, Any]) -> dict[str, Any]:
    """A task's line in the result: its figure as a share of what is right, and which figure of which split it is."""
    known, figure = job.known["tasks"][task], job.figures[task]
    metric, scale = figure.metric, figure.scale
    value, error = score["figures"].get(metric), score["errors"].get(metric)
    if value is None:
        raise harness.TaskFailed(f"the harness gave no {metric}")
    if not 0 <= value <= scale:
        raise harness.TaskFailed(
            f"{metric} is {value:g}, which is no share; only tasks that are known here may count otherwise"
        )
    right = 1 - value / scale if figure.lower else value / scale
    entry = {"value": right, "n": score["n"], "metric": metric, "split": known["split"]}
    entry |= {"standard_error": None if error is None else error / scale, "failed": score["failed"]}
    others = {name: other / scale for name, other in score["figures"].items() if name != metric}
    more = {"other_figures": others or None, "judge": job.judge(task), "lower_is_better": figure.lower}
    return entry | {key: value for key, value in more.items() if value}


def _told(entry: dict[str, Any]) -> str:
    return f"{entry['value']:.1%} of {entry['n']} ({entry['metric']}, split {entry['split']})"


def _result(job: Job, scores: dict[str, Any], missing: dict[str, str]) -> dict[str, Any]:
    """The run's Specificity. A mean over fewer tasks or items compares with no other, so it is withheld."""
    asked = len(scores) + len(missing)
    values = [score["value"] for score in scores.values()]
    version = job.known["versions"]["lmms-eval"]
    withheld = f"the first {job.limit} items of each task alone" if job.limit else ""
    if missing:
        withheld = f"{len(scores)} of {asked} tasks; missing: {', '.join(missing)}"
    return {
        "value": None if withheld else sum(values) / len(values),
        "n": sum(score["n"] for score in scores.values()),
        "failed": sum(score["failed"] for score in scores.values()),
        "withheld": withheld,
        "task": f"mean of {asked} task{'s' * (asked > 1)} by lmms-eval {version}",
        "limit": job.limit,
        "tasks": scores,
        "missing": missing,
        "replaced": job.replaced,
        "checkpoint": job.adapter_sha256,
        "settings": {**job.settings, "gpus": job.gpus, "pope": job.pope},
    }
