"""Run the specificity command with a stand-in for lmms-eval."""

import json
import logging
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import ROOT, read_beside, run, write_json

from safeeraser.benchmark.conversation import CHAT_TEMPLATE
from safeeraser.benchmark.files import sha256


class Bench:
    """An adapter whose merged model is there already, and a stand-in for lmms-eval that finds half of all right."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.adapter, self.base = folder, folder / "popd", folder / "base"
        self.script = read_beside(__file__, "script.yaml")
        self.python = folder / "python"
        self.python.write_text(f"#!{sys.executable}\n{Path(__file__).with_name('stand_in.py').read_text()}")
        self.python.chmod(0o755)
        self.train("weights")
        write_json(self.base / "config.json", {"model_type": "llava"})
        (self.base / "chat_template.jinja").write_text(CHAT_TEMPLATE)

    def train(self, weights: str) -> None:
        """Write an adapter with the given weights, and its merged model."""
        self.adapter.mkdir(exist_ok=True)
        file = self.adapter / "adapter_model.safetensors"
        file.write_text(weights)
        write_json(self.adapter / "merged" / "run.json", {"merged": {"adapter_sha256": sha256(file)}})

    def write(self) -> None:
        write_json(self.folder / "script.json", self.script)
        (self.folder / "calls.jsonl").write_text("")

    def run(self, *arguments, adapter=True) -> SimpleNamespace:
        """Run the command. Return its exit code, output, errors, calls of the harness, and the file that it wrote."""
        self.write()
        logging.getLogger().handlers.clear()  # otherwise it logs to pytest's handlers
        first = ["--checkpoint_path", self.adapter] if adapter else []
        done = run("safeeraser.specificity", *first, *arguments, cwd=ROOT)
        calls = [json.loads(line) for line in (self.folder / "calls.jsonl").read_text().splitlines()]
        calls = [call for call in calls if "ask" in call["argv"]]
        ran = [call["argv"][call["argv"].index("--tasks") + 1] for call in calls]
        file = self.adapter / "specificity.json"
        result = json.loads(file.read_text()) if file.exists() else {}
        told = {"calls": calls, "ran": ran, "result": result, "argv": [" ".join(call["argv"]) for call in calls]}
        return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr, **told)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    bench, handler = Bench(tmp_path), signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("LMMS_PYTHON", str(bench.python))
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "API_TYPE", "OPENAI_API_URL", "MODEL_VERSION"):
        monkeypatch.delenv(name, raising=False)
    yield bench
    signal.signal(signal.SIGTERM, handler)  # the command has set its own
    logging.getLogger().handlers.clear()  # otherwise another test would log to this command's closed stream
