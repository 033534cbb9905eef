"""The commands of docs/continual.md, run as they stand there, leave the chain of parents that it promises."""

import json
import re
import shlex
import shutil

import pytest
from helpers import MODEL, RECORDED, ROOT, run

from safeeraser import model as models
from safeeraser.benchmark.files import sha256

pytestmark = pytest.mark.slow


COMMANDS = re.findall(r"^ {4}python (.*)$", (ROOT / "docs" / "continual.md").read_text(), re.MULTILINE)
SMALL = {
    "forget.py": "dtype=float32 workers=0 max_train_steps=1 gradient_accumulation_steps=1 lr=0.01 LoRA.r=4",
    "ckpt_infer.py": "--dtype float32 --max_new_tokens 6 --greedy --only retain",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with the benchmark, in which every command was run, one after another."""
    folder = tmp_path_factory.mktemp("continual")
    shutil.copytree(RECORDED / "dataset", folder / "dataset")
    for script, *words in map(shlex.split, COMMANDS):
        more = shlex.split(SMALL.get(script, ""))
        if script == "forget.py" and not any(word.startswith("model_path=") for word in words):
            more.append(f"model_path={MODEL}")
        name, *words = words if script == "-m" else (script.removesuffix(".py"), *words)
        done = run(name, *words, *more, cwd=folder)
        assert done.returncode == 0, (words, done.stderr)
    return folder


def told(folder):
    return json.loads((folder / "run.json").read_text())


def parent(folder, how, split, adapter, base):
    return {
        "how": how,
        "method": "popd",
        "recipe": "official",
        "split": [split],
        "adapter_sha256": sha256(folder / "results" / adapter / "adapter_model.safetensors"),
        "base": models.fingerprint(str(base))["weights"],
    }


def test_every_run_tells_its_parents(folder):
    results, merged = folder / "results", folder / "merged"
    assert told(results / "violence")["parents"] == told(merged / "violence")["parents"] == []
    first = parent(folder, "merged", "Violence", "violence", MODEL)
    assert told(results / "merged-weapon")["parents"] == told(merged / "weapon")["parents"] == [first]
    second = parent(folder, "merged", "Weapon", "merged-weapon", merged / "violence")
    assert models.parents(str(merged / "weapon")) == [first, second]
    stacked = parent(folder, "init_adapter", "Violence", "violence", MODEL)
    assert told(results / "stacked-weapon")["parents"] == [stacked]
    third = parent(folder, "init_adapter", "Weapon", "stacked-weapon", MODEL)
    assert models.parents(str(MODEL), results / "stacked-weapon") == [stacked, third]
