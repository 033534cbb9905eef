"""Guides and references hold as printed: the Python and the files of docs/guides/train.md and audit.md, the tables of
docs/reference/engines.md, the families, keys and file of docs/reference/models.md."""

import json
import re
import shlex
import shutil

import pytest
import yaml
from helpers import MODEL, RECORDED, config, ran, write_json

from safeeraser.benchmark.family import Family, families
from safeeraser.model.load import load_config
from safeeraser.selftest.material import architecture
from safeeraser.unlearn.config.read import read_settings

from .pages import ROOT

NAMES = ("guides/train", "guides/audit", "reference/engines", "reference/models")
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in NAMES}
BLOCKS = dict(re.findall(r"```(json|yaml|python)\n(.*?)```", PAGES["guides/audit"], re.DOTALL))
MODELS = PAGES["reference/models"]


def printed(words, cwd):
    """The lines that a dry run prints in folder `cwd`, with the config files of this project."""
    words = (re.sub(r"=config/", f"={ROOT}/config/", word) for word in words)
    return ran("forget", *words, cwd=cwd).stdout.splitlines()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the recorded data and, in the places of the mini benchmark, with data and tiny model."""
    shutil.copytree(RECORDED / "dataset", tmp_path / "dataset")
    shutil.copytree(RECORDED / "dataset", tmp_path / "dataset" / "mini")
    shutil.copytree(MODEL, tmp_path / "dataset" / "mini" / "base_model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
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
    """Write LLaVA-1.5-7B without weights: its sizes, the tiny model's tokenizer, and data that fill its rows."""
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


@pytest.mark.slow
def test_the_tables_of_engines(folder):
    """For LLaVA-1.5-7B on the default engine and on a GPU of 24 GiB; the test needs neither weights nor GPU."""
    write_7b(folder)
    counted, fits = re.findall(r"^ {4}(?:bash|python) \S*forget\S* (.*)$", PAGES["reference/engines"], re.MULTILINE)
    totals = [line.split()[1] for line in printed(shlex.split(counted), folder) if line.split()[:1] == ["total"]]
    assert f"| 7B, default engine (ZeRO-2) | {float(totals[-1]):.1f} |" in PAGES["reference/engines"]
    told = [line.strip() for line in PAGES["reference/engines"].splitlines() if line.startswith("    It ")]
    assert len(told) == 2 and printed(shlex.split(fits), folder)[-2:] == told


@pytest.mark.slow
def test_the_files_and_the_python_of_audits(folder, capsys):
    """With recorded data and the tiny model. Attackers take three steps, the second on the page's instructions."""
    (folder / "dataset" / "instructions").mkdir()
    (folder / "dataset" / "instructions" / "dolly.jsonl").write_text(json.dumps(json.loads(BLOCKS["json"])))
    (folder / "my").mkdir()
    keys = yaml.safe_load(BLOCKS["yaml"]) | {"steps": [1, 3], "items": 2}
    (folder / "my" / "relearn.yaml").write_text(yaml.safe_dump(keys))
    given = (f"model_path={MODEL}", "workers=0", "max_train_steps=1", "gradient_accumulation_steps=1")
    ran("forget", *given, "save_dir=results/popd", cwd=folder)
    exec(BLOCKS["python"].replace("llava-hf/llava-1.5-7b-hf", str(MODEL)), {})
    folders = [f"results/popd/audit/relearn_{name}/1/training/checkpoint-3" for name in ("decoupled", "dolly")]
    assert capsys.readouterr().out.split()[-2:] == folders
    asked = ("--only", "forget", "--limit", 1, "--max_new_tokens", 2, "--eval_file", "dataset/all_val.json")
    given = ("--model_path", "results/popd/audit/merged", "--checkpoint_path", folders[1], "--output_file", "said.json")
    ran("ckpt_infer", *asked, *given, cwd=folder)


def rows(section: str) -> list[list[str]]:
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_the_tables_of_models_list_the_families_and_the_keys():
    listed = [[re.search(r"`?([^`\s]+)", cell)[1] for cell in row] for row in rows(MODELS)]
    known = [
        [name, one.model_path, one.decoder, one.lmms_eval.model if one.lmms_eval else "none", one.license or "?"]
        for name, one in families().items()
        if one.model_path
    ]
    assert sorted(listed) == sorted(known)
    keys = rows(MODELS.partition("\n## The keys of a family\n")[2])
    assert sorted(re.findall(r"`(\w+)`", " ".join(row[0] for row in keys))) == sorted(Family.model_fields)


def test_the_file_of_a_family_composes(tmp_path):
    name, text = re.search(r"^# config/model_family/(\S+)\.yaml\n(.*?)^```$", MODELS, re.MULTILINE | re.DOTALL).groups()
    added = tmp_path / "model_family" / f"{name}.yaml"
    added.parent.mkdir()
    added.write_text(text, encoding="utf-8")
    family = read_settings(config(f"model_family={name}", f"hydra.searchpath=[{tmp_path}]")).model_family
    assert family == families()["qwen2.5-vl"].model_copy(update={"name": name, "model_path": family.model_path})
