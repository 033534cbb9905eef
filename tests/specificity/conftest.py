"""A run of the command with a stand-in for lmms-eval."""

import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import ROOT, run, write_json

from safeeraser.benchmark.conversation import CHAT_TEMPLATE
from safeeraser.benchmark.files import sha256

SPLITS = {"gqa": "testdev", "vizwiz_vqa_val": "val", "scienceqa_img": "test", "vqav2_val": "validation"}
SPLITS |= {"pope": "test", "mmvet": "test", "mmbench_en_dev": "dev", "mmbench_en_dev_static": "dev", "mine": "test"}
SPLITS |= dict.fromkeys(("gqa_lite", "vizwiz_vqa_val_lite", "vqav2_val_lite", "mmbench_en_dev_lite"), "lite")
METRICS = {
    "pope": ["pope_accuracy", "pope_f1_score"],
    "mmvet": ["gpt_eval_score"],
    "mine": ["submission", "exact_match"],
}
METRICS |= {name: ["gpt_eval_score", "submission"] for name in SPLITS if name.startswith("mmbench")}
NO_TOKEN = ("vizwiz_vqa_val", "vizwiz_vqa_val_lite", "mine")


def known() -> dict:
    """What the stand-in says it knows."""
    tasks = {
        name: {"split": split, "metrics": METRICS.get(name, ["exact_match"]), "file_sha256": name}
        | {"hub_token": name not in NO_TOKEN}
        for name, split in SPLITS.items()
    }
    told = {"versions": {"lmms-eval": "0.7.3"}, "gpus": 0, "token": True, "groups": ["mmbench"]}
    return told | {"tasks": tasks, "names": [*tasks, "mmbench"]}


def figures(name: str) -> dict:
    """What the stand-in finds, half of all right, in the harness's own numbers."""
    if name == "pope":
        return {"figures": {"pope_accuracy": 0.5, "pope_accuracy_stderr": "N/A", "pope_f1_score": 0.25}, "n": 10}
    if "gpt_eval_score" in METRICS.get(name, []):
        return {"figures": {"gpt_eval_score": 50.0, "gpt_eval_score_stderr": 4.0, "submission": "N/A"}, "n": 10}
    return {"figures": {"exact_match": 0.5, "exact_match_stderr": 0.1, "exact_match_stderr_clt": 0.1}, "n": 10}


class Bench:
    """An adapter whose merged model is there already, and a stand-in that finds half of everything right."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.adapter, self.base = folder, folder / "popd", folder / "base"
        self.script = {"known": known(), "tasks": {name: figures(name) for name in SPLITS}}
        self.python = folder / "python"
        self.python.write_text(f"#!{sys.executable}\n{Path(__file__).with_name('stand_in.py').read_text()}")
        self.python.chmod(0o755)
        self.train("weights")
        write_json(self.base / "config.json", {"model_type": "llava"})
        (self.base / "chat_template.jinja").write_text(CHAT_TEMPLATE)

    def train(self, weights: str) -> None:
        """An adapter of other weights, merged."""
        self.adapter.mkdir(exist_ok=True)
        file = self.adapter / "adapter_model.safetensors"
        file.write_text(weights)
        write_json(self.adapter / "merged" / "run.json", {"merged": {"adapter_sha256": sha256(file)}})

    def write(self) -> None:
        """Lay out the stand-in's script."""
        write_json(self.folder / "script.json", self.script)
        (self.folder / "calls.jsonl").write_text("")

    def run(self, *arguments, adapter=True) -> SimpleNamespace:
        """Exit code, output and errors of the command, its calls of the harness, and the file that it wrote."""
        self.write()
        logging.getLogger().handlers.clear()  # else it logs to where pytest listens
        done = run(
            "safeeraser.specificity", *(["--checkpoint_path", self.adapter] if adapter else []), *arguments, cwd=ROOT
        )
        calls = [json.loads(line) for line in (self.folder / "calls.jsonl").read_text().splitlines()]
        calls = [call for call in calls if not call["argv"][0].endswith("probe.py")]
        ran = [call["argv"][call["argv"].index("--tasks") + 1] for call in calls]
        file = self.adapter / "specificity.json"
        result = json.loads(file.read_text()) if file.exists() else {}
        told = {"calls": calls, "ran": ran, "result": result, "argv": [" ".join(call["argv"]) for call in calls]}
        return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr, **told)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """See `Bench`."""
    bench = Bench(tmp_path)
    monkeypatch.setenv("LMMS_PYTHON", str(bench.python))
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "API_TYPE", "OPENAI_API_URL", "MODEL_VERSION"):
        monkeypatch.delenv(name, raising=False)
    yield bench
    logging.getLogger().handlers.clear()  # else another test's log would go where nobody listens any more
