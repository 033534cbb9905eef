"""A run that goes to the hub when it is finished: asked before training, sent after it, whole whatever goes wrong.

tests/report/test_hub.py proves what is sent and how each fault of the hub is told.
"""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from helpers import MODEL, ROOT, TRAIN, refused, run, trained
from hub_server import NOBODY, TOKEN, Hub, at
from omegaconf import OmegaConf

from safeeraser.report.hub import ADAPTER

GIVEN = [f"model_path={MODEL}", f"data_path={TRAIN}", "forget_loss=popd", "dtype=float32", "workers=0", "limit=1"]
GIVEN += ["max_train_steps=1", "gradient_accumulation_steps=1"]
PAGE = (ROOT / "docs" / "publishing.md").read_text()
SENT = set(ADAPTER)
TO_HUB = ("push_to_hub=true", "hub_model_id=me/popd")


@pytest.fixture
def hub():
    server = Hub()
    yield server
    server.stop()


def forget(*words, url, token=TOKEN):
    with at(url, token):
        return run("forget", *GIVEN, *words)


def report(*words, url, **more):
    with at(url):
        return run("safeeraser.report", *words, **more)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("hub_model_id=null", "config: push_to_hub=true: hub_model_id must say where to"),
        ("save_model=false", "config: push_to_hub=true: nothing is left to send with save_model=false"),
        ("hub_model_id=popd", "hub_model_id=popd: must be OWNER/NAME"),
        ("hub_private=true", "push_to_hub: no token for the hub; set HF_TOKEN"),
        ("trainer.push_to_hub=true", "config: trainer.push_to_hub: set by this project; use push_to_hub"),
    ],
)
def test_settings_that_cannot_work(tmp_path, monkeypatch, word, says):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with at(NOBODY, token=None):
        refused(tmp_path, "forget", *GIVEN, *TO_HUB, word, f"save_dir={tmp_path / 'run'}", says=says)


@pytest.mark.slow
def test_a_dry_run_tells_what_would_be_sent_and_asks_nobody(hub, tmp_path):
    done = forget(*TO_HUB, "dry_run=true", f"save_dir={tmp_path / 'run'}", url=hub.url)
    assert done.returncode == 0, done.stderr
    told = "to the hub, when the run is finished: me/popd (private): adapter_model.safetensors, adapter_config.json"
    assert told in done.stderr and not [path for _, path, *_ in hub.requests if path.startswith("/api")]


@pytest.mark.slow
def test_a_run_does_not_begin_where_it_could_not_be_sent(hub, tmp_path):
    done = forget(*TO_HUB, f"save_dir={tmp_path / 'run'}", url=hub.url, token="hf_other")
    assert done.returncode == 2 and "the token is not taken (HTTP 401)" in done.stderr and "hf_other" not in done.stderr
    assert not (tmp_path / "run").exists() and not hub.repos


