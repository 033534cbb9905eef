"""The Python of docs/guides/train.md and the tables of docs/reference/engines.md, on the tiny model."""

import json
import re
import shlex
import shutil

import pytest
from helpers import MODEL, RECORDED, ROOT, ran, write_json

from safeeraser.model.load import load_config
from safeeraser.selftest.material import architecture

pytestmark = pytest.mark.slow

PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("guides/train", "reference/engines")}


def printed(words, cwd):
    """What a dry run prints, its config files found from anywhere."""
    words = (re.sub(r"=config/", f"={ROOT}/config/", word) for word in words)
    return ran("forget", *words, cwd=cwd).stdout.splitlines()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the benchmark, and the tiny model and data where the mini benchmark has its own."""
    shutil.copytree(RECORDED / "dataset", tmp_path / "dataset")
    shutil.copytree(RECORDED / "dataset", tmp_path / "dataset" / "mini")
    shutil.copytree(MODEL, tmp_path / "dataset" / "mini" / "base_model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_of_training(folder, capsys):
    (text,) = re.findall(r"```python\n(.*?)```", PAGES["guides/train"], re.DOTALL)
    few = {'save_dir="results/popd"': 'save_dir="results/popd", max_train_steps=2', "=40": "=2, limit=1"}
    for old, new in few.items():
        assert old in text
        text = text.replace(old, new)
    exec(text, found := {})
    assert "\n2 steps, the last loss " in f"\n{capsys.readouterr().out}"
    assert found["found"].summary["asr"]["n"] == 6 * 12 and found["answers"].missing == {}


def write_7b(folder):
    """LLaVA-1.5-7B without weights: its own numbers, beside the tiny model's words, and data that fill its rows."""
    model = shutil.copytree(MODEL, folder / "models" / "llava-1.5-7b", ignore=shutil.ignore_patterns("*.safetensors"))
    place = load_config(str(MODEL)).image_token_id
    write_json(model / "config.json", architecture("7b").to_dict() | {"image_token_id": place})
    pictures = json.loads((model / "preprocessor_config.json").read_text())
    size = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    write_json(model / "preprocessor_config.json", pictures | size)
    records = json.loads((folder / "dataset" / "all_train.json").read_text())
    for pair in (pair for record in records for pair in record["unsafe_pairs"]):
        pair["sd_response"] = "all of it " * 500
    write_json(folder / "dataset" / "all_train.json", records)


def test_the_tables_of_engines(folder):
    """LLaVA-1.5-7B on the default engine and on a card of 24 GiB, though neither weights nor such a card are here."""
    write_7b(folder)
    counted, fits = re.findall(r"^ {4}(?:bash|python) \S*forget\S* (.*)$", PAGES["reference/engines"], re.MULTILINE)
    totals = [line.split()[1] for line in printed(shlex.split(counted), folder) if line.split()[:1] == ["total"]]
    assert f"| 7B, default engine (ZeRO-2) | {float(totals[-1]):.1f} |" in PAGES["reference/engines"]
    told = [line.strip() for line in PAGES["reference/engines"].splitlines() if line.startswith("    It ")]
    assert len(told) == 2 and printed(shlex.split(fits), folder)[-2:] == told
