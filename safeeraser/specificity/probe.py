"""Run by the harness's own Python: what it knows of the tasks named, as one line of JSON behind `known: `.

python probe.py FOLDER_OF_MORE_TASKS_OR_NOTHING TASK...
"""

import hashlib
import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from huggingface_hub import get_token
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import load_yaml_config


def describe(path: str) -> dict:
    """Of a task's file what matters before it is run."""
    config = load_yaml_config(path, mode="simple")  # without the functions, whose modules may ask for a judge's key
    return {
        "split": config.get("test_split"),
        "metrics": [metric["metric"] for metric in config.get("metric_list") or []],
        "hub_token": bool((config.get("dataset_kwargs") or {}).get("token")),
        "file_sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest(),
    }


def main(include_path: str, *names: str) -> None:
    """Look the tasks up and print what was found."""
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
    main(*sys.argv[1:])
