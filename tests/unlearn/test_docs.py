"""docs/data.md: its data file and its commands, as they stand there, on drawn pictures."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import MODEL, ROOT, run, write_json
from PIL import Image
from scoring import run_eval

pytestmark = pytest.mark.slow

# The answers of another model have tests of their own.
PAGE = (ROOT / "docs" / "data.md").read_text().partition("\n## Answers of the model itself\n")[0]
COMMANDS = re.findall(r"^ {4}(?:bash|python) (\S+) (.*)$", PAGE, re.MULTILINE)
TRAINING = [shlex.split(words) for script, words in COMMANDS if script == "scripts/forget_lora.bash"]
LINES = re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)[1]
GIVEN = (f"model_path={MODEL}", "dtype=float32", "workers=0", "gradient_accumulation_steps=2", "max_train_steps=2")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with `my` in it: twenty pictures, and the data files that the page speaks of."""
    my = tmp_path / "my"
    (my / "pictures").mkdir(parents=True)
    for number in range(1, 21):
        Image.new("RGB", (32, 24), (number * 12, 99, 50)).save(my / "pictures" / f"{number:02}.png")
    (my / "data.jsonl").write_text(LINES)
    records = list(map(json.loads, LINES.splitlines()))
    kept = [{f"kept_{key}" if key != "image" else "kept": text for key, text in value.items()} for value in records]
    pairs = [value | other for value, other in zip(records, kept, strict=True)]
    for number, value in enumerate(pairs, 1):
        del value["view"], value["kept_view"]
        value["kept"] = f"pictures/{number + 10:02}.png"
    (my / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    (my / "keep.jsonl").write_text("\n".join(json.dumps(value | {"view": "any"}) for value in records))
    (my / "texts.jsonl").write_text(
        "\n".join(json.dumps({k: value[k] for k in ("question", "answer")}) for value in records)
    )
    write_json(my / "prompt.json", json.loads(re.search(r'`(\{"idk".*?\})`', PAGE)[1]))
    example = re.search(r'`(\{"image_path".*?\]\})`', PAGE)[1]
    write_json(my / "ask_val.json", [json.loads(example)])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told_by(words):
    """What `run.json` says of the data, by the command's own `save_dir`."""
    (save_dir,) = (word.partition("=")[2] for word in words if word.startswith("save_dir="))
    return json.loads((Path(save_dir) / "run.json").read_text())["data"]


def test_every_command_runs_one_after_another(folder):
    assert len(LINES.splitlines()) == 10 and len(TRAINING) == 6 and len(COMMANDS) == 8
    for words in TRAINING:
        if "bad_items=skip" in words:
            (folder / "my/pictures/02.png").unlink()
        done = run("forget", *words, *GIVEN, cwd=folder)
        assert done.returncode == 0, (words, done.stderr)
    gd, po, pairs, files, text, skip = map(told_by, TRAINING)
    assert [data["records"] for data in (gd, po, pairs, files, text)] == [10, 10, 10, 5 + 10, 5 + 10]
    assert skip["left_out"] == 1 and "record 1, image: picture pictures/02.png not found" in skip["skipped"][0]
    answering, scoring = (shlex.split(words) for script, words in COMMANDS if script.endswith(".py"))
    done = run("ckpt_infer", *answering, "--model_path", MODEL, "--max_new_tokens", 8, cwd=folder)
    assert done.returncode == 0, done.stderr
    done = run_eval(*scoring)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "results/my/gd/summary.json").read_text())["rr"]["n"] == 3


def test_twenty_pictures_in_ten_lines_through_the_script_itself(folder):
    """From the repository root, where the script goes, so the folder is named whole."""
    (words,) = (words for words in TRAINING if "data_path=my/pairs.jsonl" in words)
    words = [re.sub(r"=(my|results)/", rf"={folder}/\1/", word) for word in words]
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "ACCELERATE_CONFIG": "config/accelerate/one_gpu.yaml",
    }
    command = ["bash", ROOT / "scripts" / "forget_lora.bash", *words, *GIVEN]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(r"pictures +20 *$", done.stdout, re.MULTILINE)
    assert (folder / "results/my/pairs/adapter_model.safetensors").is_file() and told_by(words)["records"] == 10
