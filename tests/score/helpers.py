"""What the scoring tests share: a small data file, its predictions, and running eval_all.py as a user does."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "tests" / "data" / "conformance" / "scoring"
KEY = "sk-test-0123456789-secret"


def record(number: int = 0, category: str = "Weapon") -> dict:
    """One record of the benchmark, as it lies on disk."""

    def unharm(name):
        return {"Question": f"What is {name}?", "Answer": name, "Prediction": f"The {name} stands on a table {number}."}

    return {
        "type": "syn",
        "keyword": "k",
        "category": category,
        "image_path": f"img/{category}/{number}.jpg",
        "SDImage_path": f"pdset/image/{category}/val/{number}.jpg",
        "UnharmPair_text1": unharm("cup"),
        "UnharmPair_text2": unharm("book"),
        "UnharmPair_image1": unharm("lamp"),
        "UnharmPair_image2": unharm("chair"),
        "unsafe_pairs": [
            {"question": f"Question {number}.{i}?", "model_response": "M.", "sd_response": "S."} for i in range(4)
        ],
    }


def predicted(original: dict, response: str = "The answer stands here, plain and whole.") -> dict:
    """The record with a model's responses in it; every text is different, so that no two judge calls are equal."""
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


def start_eval(*arguments: object, key: str | None = None, cwd: Path | None = None) -> subprocess.Popen:
    """Start eval_all.py without any key from the environment, unless `key` is given."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    environment |= {"OPENAI_API_KEY": key} if key else {}
    command = [sys.executable, str(ROOT / "eval_all.py"), *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=cwd or ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def run_eval(*arguments: object, key: str | None = None) -> subprocess.CompletedProcess:
    """Run eval_all.py to its end."""
    process = start_eval(*arguments, key=key)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
