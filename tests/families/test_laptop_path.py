"""The laptop path of docs/models.md: its four scripts, on a tiny SmolVLM, without a GPU and without the hub."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import RECORDED, ROOT, alone

from .recorded import Recorded

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("\n## On a laptop\n")[2].partition("\n## ")[0]
COMMANDS = re.findall(r"^ {4}(bash .*)$", SECTION, re.MULTILINE)
SHORT = re.findall(r"`((?:limit=|--limit)[^`]*)`", SECTION)
FEW = (  # what keeps each short, beside the tiny model
    f"model_path={Recorded('smolvlm').path} max_train_steps=1 gradient_accumulation_steps=2 limit=1 workers=0",
    "--limit 1 --max_new_tokens 24 --categories HateSpeech,Privacy",
    "--max_blank 1",
    # The training split is asked about, since it alone has a record of each category beside the one held out.
    "relearn --relearn few.yaml --limit 1 --max_new_tokens 8 --max_blank 1 --val_file dataset/all_train.json",
)


def checkout(folder: Path) -> Path:
    """What the scripts see of the repository, with the recorded data in dataset/ and a protocol of one step."""
    for name in ("forget.py", "ckpt_infer.py", "eval_all.py", "audit.py", "config", "safeeraser", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "dataset").symlink_to(RECORDED / "dataset")
    (folder / "few.yaml").write_text("steps: [1]\nseeds: [1]\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The run folder, after the page's commands in their order."""
    folder = checkout(tmp_path_factory.mktemp("laptop"))
    env = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI", "ACCELERATE"))}
    env |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": ""}
    for command, few in zip(COMMANDS, FEW, strict=True):
        with alone():
            done = subprocess.run(f"{command} {few}", shell=True, cwd=folder, env=env, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
    return folder / "results" / "smolvlm-256m" / "popd"


def test_it_is_trained_in_one_process_by_its_own_page(run):
    told = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert told["settings"]["model_family"]["name"] == "smolvlm-256m" and told["engine"]["name"] == "single"
    assert told["trained_parameters"]["LoRA"] and told["trained_parameters"]["projector"]
    assert not told["trained_parameters"]["vision_tower"] and told["finished"]


def test_it_answers_both_splits(run):
    for split in ("train", "val"):
        records = json.loads((run / f"predictions_{split}.json").read_text(encoding="utf-8"))
        answered = [any(pair["model_response1"] for pair in record["unsafe_pairs"]) for record in records]
        categories = {record["category"] for record, whole in zip(records, answered, strict=True) if whole}
        assert categories == {"HateSpeech", "Privacy"}


def test_it_is_scored_and_audited(run):
    for split in ("train", "val"):
        summary = json.loads((run / f"summary_{split}.json").read_text(encoding="utf-8"))
        assert summary["rr"]["judge"] == "rules" and summary["rr"]["n"] > 0
    card = json.loads((run / "audit.json").read_text(encoding="utf-8"))
    assert {point["group"] for point in card["points"]} >= {
        "clean",
        "relearn_retain",
        "relearn_decoupled",
        "relearn_forget",
    }
    assert (run / "report.html").is_file()


def test_the_page_names_keys_and_options_that_there_are():
    assert len(COMMANDS) == len(FEW) == 4 and len(SHORT) == 3
