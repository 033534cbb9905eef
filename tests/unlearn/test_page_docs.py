"""The commands and the Python of docs/training.md, engines.md and differences.md, on the tiny model, a few steps."""

import re
import shlex
import shutil

import pytest
from helpers import MODEL, RECORDED, ROOT, run
from omegaconf import OmegaConf

from safeeraser.unlearn.composed import read_settings

from .test_page import RELEASE

pytestmark = pytest.mark.slow

PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("training", "engines", "differences")}
PAGE = PAGES["training"]
(PYTHON,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = {name: re.findall(r"^ {4}python (.*)$", page, re.MULTILINE) for name, page in PAGES.items()}
OPTIONS = re.findall(r"^ {4}((?:trainer|lr_scheduler_type)\S*=.*)$", PAGE, re.MULTILINE)
FEW = ["dtype=float32", "workers=0", "max_train_steps=1", "gradient_accumulation_steps=1"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the benchmark, and the tiny model and data where the mini benchmark has its own."""
    shutil.copytree(RECORDED / "dataset", tmp_path / "dataset")
    shutil.copytree(MODEL, tmp_path / "dataset" / "mini" / "base_model")
    for name in ("all_train.json", "all_val.json", "prompt.json"):
        shutil.copy(RECORDED / "dataset" / name, tmp_path / "dataset" / "mini")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python(folder, capsys):
    few = {'save_dir="results/popd"': 'save_dir="results/popd", max_train_steps=2', "=40": "=2, limit=1"}
    text = PYTHON
    for old, new in few.items():
        assert old in text
        text = text.replace(old, new)
    found = {}
    exec(text, found)
    assert "\n2 steps, the last loss " in f"\n{capsys.readouterr().out}"
    assert found["found"].summary["asr"]["n"] == 6 * 12 and found["answers"].missing == {}


def test_the_commands(folder):
    (folder / "config").mkdir()
    OmegaConf.save(OmegaConf.create(RELEASE), folder / "config" / "release.yaml")
    dry, full, infer, sine, lora = map(shlex.split, COMMANDS["training"])
    counted, fits, engines = map(shlex.split, COMMANDS["engines"])
    *_, release = map(shlex.split, COMMANDS["differences"])
    assert engines == ["benchmarks/engines.py"]  # minutes; tests/selftest runs what it is made of
    done = run("forget", *dry[1:], f"model_path={MODEL}", *FEW[1:], cwd=folder)
    assert done.returncode == 0, done.stderr
    done = run("forget", *sine[1:], f"model_path={MODEL}", *FEW[1:], cwd=folder)
    assert done.returncode == 0 and "projector" in done.stdout, done.stderr
    done = run("forget", *lora[1:], f"model_path={MODEL}", *FEW, cwd=folder)
    assert done.returncode == 0 and (folder / "results" / "projector-lora" / "adapter_config.json").is_file()
    done = run("forget", *release[1:], "--config-dir", folder / "config", f"model_path={MODEL}", *FEW, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "ckpt_results" / "llava-7b" / "gapd_0.0001_all_10" / "adapter_model.safetensors").is_file()
    words = [word.replace("config/", f"{ROOT}/config/") for word in (*full[1:], "model_family=llava-1.5-7b")]
    done = run("forget", *words, f"model_path={MODEL}", *FEW[1:], cwd=folder)
    assert done.returncode == 0 and "zero3" in done.stdout, done.stderr
    real = [word for word in words if not word.startswith(("engine=", "dry_run="))]
    assert run("forget", *real, f"model_path={MODEL}", *FEW, cwd=folder).returncode == 0
    done = run("forget", *(word.replace("config/", f"{ROOT}/config/") for word in counted[1:]), cwd=folder)
    (table,) = re.findall(r"^```\n(.*?)^```", PAGES["engines"], re.DOTALL | re.MULTILINE)
    printed = [line.split() for line in done.stdout.splitlines()]
    assert [line for line in table.splitlines() if line.split() not in printed] == []
    done = run("forget", *(word.replace("config/", f"{ROOT}/config/") for word in fits[1:]), cwd=folder)
    assert done.returncode == 0, done.stderr
    told = [line.strip() for line in PAGES["engines"].splitlines() if line.startswith("    It ")]
    assert len(told) == 2 and done.stdout.splitlines()[-2:] == told
    done = run("ckpt_infer", *infer[1:], "--limit", 1, "--max_new_tokens", 2, "--loss_type", "gdpd", cwd=folder)
    assert done.returncode == 0 and (folder / "predictions_val.json").is_file(), done.stderr


@pytest.mark.parametrize("line", OPTIONS)
def test_the_options_of_the_libraries(line):
    words = shlex.split(line, comments=True)
    composed = OmegaConf.create(run("forget", *words, "--cfg", "job").stdout)
    named = {word.split("=")[0].split(".")[1] for word in words if word.startswith("trainer.")}
    assert read_settings(composed).trainer.keys() == named
