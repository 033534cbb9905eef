"""The self-test as a user starts it: on a CPU all passes, and the report tells nothing of whose machine it was."""

import json
import os
import subprocess
import sys

import pytest
from helpers import ROOT, alone

from safeeraser.selftest.run import CHECKS, KIND

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One run of all checks: what it said, and its report, whole and as text."""
    folder = tmp_path_factory.mktemp("Ada Lovelace")
    env = os.environ | {"PYTHONPATH": str(ROOT), "OPENAI_API_KEY": "sk-not-to-be-told"}
    command = [sys.executable, "-m", "safeeraser.selftest"]
    with alone():
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in folder.iterdir()] == ["selftest.json"]
    text = (folder / "selftest.json").read_text()
    return done, json.loads(text), text


def test_everything_passes(done):
    _, report, _ = done
    assert {name: check["outcome"] for name, check in report["checks"].items()} == dict.fromkeys(CHECKS, "pass")
    assert report["size"] == "tiny" and report["kind"] == KIND


def test_what_could_not_be_had_is_told(done):
    missing = {
        figure["name"]: figure["note"]
        for check in done[1]["checks"].values()
        for figure in check["figures"]
        if figure["value"] is None
    }
    assert missing == {"bfloat16, flash_attention_2": "flash-attn is not installed, or there is no GPU for it"}


def test_every_engine_for_cpus_has_trained(done):
    figures = {figure["name"].partition(":")[0]: figure for figure in done[1]["checks"]["engines"]["figures"]}
    assert set(figures) == {f"{name}, 2 processes" for name in ("cpu_ddp", "cpu_zero2", "cpu_zero3")}
    assert all(0 < figure["value"] < figure["most"] for figure in figures.values())


def test_the_run_that_went_on_had_been_killed(done):
    went_on, differing = done[1]["checks"]["resume"]["figures"]
    assert 2 <= went_on["value"] < 6 and differing["value"] == 0


def test_shares_are_of_what_was_measured_in_the_same_run(done):
    by_name = {figure["name"]: figure["value"] for figure in done[1]["checks"]["speed"]["figures"]}
    assert all(value > 0 for value in by_name.values())
    assert len([name for name in by_name if "share" in name]) == 2


def test_the_table_and_the_progress(done):
    shown, _, _ = done
    assert "Self-test, size tiny" in shown.stdout and "selftest.json" in shown.stderr
    for number, name in enumerate(CHECKS, 1):
        assert name in shown.stdout and f"[{number}/{len(CHECKS)}] {name}" in shown.stderr


def test_the_report_tells_of_the_machine_and_of_nobody(done):
    _, report, text = done
    assert report["versions"]["torch"] and report["cpu"] and report["cores"] and report["gpus"] == []
    for secret in ("sk-not", "Lovelace", str(ROOT), "/tmp/", "/home/"):
        assert secret not in text
