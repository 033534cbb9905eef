"""The laptop path of docs/tutorials/llava-7b.md: its four scripts, on a tiny SmolVLM, without GPU and hub."""

import os
import re
import subprocess

import pytest
from helpers import RECORDED, ROOT

from safeeraser.benchmark.files import read_json

from .recorded import Recorded

pytestmark = [pytest.mark.nightly, pytest.mark.xdist_group("engines")]

PAGE = (ROOT / "docs" / "tutorials" / "llava-7b.md").read_text(encoding="utf-8").partition(": a small model\n")[2]
COMMANDS = re.findall(r"^ {4}(bash .*)$", PAGE.partition("\n## ")[0], re.MULTILINE)
FEW = (  # what keeps each short, beside the tiny model
    f"model_path={Recorded('smolvlm').path} max_train_steps=1 gradient_accumulation_steps=2 limit=1 workers=0",
    "--limit 1 --max_new_tokens 24 --categories HateSpeech,Privacy",
    "--max_blank 1",
    # The training split is asked about, since it alone has a record of each category beside the one held out.
    "all --relearn few.yaml --limit 1 --max_new_tokens 8 --max_blank 1 --val_file dataset/all_train.json",
)


def test_the_four_commands_train_answer_score_and_audit(forks, tmp_path):
    for name in ("forget.py", "ckpt_infer.py", "eval_all.py", "audit.py", "config", "safeeraser", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "dataset").symlink_to(RECORDED / "dataset")
    (tmp_path / "few.yaml").write_text("steps: [1]\nseeds: [1]\n", encoding="utf-8")
    env = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE")}
    env |= {"PATH": f"{forks.folder}{os.pathsep}{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": ""}
    for command, few in zip(COMMANDS, FEW, strict=True):
        done = subprocess.run(f"{command} {few}", shell=True, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
    run = tmp_path / "results" / "smolvlm-256m" / "popd"
    told, card = read_json(run / "run.json"), read_json(run / "audit.json")
    assert told["settings"]["model_family"]["name"] == "smolvlm-256m" and told["engine"]["name"] == "single"
    trained = told["trained_parameters"]
    assert trained["LoRA"] and trained["projector"] and not trained["vision_tower"] and told["finished"]
    for split in ("train", "val"):
        records, summary = (read_json(run / f"{name}_{split}.json") for name in ("predictions", "summary"))
        answered = {each["category"] for each in records if each["unsafe_pairs"][0]["model_response1"]}
        assert answered == {"HateSpeech", "Privacy"} and summary["rr"]["judge"] == "rules" and summary["rr"]["n"] > 0
    groups = {f"relearn_{view}" for view in ("retain", "decoupled", "forget")}
    groups |= {"clean", "attack", "inside", "quantization", "scaling", "sampling"}
    assert {point["group"] for point in card["points"]} >= groups and (run / "report.html").is_file()
