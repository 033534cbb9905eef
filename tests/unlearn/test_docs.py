"""The commands and the Python of docs/data.md, training.md and engines.md, on the tiny model."""

import json
import os
import re
import shlex
import shutil
import subprocess

import pytest
from helpers import MODEL, RECORDED, ROOT, run, write_json
from PIL import Image
from scoring import run_eval

pytestmark = pytest.mark.slow

PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("training", "engines", "data")}
PAGES["data"] = PAGES["data"].partition("\n## Answers of the model itself\n")[0]  # which have tests of their own
COMMANDS = {
    name: [shlex.split(words) for words in re.findall(r"^ {4}(?:bash|python) (.*)$", page, re.MULTILINE)]
    for name, page in PAGES.items()
}
MINE = f"model_path={MODEL}"
FEW = ["dtype=float32", "workers=0", "max_train_steps=1", "gradient_accumulation_steps=1"]


def ran(script, *words, cwd):
    """What a command prints, its config files found from anywhere."""
    done = run(script, *(re.sub(r"=config/", f"={ROOT}/config/", str(word)) for word in words), cwd=cwd)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


@pytest.fixture
def my(tmp_path, monkeypatch):
    """A working directory with `my` in it: twenty pictures, and the data files that docs/data.md speaks of."""
    monkeypatch.chdir(tmp_path)
    my, page = tmp_path / "my", PAGES["data"]
    (my / "pictures").mkdir(parents=True)
    for number in range(1, 21):
        Image.new("RGB", (32, 24), (number * 12, 99, 50)).save(my / "pictures" / f"{number:02}.png")
    records = [json.loads(line) for line in re.search(r"```json\n(.*?)```", page, re.DOTALL)[1].splitlines()]
    pairs = [
        {key: value[key] for key in ("image", "question", "answer")}
        | {"kept": f"pictures/{n + 10:02}.png", "kept_question": value["question"], "kept_answer": value["answer"]}
        for n, value in enumerate(records, 1)
    ]
    texts = [{key: value[key] for key in ("question", "answer")} for value in records]
    keep = [value | {"view": "any"} for value in records]
    for name, values in {"data": records, "pairs": pairs, "texts": texts, "keep": keep}.items():
        (my / f"{name}.jsonl").write_text("\n".join(map(json.dumps, values)))
    write_json(my / "prompt.json", json.loads(re.search(r'`(\{"idk".*?\})`', page)[1]))
    write_json(my / "ask_val.json", [json.loads(re.search(r'`(\{"image_path".*?\]\})`', page)[1])])
    return tmp_path


def test_data_of_ones_own_from_training_to_scores(my):
    *training, (infer, *answering), (_, *scoring) = COMMANDS["data"]
    assert [script for script, *_ in training] == ["scripts/forget_lora.bash"] * 6 and infer == "ckpt_infer.py"
    told = []
    for _, *words in training:
        if "bad_items=skip" in words:
            (my / "my/pictures/02.png").unlink()
        ran("forget", *words, MINE, *FEW, cwd=my)
        (save_dir,) = (word.partition("=")[2] for word in words if word.startswith("save_dir="))
        told.append(json.loads((my / save_dir / "run.json").read_text())["data"])
    assert [data["records"] for data in told[:5]] == [10, 10, 10, 5 + 10, 5 + 10]
    assert told[5]["left_out"] == 1 and "record 1, image: picture pictures/02.png not" in told[5]["skipped"][0]
    ran("ckpt_infer", *answering, "--model_path", MODEL, "--max_new_tokens", 8, cwd=my)
    assert run_eval(*scoring).returncode == 0
    assert json.loads((my / "results/my/gd/summary.json").read_text())["rr"]["n"] == 3


def test_the_first_of_them_through_the_script_itself(my, forks):
    words = [re.sub("=(my|results)/", rf"={my}/\1/", word) for word in COMMANDS["data"][0]]
    environment = os.environ | {"PATH": f"{forks.folder}{os.pathsep}{os.environ['PATH']}"}
    environment["ACCELERATE_CONFIG"] = "config/accelerate/one_gpu.yaml"
    subprocess.run(["bash", *words, MINE, *FEW], cwd=ROOT, env=environment, check=True)
    assert (my / "results/my/gd/adapter_model.safetensors").is_file()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the benchmark, and the tiny model and data where the mini benchmark has its own."""
    shutil.copytree(RECORDED / "dataset", tmp_path / "dataset")
    shutil.copytree(RECORDED / "dataset", tmp_path / "dataset" / "mini")
    shutil.copytree(MODEL, tmp_path / "dataset" / "mini" / "base_model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_of_training(folder, capsys):
    (text,) = re.findall(r"```python\n(.*?)```", PAGES["training"], re.DOTALL)
    few = {'save_dir="results/popd"': 'save_dir="results/popd", max_train_steps=2', "=40": "=2, limit=1"}
    for old, new in few.items():
        assert old in text
        text = text.replace(old, new)
    exec(text, found := {})
    assert "\n2 steps, the last loss " in f"\n{capsys.readouterr().out}"
    assert found["found"].summary["asr"]["n"] == 6 * 12 and found["answers"].missing == {}


def test_the_tables_of_engines(folder):
    """LLaVA-1.5-7B on the default engine and on a card of 24 GiB, though neither weights nor such a card are here."""
    (_, *counted), (_, *fits), engines = COMMANDS["engines"]
    assert engines == ["benchmarks/engines.py"]  # minutes; tests/selftest runs what it is made of
    printed = [line.split() for line in ran("forget", *counted, cwd=folder).splitlines()]
    (table,) = re.findall(r"^```\n(.*?)^```", PAGES["engines"], re.DOTALL | re.MULTILINE)
    assert [line for line in table.splitlines() if line.split() not in printed] == []
    told = [line.strip() for line in PAGES["engines"].splitlines() if line.startswith("    It ")]
    assert len(told) == 2 and ran("forget", *fits, cwd=folder).splitlines()[-2:] == told
