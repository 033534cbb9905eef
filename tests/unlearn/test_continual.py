"""The commands of docs/continual.md, run as they stand there, leave the chain of parents that it promises."""

import re
import shlex
import shutil

import pytest
from helpers import MODEL, RECORDED, ROOT, run

from safeeraser import model as models
from safeeraser.benchmark.files import run_of, sha256

from .built import ADAPTER

pytestmark = pytest.mark.slow

COMMANDS = re.findall(r"^ {4}python (.*)$", (ROOT / "docs" / "continual.md").read_text(), re.MULTILINE)
SMALL = {
    "forget.py": "dtype=float32 workers=0 max_train_steps=1 gradient_accumulation_steps=1 lr=0.01 LoRA.r=4",
    "ckpt_infer.py": "--dtype float32 --max_new_tokens 6 --greedy --only retain",
}


def parent(folder, how, split, base):
    """What is told of a run of this folder on this base."""
    weights = {"adapter_sha256": sha256(folder / ADAPTER), "base": models.fingerprint(str(base))["weights"]}
    return {"how": how, "method": "popd", "recipe": "official", "split": [split], **weights}


def test_every_run_tells_its_parents(tmp_path):
    """Every command is run, one after another, in a working directory with the benchmark."""
    shutil.copytree(RECORDED / "dataset", tmp_path / "dataset")
    for script, *words in map(shlex.split, COMMANDS):
        more = shlex.split(SMALL.get(script, ""))
        if script == "forget.py" and not any(word.startswith("model_path=") for word in words):
            more.append(f"model_path={MODEL}")
        name, *words = words if script == "-m" else (script.removesuffix(".py"), *words)
        done = run(name, *words, *more, cwd=tmp_path)
        assert done.returncode == 0, (words, done.stderr)
    results, merged = tmp_path / "results", tmp_path / "merged"
    assert run_of(results / "violence")["parents"] == run_of(merged / "violence")["parents"] == []
    first = parent(results / "violence", "merged", "Violence", MODEL)
    assert run_of(results / "merged-weapon")["parents"] == run_of(merged / "weapon")["parents"] == [first]
    second = parent(results / "merged-weapon", "merged", "Weapon", merged / "violence")
    assert models.parents(str(merged / "weapon")) == [first, second]
    stacked = parent(results / "violence", "init_adapter", "Violence", MODEL)
    assert run_of(results / "stacked-weapon")["parents"] == [stacked]
    third = parent(results / "stacked-weapon", "init_adapter", "Weapon", MODEL)
    assert models.parents(str(MODEL), results / "stacked-weapon") == [stacked, third]
