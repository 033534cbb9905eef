"""The program that the harness's own Python runs, where nothing of this project is installed.

  python worker.py know FOLDER_OF_MORE_TASKS_OR_NOTHING TASK...     print lmms-eval's facts on tasks, as a line of JSON
  python worker.py ask --model ... --output_path OUT ...            run one task, with options of lmms-eval

`ask` writes the task's figures to OUT/result.json, or the reason why there are none to OUT/error.json. Failures that
lmms-eval only logs go to OUT/failures.txt, a line each: an answer that could not be generated counts as empty, and an
item whose judge did not reply scores 0 or at random. If several processes share a task, the first has the figures.
"""

import datetime
import hashlib
import json
import re
import sys
import traceback
from importlib.metadata import version
from math import inf
from pathlib import Path

FAILURES = {
    "answers could not be generated": r"Error .* in generating",
    "items were not judged": r"failed to get a score",
    "items were not judged, but scored at random": r"GPT API failed to answer",
}


def ask(words: list[str]) -> None:
    """Run a task as lmms-eval's command does. An error is written to error.json and ends the process with code 1."""
    from accelerate import Accelerator, InitProcessGroupKwargs
    from lmms_eval.__main__ import cli_evaluate_single, parse_eval_args
    from loguru import logger

    sys.argv[1:] = words
    _, options = parse_eval_args()
    folder, task = Path(options.output_path), options.tasks

    def note(message: str) -> None:
        with open(folder / "failures.txt", "a", encoding="utf-8") as handle:
            handle.writelines(f"{failure}\n" for failure, sign in FAILURES.items() if re.search(sign, message))

    logger.remove()
    logger.add(sys.stdout, colorize=False, level=options.verbosity)
    logger.add(note, format="{message}", level="INFO")
    try:
        # The other processes wait while the first one has answers judged.
        Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=datetime.timedelta(seconds=60_000))])
        results, _ = cli_evaluate_single(options)
    except Exception as error:
        # The error of a call that was retried contains the error of its last attempt.
        cause = error.last_attempt.exception() if hasattr(error, "last_attempt") else error
        (folder / "error.json").write_text(json.dumps(f"{type(cause).__name__}: {cause}"), encoding="utf-8")
        traceback.print_exc()
        sys.exit(1)
    if results:
        figures, errors = (numbers(results["results"][task], suffix) for suffix in ("", "_stderr"))
        measured = {"figures": figures, "errors": errors, "n": results["n-samples"][task]["effective"]}
        (folder / "result.json").write_text(json.dumps(measured), encoding="utf-8")


def numbers(figures: dict, suffix: str) -> dict[str, float]:
    """From `{"exact_match,none": 0.5, "exact_match_stderr,none": 0.1}`, figures by metric, or errors (`_stderr`)."""
    named = [(key.partition(",")[0], value) for key, value in figures.items() if isinstance(value, (int, float))]
    finite = [(name.removesuffix(suffix), value) for name, value in named if name.endswith(suffix) and abs(value) < inf]
    return {name: float(value) for name, value in reversed(finite) if "_stderr" not in name}


def know(include_path: str, *names: str) -> None:
    """Look up the tasks and print the facts about them as JSON behind `known: `."""
    import torch
    from huggingface_hub import get_token
    from lmms_eval.tasks import TaskManager
    from lmms_eval.utils import load_yaml_config

    def describe(path: str) -> dict:
        config = load_yaml_config(path, mode="simple")  # without the functions, whose modules may need a judge's key
        return {
            "split": config.get("test_split"),
            "metrics": [metric["metric"] for metric in config.get("metric_list") or []],
            "hub_token": bool((config.get("dataset_kwargs") or {}).get("token")),
            "file_sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest(),
        }

    index = TaskManager("ERROR", include_path=include_path or None).task_index
    tasks = {name: index[name] for name in names if name in index}
    known = {
        "versions": {package: version(package) for package in ("lmms-eval", "torch", "transformers", "datasets")},
        "gpus": torch.cuda.device_count(),
        "token": bool(get_token()),
        "tasks": {name: describe(task["yaml_path"]) for name, task in tasks.items() if task["type"] == "task"},
        "groups": [name for name, task in tasks.items() if task["type"] != "task"],
        "names": sorted(index),
    }
    print("known: " + json.dumps(known))


if __name__ == "__main__":
    know(*sys.argv[2:]) if sys.argv[1] == "know" else ask(sys.argv[2:])
