"""What a user can get wrong with forget.py: exit code 2, one line that says what and where, and nothing touched."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from helpers import RECORDED, TRAIN, read_beside, refused, write_json
from safetensors.torch import load_file, save_file

from .given import refuses

REFUSED = read_beside(__file__, "golden/refused.yaml")
RUNS = REFUSED["run"] | ({} if find_spec("wandb") else REFUSED["wandb"])


@pytest.mark.parametrize("words", REFUSED["command"])
def test_the_command_says_it_in_one_line(tmp_path, words):
    (tmp_path / "both.yaml").write_text("defaults: [forget_lora, _self_]\nforget_loss: gd\n")
    (tmp_path / "torn.yaml").write_text("workers: [\n")
    given = (f"data_path={TRAIN}", "save_dir=run", *words.split())
    refused(tmp_path, "forget", *given, says=REFUSED["command"][words], cwd=tmp_path)


@pytest.mark.parametrize("words", RUNS)
def test_a_run_that_cannot_be_is_refused(tmp_path, monkeypatch, words):
    if "init_adapter" in words:
        tensors = load_file(RECORDED / "initial_adapter.safetensors")
        save_file({name: torch.zeros(2, 2) for name in tensors}, tmp_path / "small.safetensors")
        save_file({name: each * torch.nan for name, each in tensors.items()}, tmp_path / "broken.safetensors")
    write_json(tmp_path / "vector.json", [1, 2])
    write_json(tmp_path / "gpt" / "config.json", {"model_type": "gpt2"})
    write_json(tmp_path / "merged" / "run.json", {"settings": {}, "merged": {}})
    write_json(tmp_path / "copied" / "run.json", {"copied": {}})
    for name in ("mine/thesis.tex", "file", "closed/.keep"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("years of work")
    # To root, whom these tests may be run by, no folder is closed.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "closed")
    monkeypatch.chdir(tmp_path)
    assert RUNS[words] in refuses(tmp_path, *words.split())
