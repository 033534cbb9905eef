"""Measure an adapter's Specificity: merge it, have lmms-eval run task after task, and take the mean."""

import json
import logging
import shutil
import subprocess
import sys
import time
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
    """Run the job's tasks, write the result to the file `RESULT` and return it.

    A finished task is saved in `specificity/TASK/score.json` and not run again. If a task fails, the others still run,
    but the mean is withheld.
    """
    folder = job.out / "specificity"
    make_room_for(folder / "lock")
    with open(folder / "lock", "wb") as held:
        # The harness holds the handle too, so other runs stay locked out even if this process is killed.
        lock(held.fileno(), str(folder))
        scores, missing = {}, dict(job.missing)
        model = cache(lambda: _model(job))  # made for the first task that is not saved yet
        for number, task in enumerate(job.figures, 1):
            where = f"{task} ({number} of {len(job.figures)})"
            try:
                kept = _kept(job, folder / task)
                score = kept or _run(job, task, model(), folder / task, held.fileno())
                scores[task] = _entry(job, task, score)
            except harness.TaskFailed as error:
                missing[task] = str(error)
                log.info("%s: failed: %s; its log: %s", where, error, folder / task / "log.txt")
            else:
                words, before = "{value:.1%} of {n} ({metric}, split {split})", ", kept from before" if kept else ""
                log.info("%s: %s%s", where, words.format(**scores[task]), before)
        result = _result(job, scores, missing)
        write_json(job.out / RESULT, result)
    return result


def _model(job: Job) -> Path:
    """The folder that the harness loads. It is written now, unless an earlier run wrote it from the same model."""
    adapter, model_path = job.options.checkpoint_path, job.options.model_path
    if not adapter and _speaks_our_words(Path(model_path), job.family):
        return Path(model_path).resolve()
    folder = job.out / "merged"
    wanted = {"adapter_sha256": job.adapter_sha256} if adapter else {}
    wanted |= {"model_path": model_path} if model_path else {}
    if folder.exists():
        run = _written_for_this(folder)
        made_of = run.get("merged" if adapter else "copied")
        if made_of and wanted.items() <= made_of.items():
            return folder.resolve()
        if not run:
            raise BadInput(f"{folder}: exists and is not a merged model; move it away")
        shutil.rmtree(folder.resolve())  # another model's; a symlink to it stays
    log.info("writing the model to be asked to %s", folder)
    call = ["merge", str(adapter), str(folder)] if adapter else ["copy", model_path, str(folder)]
    call += ["--model_path", model_path] if adapter and model_path else []
    call += ["--allow_other_base"] if adapter and job.options.allow_other_base else []
    done = subprocess.run([sys.executable, "-m", "safeeraser.model", *call], capture_output=True, text=True)
    if done.returncode:
        raise BadInput(harness.last_line(done.stderr).removeprefix("error: "))
    return folder.resolve()


def remove_merged(job: Job) -> None:
    """Remove the folder that `_model` wrote, but nothing else that is in its place. A symlink to it stays."""
    folder, given = (job.out / "merged").resolve(), job.options.model_path
    if _written_for_this(folder) and not (given and Path(given).resolve() == folder):
        shutil.rmtree(folder, ignore_errors=True)


def _written_for_this(folder: Path) -> dict[str, Any]:
    """The record that `merge` or `copy` left about the model in a folder; empty for any other folder."""
    run = run_of(folder)
    return {key: run[key] for key in ("merged", "copied") if key in run}


def _speaks_our_words(folder: Path, family: Family) -> bool:
    """Whether a folder has the chat template that `merge` would write: the family's fixed one, if any, else its own."""
    if family.chat is None:
        return folder.is_dir()
    template = folder / "chat_template.jinja"
    return template.is_file() and template.read_text(encoding="utf-8") == CHAT_TEMPLATE


