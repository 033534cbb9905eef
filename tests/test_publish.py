"""A run that goes to the hub when it is finished: asked before training, sent after it, whole whatever goes wrong.

tests/report/test_hub.py proves what is sent and how each fault of the hub is told.
"""

import json
import re
import shutil

import pytest
from helpers import MODEL, ROOT, TRAIN, refused, run, trained
from hub_server import NOBODY, TOKEN, Hub, at
from omegaconf import OmegaConf

from safeeraser.report.hub import ADAPTER

GIVEN = [f"model_path={MODEL}", f"data_path={TRAIN}", "forget_loss=popd", "dtype=float32", "workers=0", "limit=1"]
GIVEN += ["max_train_steps=1", "gradient_accumulation_steps=1"]
PAGE = (ROOT / "docs" / "publishing.md").read_text()
TO_HUB = ("push_to_hub=true", "hub_model_id=me/popd")


@pytest.fixture
def hub():
    server = Hub()
    yield server
    server.stop()


def forget(*words, url, token=TOKEN):
    with at(url, token):
        return run("forget", *GIVEN, *words)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("hub_model_id=null", "config: push_to_hub=true: hub_model_id must say where to"),
        ("save_model=false", "config: push_to_hub=true: nothing is left to send with save_model=false"),
        ("hub_private=true", "push_to_hub: no token for the hub; set HF_TOKEN"),
        ("trainer.push_to_hub=true", "config: trainer.push_to_hub: set by this project; use push_to_hub"),
    ],
)
def test_settings_that_cannot_work(tmp_path, monkeypatch, word, says):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with at(NOBODY, token=None):
        refused(tmp_path, "forget", *GIVEN, *TO_HUB, word, f"save_dir={tmp_path / 'run'}", says=says)


@pytest.mark.slow
def test_a_run_whose_sending_fails_is_whole_and_can_be_sent_again_with_its_figures(hub, tmp_path):
    folder = tmp_path / "run"
    words = (*TO_HUB, f"save_dir={folder}")
    done = forget(*words, url=hub.url, token="hf_other")  # it does not begin where it could not be sent
    assert done.returncode == 2 and "the token is not taken (HTTP 401)" in done.stderr and "hf_other" not in done.stderr
    assert not folder.exists() and not hub.repos
    hub.faults["/commit/"] = [403]
    done = forget(*words, url=hub.url)
    (line,) = [line for line in done.stderr.splitlines() if "error: " in line]
    assert done.returncode == 3 and "the token may not write there (HTTP 403); the run is whole in" in line
    assert TOKEN not in done.stdout + done.stderr and "finished" in json.loads((folder / "run.json").read_text())
    there = hub.repos["me/popd"]
    assert there["private"] and not there["files"]
    again = re.search(r"'python -m safeeraser\.report (.*)' sends it", line)[1].split()
    with at(hub.url):
        done = run("safeeraser.report", *again)
    assert done.returncode == 0 and there["files"].keys() == set(ADAPTER), done.stderr
    assert there["files"]["adapter_model.safetensors"] == (folder / "adapter_model.safetensors").read_bytes()
    assert b"**Not scored.**" in there["files"]["README.md"]
    assert not any(TOKEN.encode() in body or str(ROOT).encode() in body for *_, body in hub.requests)
    # The same command passes over the training, and sends the figures that there are by then.
    figure = {"value": 0.25, "low": 0.1, "high": 0.4, "n": 48}
    summary = {"split": "val", "asr": figure, "protocol": "corrected", "judge": "rules"}
    (folder / "summary_val.json").write_text(json.dumps(summary))
    done = forget(*words, "resume_from_checkpoint=auto", url=hub.url)
    assert done.returncode == 0 and "done before" in done.stderr, done.stderr
    assert "| ASR-Gen ↓ | val | 25.0 | 10.0–40.0 | 48 | rules | corrected |" in there["files"]["README.md"].decode()
    assert not any(TOKEN.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
def test_the_commands_of_the_page(hub, tmp_path):
    """docs/publishing.md, as they stand there, but for the model and for one step; a dry run asks nobody."""
    scored, training, again = re.findall(r"^ {4}(?:bash|python) (.*)$", PAGE, re.MULTILINE)
    script, *words = training.split()
    assert script == "scripts/forget_lora.bash"
    done = forget(*words, "dry_run=true", f"save_dir={tmp_path / 'run'}", url=hub.url)
    assert done.returncode == 0 and "me/popd (private): adapter_model.safetensors" in done.stderr, done.stderr
    assert not [path for _, path, *_ in hub.requests if path.startswith("/api")]
    shutil.copytree(trained(tmp_path / "one", *GIVEN), tmp_path / "results" / "llava-1.5-7b" / "popd")
    for line in (scored, again):
        program, module, *given = line.split()
        assert (program, module) == ("-m", "safeeraser.report")
        with at(hub.url):
            done = run("safeeraser.report", *given, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert hub.repos["me/popd"]["files"].keys() == set(ADAPTER) and hub.repos["me/popd"]["private"]
    keys = OmegaConf.load(ROOT / "config" / "forget_lora.yaml")
    assert {name for name in ADAPTER if f"`{name}`" not in PAGE} == set()
    assert all(key in keys and f"| `{key}` |" in PAGE for key in ("push_to_hub", "hub_model_id", "hub_private"))
