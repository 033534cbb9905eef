"""docs/guides/audit.md: its files can be used, and its Python runs as it stands there."""

import json
import re
import shutil

import pytest
import yaml
from helpers import MODEL, RECORDED, run

from .pages import ROOT

PAGE = (ROOT / "docs" / "guides" / "audit.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"```(json|yaml|python)\n(.*?)```", PAGE, re.DOTALL))


@pytest.mark.slow
def test_its_files_and_its_python(tmp_path, monkeypatch, capsys):
    """On the recorded data and the tiny model, after three steps; the second attacker has the page's instructions."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(RECORDED / "dataset", "dataset")
    (tmp_path / "dataset" / "instructions").mkdir()
    (tmp_path / "dataset" / "instructions" / "dolly.jsonl").write_text(json.dumps(json.loads(BLOCKS["json"])))
    (tmp_path / "my").mkdir()
    keys = yaml.safe_load(BLOCKS["yaml"]) | {"steps": [1, 3], "items": 2}
    (tmp_path / "my" / "relearn.yaml").write_text(yaml.safe_dump(keys))
    given = (f"model_path={MODEL}", "workers=0", "max_train_steps=1", "gradient_accumulation_steps=1")
    assert run("forget", *given, "save_dir=results/popd", cwd=tmp_path).returncode == 0
    exec(BLOCKS["python"].replace("llava-hf/llava-1.5-7b-hf", str(MODEL)), {})
    folders = [f"results/popd/audit/relearn_{name}/1/training/checkpoint-3" for name in ("decoupled", "dolly")]
    assert capsys.readouterr().out.split()[-2:] == folders
    asked = ("--only", "forget", "--limit", 1, "--max_new_tokens", 2, "--eval_file", "dataset/all_val.json")
    given = ("--model_path", "results/popd/audit/merged", "--checkpoint_path", folders[1], "--output_file", "said.json")
    assert run("ckpt_infer", *asked, *given, cwd=tmp_path).returncode == 0