def _run(job: Job, task: str, model: Path, folder: Path, held: int) -> dict[str, Any]:
    """Have the harness run a task, and save its figures in `folder`. Raises `TaskFailed`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    asked, options, began = job.lmms_eval, job.options, time.monotonic()
    log.info("%s is running; its log: %s", task, folder / "log.txt")
    # With several GPUs no device is named, so that each process takes the GPU of its own number.
    place = {0: ["device=cpu", "device_map=cpu"], 1: ["device=cuda", "device_map=cuda"]}.get(job.gpus, [])
    typed = [] if asked.dtype else [f"dtype={job.dtype}"]  # some models refuse unknown arguments
    words = ["--model", asked.model, "--model_args", ",".join([f"pretrained={model}", *typed, *place])]
    words += ["--tasks", task, "--batch_size", "1", "--output_path", str(folder.resolve())]  # some take only 1
    words += ["--include_path", str(options.include_path)] if options.include_path else []
    words += ["--limit", str(options.limit)] if options.limit else []
    words += ["--log_samples"] if options.log_samples else []
    measured = harness.run(job.python, job.gpus, words, task, folder, held)
    kept = {**measured, "seconds": round(time.monotonic() - began, 1), "settings": _settings(job, task)}
    write_json(folder / "score.json", kept)
    return kept


def _kept(job: Job, folder: Path) -> dict[str, Any] | None:
    """The figures that an earlier run with the same settings saved; None if there are none."""
    file = folder / "score.json"
    if not file.is_file() or (job.options.log_samples and not any(folder.glob("*/*_samples_*.jsonl"))):
        return None
    kept = read_json(file)
    return kept if kept["settings"] == json.loads(json.dumps(_settings(job, folder.name))) else None


def _settings(job: Job, task: str) -> dict[str, Any]:
    judge, file = job.judge(task), job.known["tasks"][task]["file_sha256"]
    return {**job.settings, "task_file_sha256": file, **({"judge": judge} if judge else {})}


def _entry(job: Job, task: str, score: dict[str, Any]) -> dict[str, Any]:
    """A task's entry in the result: its figure as a share of right answers, with its metric and split."""
    figure = job.figures[task]
    metric, scale, figures = figure.metric, figure.scale, score["figures"]
    value, error = figures.get(metric), score["errors"].get(metric)
    if value is None:
        raise harness.TaskFailed(f"the harness gave no {metric}")
    if not 0 <= value <= scale:
        only = "only tasks that are known here may count otherwise"
        raise harness.TaskFailed(f"{metric} is {value:g}, which is no share; {only}")
    right = 1 - value / scale if figure.lower else value / scale
    entry = {"value": right, "n": score["n"], "metric": metric, "split": job.known["tasks"][task]["split"]}
    entry |= {"standard_error": None if error is None else error / scale, "failed": score["failed"]}
    others = {name: other / scale for name, other in figures.items() if name != metric}
    more = {"other_figures": others or None, "judge": job.judge(task), "lower_is_better": figure.lower}
    return entry | {key: value for key, value in more.items() if value}


def _result(job: Job, scores: dict[str, Any], missing: dict[str, str]) -> dict[str, Any]:
    """The run's Specificity. A mean over fewer tasks or items is comparable with no other, so it is withheld."""
    asked, limit = len(scores) + len(missing), job.options.limit
    withheld = f"the first {limit} items of each task alone" if limit else ""
    if missing:
        withheld = f"{len(scores)} of {asked} tasks; missing: {', '.join(missing)}"
    version = job.known["versions"]["lmms-eval"]
    return {
        "value": None if withheld else sum(score["value"] for score in scores.values()) / len(scores),
        **{key: sum(score[key] for score in scores.values()) for key in ("n", "failed")},
        "withheld": withheld,
        "task": f"mean of {asked} task{'s' * (asked > 1)} by lmms-eval {version}",
        "limit": limit,
        "tasks": scores,
        "missing": missing,
        "replaced": job.replaced,
        "checkpoint": job.adapter_sha256,
        "settings": {**job.settings, "gpus": job.gpus, "pope": job.options.pope},
    }
