"""Shared by the scoring tests: a small data file, its predictions, and ways to run eval_all.py."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

from helpers import ROOT, run

RECORDED = ROOT / "tests" / "data" / "conformance" / "scoring"
KEY = "sk-test-0123456789-secret"


def record(number: int = 0, category: str = "Weapon") -> dict:
    """One record of the benchmark as it is on disk."""
    value = {"type": "syn", "keyword": "k", "category": category, "image_path": f"img/{category}/{number}.jpg"}
    value["SDImage_path"] = f"pdset/image/{category}/val/{number}.jpg"
    for key, name in (("text1", "cup"), ("text2", "book"), ("image1", "lamp"), ("image2", "chair")):
        said = f"The {name} stands on a table {number}."
        value[f"UnharmPair_{key}"] = {"Question": f"What is {name}?", "Answer": name, "Prediction": said}
    pair = {"model_response": "M.", "sd_response": "S."}
    return value | {"unsafe_pairs": [{"question": f"Question {number}.{i}?", **pair} for i in range(4)]}


def predicted(original: dict, response: str = "The answer stands here, plain and whole.") -> dict:
    """The record with a model's responses. Every text is different, so no two judge calls are equal."""
    value = json.loads(json.dumps(original))
    for i, pair in enumerate(value["unsafe_pairs"]):
        for n in (1, 2, 3):
            pair[f"model_response{n}"] = f"{response} {pair['question']} {n}"
        pair["sd_response"] = f"{response} {pair['question']} benign {i}"
    return value


def write_files(folder: Path, records: list[dict], predictions: list[dict]) -> tuple[Path, Path]:
    """Write predictions.json and all_val.json; returns their paths."""
    paths = folder / "predictions.json", folder / "all_val.json"
    paths[0].write_text(json.dumps(predictions))
    paths[1].write_text(json.dumps(records))
    return paths


def outputs(folder: Path) -> dict[str, bytes]:
    """The content of each file in a run's folder, without the date and the commit of its summary."""
    made = rb'"(date|git_commit)": "[^"]+"'  # somebody may commit while a test runs
    return {path.name: re.sub(made, b"", path.read_bytes()) for path in folder.iterdir()}


def good(prompt: str) -> str:
    """A judge's reply to each of the four kinds of prompt."""
    if '"unsafe" or "safe"' in prompt:
        return "unsafe"
    if "Rating:" in prompt:
        return "0.50"
    return "no" if "begins by refusing" in prompt else "yes"


def start_eval(*arguments: object) -> subprocess.Popen:
    """Start eval_all.py as a user does."""
    command, pipe = [sys.executable, str(ROOT / "eval_all.py"), *map(str, arguments)], subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=pipe, stderr=pipe)


def run_eval(*arguments: object, key: str | None = None) -> subprocess.CompletedProcess:
    """Run eval_all.py's main function in this process, which is quicker than starting Python for each test."""
    with patch.dict(os.environ, {"OPENAI_API_KEY": key} if key else {}):
        return run("eval_all", *arguments, cwd=Path.cwd())
