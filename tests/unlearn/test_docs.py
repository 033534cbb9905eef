"""The Python of docs/training.md and the tables of docs/engines.md, on the tiny model."""

import re
import shlex
import shutil

import pytest
from helpers import MODEL, RECORDED, ROOT, run

pytestmark = pytest.mark.slow

PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("training", "engines")}


def ran(words, cwd):
    """What a dry run prints, its config files found from anywhere."""
    done = run("forget", *(re.sub(r"=config/", f"={ROOT}/config/", word) for word in words), cwd=cwd)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout.splitlines()


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
    counted, fits = re.findall(r"^ {4}(?:bash|python) \S*forget\S* (.*)$", PAGES["engines"], re.MULTILINE)
    printed = [line.split() for line in ran(shlex.split(counted), folder)]
    (table,) = re.findall(r"^```\n(.*?)^```", PAGES["engines"], re.DOTALL | re.MULTILINE)
    assert [line for line in table.splitlines() if line.split() not in printed] == []
    told = [line.strip() for line in PAGES["engines"].splitlines() if line.startswith("    It ")]
    assert len(told) == 2 and ran(shlex.split(fits), folder)[-2:] == told
