"""A run of the command with a stand-in for lmms-eval."""

import json
import logging
import sys
from pathlib import Path

import pytest

from safeeraser.benchmark.conversation import CHAT_TEMPLATE
from safeeraser.benchmark.files import sha256
from safeeraser.specificity import __main__ as command

SPLITS = {
    "gqa": "testdev",
    "vizwiz_vqa_val": "val",
    "scienceqa_img": "test",
    "vqav2_val": "validation",
    "pope": "test",
    "mmvet": "test",
    "mmbench_en_dev": "dev",
    "mmbench_en_dev_static": "dev",
    **dict.fromkeys(("gqa_lite", "vizwiz_vqa_val_lite", "vqav2_val_lite", "mmbench_en_dev_lite"), "lite"),
    "mine": "test",
}
METRICS = {
    "pope": ["pope_accuracy", "pope_f1_score"],
    "mmvet": ["gpt_eval_score"],
    **{name: ["gpt_eval_score", "submission"] for name in SPLITS if name.startswith("mmbench")},
    "mine": ["submission", "exact_match"],
}
NO_TOKEN = ("vizwiz_vqa_val", "vizwiz_vqa_val_lite", "mine")


def known(gpus=0, token=True) -> dict:
    """What the stand-in says it knows."""
    tasks = {
        name: {
            "split": split,
            "metrics": METRICS.get(name, ["exact_match"]),
            "hub_token": name not in NO_TOKEN,
            "file_sha256": name,
        }
        for name, split in SPLITS.items()
    }
    names = [*tasks, "mmbench"]
    return {
        "versions": {"lmms-eval": "0.7.3"},
        "gpus": gpus,
        "token": token,
        "tasks": tasks,
        "groups": ["mmbench"],
        "names": names,
    }


def figures(name: str) -> dict:
    """What the stand-in finds, half of all right, in the harness's own numbers."""
    if name == "pope":
        return {"figures": {"pope_accuracy": 0.5, "pope_accuracy_stderr": "N/A", "pope_f1_score": 0.25}, "n": 10}
    if "gpt_eval_score" in METRICS.get(name, []):
        return {"figures": {"gpt_eval_score": 50.0, "gpt_eval_score_stderr": "N/A", "submission": "N/A"}, "n": 10}
    return {"figures": {"exact_match": 0.5, "exact_match_stderr": 0.1, "exact_match_stderr_clt": 0.1}, "n": 10}


class Bench:
    """An adapter whose merged model is there already, and a stand-in that finds half of everything right."""

    def __init__(self, folder: Path, monkeypatch, capsys):
        self.folder, self.monkeypatch, self.capsys = folder, monkeypatch, capsys
        self.script = {"known": known(), "tasks": {name: figures(name) for name in SPLITS}}
        python = folder / "python"
        python.write_text(f"#!{sys.executable}\n{Path(__file__).with_name('stand_in.py').read_text()}")
        python.chmod(0o755)
        self.adapter = folder / "popd"
        self.adapter.mkdir()
        self.train("weights")
        self.base = folder / "base"
        self.base.mkdir()
        (self.base / "config.json").write_text('{"model_type": "llava"}')
        (self.base / "chat_template.jinja").write_text(CHAT_TEMPLATE)
        monkeypatch.setenv("LMMS_PYTHON", str(python))
        monkeypatch.setenv("OPENAI_API_KEY", "key")
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "API_TYPE", "OPENAI_API_URL"):
            monkeypatch.delenv(name, raising=False)

    def train(self, weights: str) -> None:
        """An adapter of other weights, merged."""
        (self.adapter / "adapter_model.safetensors").write_text(weights)
        (self.adapter / "merged").mkdir(exist_ok=True)
        made_of = {"merged": {"adapter_sha256": sha256(self.adapter / "adapter_model.safetensors")}}
        (self.adapter / "merged" / "run.json").write_text(json.dumps(made_of))

    def run(self, *arguments, adapter=True) -> tuple[int, str, str]:
        """Exit code, output and errors of the command."""
        (self.folder / "script.json").write_text(json.dumps(self.script))
        (self.folder / "calls.jsonl").write_text("")
        which = ["--checkpoint_path", self.adapter] if adapter else []
        self.monkeypatch.setattr(sys, "argv", ["safeeraser.specificity", *map(str, [*which, *arguments])])
        logging.getLogger().handlers.clear()  # else it writes to where an earlier test was listened to
        with pytest.raises(SystemExit) as stop:
            command.main()
        said = self.capsys.readouterr()
        return stop.value.code, said.out, said.err

    @property
    def calls(self) -> list[dict]:
        """The harness's runs, the probe left out."""
        calls = map(json.loads, (self.folder / "calls.jsonl").read_text().splitlines())
        return [call for call in calls if not call["argv"][0].endswith("probe.py")]

    @property
    def ran(self) -> list[str]:
        """The tasks of those runs."""
        return [call["argv"][call["argv"].index("--tasks") + 1] for call in self.calls]

    @property
    def result(self) -> dict:
        """The file that the report reads."""
        return json.loads((self.adapter / "specificity.json").read_text())


@pytest.fixture
def bench(tmp_path, monkeypatch, capsys):
    """See `Bench`."""
    yield Bench(tmp_path, monkeypatch, capsys)
    logging.getLogger().handlers.clear()  # else another test's log would go where nobody listens any more
