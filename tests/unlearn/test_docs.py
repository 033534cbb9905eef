"""The commands and the Python of docs/data.md, training.md, engines.md and differences.md, on the tiny model."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from helpers import MODEL, RECORDED, ROOT, run, write_json
from omegaconf import OmegaConf
from PIL import Image
from scoring import run_eval

from safeeraser.unlearn.composed import read_settings

pytestmark = pytest.mark.slow

RELEASE = Path(__file__).parent / "golden" / "release.yaml"
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("training", "engines", "differences", "data")}
COMMANDS = {
    name: [shlex.split(words) for words in re.findall(r"^ {4}(?:bash|python) (.*)$", page, re.MULTILINE)]
    # The answers of another model have tests of their own.
    for name, page in (PAGES | {"data": PAGES["data"].partition("\n## Answers of the model itself\n")[0]}).items()
}
FEW = ["dtype=float32", "workers=0", "max_train_steps=1", "gradient_accumulation_steps=1"]


def ran(words, *more, cwd):
    """What a command of forget.py prints, its config files found from anywhere."""
    words = [re.sub(r"=config/", f"={ROOT}/config/", word) for word in words]
    done = run("forget", *words, *more, cwd=cwd)
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
    assert len(records) == 10
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
    training = [words for script, *words in COMMANDS["data"] if script == "scripts/forget_lora.bash"]
    (answering,) = (words for script, *words in COMMANDS["data"] if script == "ckpt_infer.py")
    (scoring,) = (words for script, *words in COMMANDS["data"] if script == "eval_all.py")
    assert len(training) == 6 and len(COMMANDS["data"]) == 8
    told = []
    for words in training:
        if "bad_items=skip" in words:
            (my / "my/pictures/02.png").unlink()
        if "data_path=my/pairs.jsonl" in words:  # twenty pictures in ten lines
            shown = ran(words, f"model_path={MODEL}", "dry_run=true", "save_dir=none", cwd=my)
            assert re.search(r"pictures +20 *$", shown, re.MULTILINE)
        ran(words, f"model_path={MODEL}", *FEW, cwd=my)
        (save_dir,) = (word.partition("=")[2] for word in words if word.startswith("save_dir="))
        told.append(json.loads((my / save_dir / "run.json").read_text())["data"])
    assert [data["records"] for data in told[:5]] == [10, 10, 10, 5 + 10, 5 + 10]
    assert told[5]["left_out"] == 1 and "record 1, image: picture pictures/02.png not" in told[5]["skipped"][0]
    done = run("ckpt_infer", *answering, "--model_path", MODEL, "--max_new_tokens", 8, cwd=my)
    assert done.returncode == 0, done.stderr
    assert run_eval(*scoring).returncode == 0
    assert json.loads((my / "results/my/gd/summary.json").read_text())["rr"]["n"] == 3


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the benchmark, and the tiny model and data where the mini benchmark has its own."""
    shutil.copytree(RECORDED / "dataset", tmp_path / "dataset")
    shutil.copytree(MODEL, tmp_path / "dataset" / "mini" / "base_model")
    for name in ("all_train.json", "all_val.json", "prompt.json"):
        shutil.copy(RECORDED / "dataset" / name, tmp_path / "dataset" / "mini")
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


def test_training_and_differences(folder):
    dry, full, infer, sine, lora = (words[1:] for words in COMMANDS["training"] if "scripts" not in words[0])
    model = f"model_path={MODEL}"
    for words in (dry, sine):
        assert "projector" in ran(words, model, *FEW[1:], cwd=folder)
    ran(lora, model, *FEW, cwd=folder)
    assert (folder / "results" / "projector-lora" / "adapter_config.json").is_file()
    shutil.copy(RELEASE, folder)
    ran(COMMANDS["differences"][-1][1:], "--config-dir", folder, model, *FEW, cwd=folder)
    assert (folder / "ckpt_results" / "llava-7b" / "gapd_0.0001_all_10" / "adapter_model.safetensors").is_file()
    words = [*full, "model_family=llava-1.5-7b"]
    assert "zero3" in ran(words, model, *FEW[1:], cwd=folder)
    ran([word for word in words if not word.startswith(("engine=", "dry_run="))], model, *FEW, cwd=folder)
    done = run("ckpt_infer", *infer, "--limit", 1, "--max_new_tokens", 2, "--loss_type", "gdpd", cwd=folder)
    assert done.returncode == 0 and (folder / "predictions_val.json").is_file(), done.stderr


def test_the_tables_of_engines(folder):
    """LLaVA-1.5-7B on the default engine and on a card of 24 GiB, though neither weights nor such a card are here."""
    (_, *counted), (_, *fits), engines = COMMANDS["engines"]
    assert engines == ["benchmarks/engines.py"]  # minutes; tests/selftest runs what it is made of
    printed = [line.split() for line in ran(counted, cwd=folder).splitlines()]
    (table,) = re.findall(r"^```\n(.*?)^```", PAGES["engines"], re.DOTALL | re.MULTILINE)
    assert [line for line in table.splitlines() if line.split() not in printed] == []
    told = [line.strip() for line in PAGES["engines"].splitlines() if line.startswith("    It ")]
    assert len(told) == 2 and ran(fits, cwd=folder).splitlines()[-2:] == told


def test_the_options_of_the_libraries():
    options = re.findall(r"^ {4}((?:trainer|lr_scheduler_type)\S*=.*)$", PAGES["training"], re.MULTILINE)
    for words in (shlex.split(line, comments=True) for line in options):
        composed = OmegaConf.create(run("forget", *words, "--cfg", "job").stdout)
        named = {word.split("=")[0].split(".")[1] for word in words if word.startswith("trainer.")}
        assert read_settings(composed).trainer.keys() == named
    assert options
