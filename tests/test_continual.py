"""The commands of docs/continual.md, run as they stand there, and the chain of parents that they leave."""

import json
import re
import shlex
import shutil
import sys

import pytest
from helpers import MODEL, RECORDED, ROOT, run

from safeeraser import model as models
from safeeraser.benchmark.files import sha256
from safeeraser.model import __main__ as command

pytestmark = pytest.mark.slow

COMMANDS = re.findall(r"^ {4}python (.*)$", (ROOT / "docs" / "continual.md").read_text(), re.MULTILINE)
ADAPTER = ("--checkpoint_path", "results/merged-weapon")
SMALL = {
    "forget.py": "dtype=float32 workers=0 max_train_steps=1 gradient_accumulation_steps=1 lr=0.01",
    "ckpt_infer.py": "--dtype float32 --max_new_tokens 6 --greedy --only retain",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with the benchmark, in which every command was run, one after another."""
    folder = tmp_path_factory.mktemp("continual")
    shutil.copytree(RECORDED / "dataset", folder / "dataset")
    for line in COMMANDS:
        script, *words = shlex.split(line)
        if script == "-m":
            with pytest.MonkeyPatch.context() as patched, pytest.raises(SystemExit) as stop:
                patched.chdir(folder)
                patched.setattr(sys, "argv", words)
                command.main()
            assert stop.value.code == 0, line
            continue
        words += SMALL[script].split()
        if script == "forget.py" and "model_path=" not in line:
            words.append(f"model_path={MODEL}")
        done = run(script.removesuffix(".py"), *words, cwd=folder)
        assert done.returncode == 0, (line, done.stderr)
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
    assert len(COMMANDS) == 7
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


def test_the_adapter_sits_on_the_merged_model_alone(folder):
    """As it does once it is merged too; on the untouched model it is refused."""
    ask = [*SMALL["ckpt_infer.py"].split(), "--output_file"]
    out = folder / "results" / "merged-weapon" / "predictions_val.json"
    for name, model in (("whole", ["merged/weapon"]), ("named", ["merged/violence", *ADAPTER])):
        done = run("ckpt_infer", *ask, f"{name}.json", "--model_path", *model, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert (folder / f"{name}.json").read_text() == out.read_text()
    done = run("ckpt_infer", *ask, "no.json", "--model_path", MODEL, *ADAPTER, cwd=folder)
    assert done.returncode == 2 and "was trained on merged/violence (weights " in done.stderr