@pytest.mark.slow
def test_a_run_whose_sending_fails_is_whole_and_told_how_to_send_it_again(hub, tmp_path):
    folder = tmp_path / "run"
    hub.faults["/commit/"] = [403]
    done = forget(*TO_HUB, f"save_dir={folder}", url=hub.url)
    (line,) = [line for line in done.stderr.splitlines() if "error: " in line]
    assert done.returncode == 3 and "the token may not write there (HTTP 403); the run is whole in" in line
    assert TOKEN not in done.stdout + done.stderr
    assert not any(TOKEN.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert "finished" in json.loads((folder / "run.json").read_text()) and not hub.repos["me/popd"]["files"]
    again = re.search(r"'python -m safeeraser\.report (.*)' sends it", line)[1].split()
    done = report(*again, url=hub.url)
    assert done.returncode == 0 and hub.repos["me/popd"]["files"].keys() == SENT, done.stderr


@pytest.mark.slow
def test_training_sends_adapter_and_card_and_then_the_figures(hub, tmp_path):
    """As a user starts it; then the same command, which passes over the training."""
    folder = tmp_path / "run"
    words = (f"save_dir={folder}", *TO_HUB)
    rest = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    more = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": "/nowhere", "HF_HUB_DISABLE_TELEMETRY": "1"}
    given = rest | more | {"PYTHONPATH": str(ROOT), "HF_TOKEN": TOKEN}
    call = [sys.executable, str(ROOT / "forget.py"), *GIVEN, *words]
    done = subprocess.run(call, cwd=tmp_path, env=given, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and TOKEN not in done.stdout + done.stderr, done.stderr
    there = hub.repos["me/popd"]
    assert there["private"] and there["files"].keys() == SENT
    assert there["files"]["adapter_model.safetensors"] == (folder / "adapter_model.safetensors").read_bytes()
    card = there["files"]["README.md"].decode()
    assert card == (folder / "README.md").read_text() and "**Not scored.**" in card and '"me/popd"' in card
    told = json.loads(there["files"]["adapter_config.json"])
    assert told["base_model_name_or_path"] is None and told["r"] == 32
    assert not any(TOKEN.encode() in body or str(ROOT).encode() in body for *_, body in hub.requests)
    assert not any(TOKEN.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())

    weights, before = (folder / "adapter_model.safetensors").stat().st_mtime_ns, len(hub.requests)
    figure = {"value": 0.25, "low": 0.1, "high": 0.4, "n": 48}
    summary = {"split": "val", "asr": figure, "protocol": "corrected", "judge": "rules"}
    (folder / "summary_val.json").write_text(json.dumps(summary))
    done = forget(*words, "resume_from_checkpoint=auto", url=hub.url)
    assert done.returncode == 0 and "done before" in done.stderr, done.stderr
    assert (folder / "adapter_model.safetensors").stat().st_mtime_ns == weights and len(hub.requests) > before
    assert "| ASR-Gen ↓ | val | 25.0 | 10.0–40.0 | 48 | rules | corrected |" in there["files"]["README.md"].decode()


@pytest.mark.slow
def test_a_model_that_was_trained_whole_is_a_folder_that_loads(hub, tmp_path):
    words = ("finetune=full", "forget_loss=gd", f"save_dir={tmp_path / 'run'}", "push_to_hub=true")
    done = forget(*words, "hub_model_id=me/whole", "hub_private=false", url=hub.url)
    assert done.returncode == 0, done.stderr
    there = hub.repos["me/whole"]
    names = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"}
    names |= {"tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json", "processor_config.json"}
    assert names <= there["files"].keys() and not there["private"]
    assert not {"plan.json", "run.json", "train_log.jsonl", "training_args.bin"} & there["files"].keys()
    assert not [name for name in there["files"] if str(ROOT).encode() in there["files"][name]]
    assert "library_name: transformers" in there["files"]["README.md"].decode()


@pytest.mark.slow
def test_the_commands_of_the_page(hub, tmp_path):
    """docs/publishing.md, as they stand there, but for the model and for one step."""
    scored, training, again = re.findall(r"^ {4}(?:bash|python) (.*)$", PAGE, re.MULTILINE)
    script, *words = training.split()
    assert script == "scripts/forget_lora.bash"
    done = forget(*words, "dry_run=true", f"save_dir={tmp_path / 'run'}", url=hub.url)
    assert done.returncode == 0 and "me/popd (private)" in done.stderr, done.stderr
    shutil.copytree(trained(tmp_path / "one", *GIVEN), tmp_path / "results" / "llava-1.5-7b" / "popd")
    for line in (scored, again):
        program, module, *given = line.split()
        assert (program, module) == ("-m", "safeeraser.report")
        done = report(*given, url=hub.url, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert hub.repos["me/popd"]["files"].keys() == SENT and hub.repos["me/popd"]["private"]


def test_the_page_names_all_that_is_sent_and_each_key():
    keys = OmegaConf.load(ROOT / "config" / "forget_lora.yaml")
    assert {name for name in ADAPTER if f"`{name}`" not in PAGE} == set()
    assert all(key in keys and f"| `{key}` |" in PAGE for key in ("push_to_hub", "hub_model_id", "hub_private"))
