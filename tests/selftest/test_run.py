"""The self-test as a user starts it: it passes on a CPU and finds attention that is a little off. A check that fails,
hangs or is killed does not harm the others."""

import json
import multiprocessing
import os
import subprocess
import sys

import pytest
import torch
from helpers import ROOT, read_beside, run
from torch.nn import functional

from safeeraser.selftest import run as module
from safeeraser.selftest.run import CHECKS, KIND, selftest
from safeeraser.selftest.training import compare, observe, off_by

pytestmark = pytest.mark.xdist_group("engines")

LAUNCHED = ("engines", "resume", "commands")  # they launch processes of their own
ALONE = tuple(name for name in CHECKS if name not in LAUNCHED)


@pytest.fixture
def forked(monkeypatch):
    """Run checks in a fork of this process. A spawned one, as in the nightly test, loads torch for half a minute."""
    monkeypatch.setattr("multiprocessing.get_context", lambda _, get=multiprocessing.get_context: get("fork"))


@pytest.mark.slow
def test_all_that_one_process_can_check_passes_and_is_told(tmp_path, monkeypatch, forked):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-to-be-told")
    done = run("safeeraser.selftest", f"--only={','.join(ALONE)}", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["selftest.json"]
    text = (tmp_path / "selftest.json").read_text()
    report = json.loads(text)
    assert {name: check["outcome"] for name, check in report["checks"].items()} == dict.fromkeys(ALONE, "pass")
    assert (report["size"], report["kind"]) == ("tiny", KIND)
    figures = {each["name"]: each for check in report["checks"].values() for each in check["figures"]}
    assert [name for name, each in figures.items() if each["value"] is None] == ["bfloat16, flash_attention_2"]
    rates = [each["value"] for each in figures.values() if each["unit"] == "tokens/s"]
    assert len(rates) == 2 and min(rates) > 0
    assert 0.95 <= figures["estimated over counted"]["value"] <= 1.1
    for number, name in enumerate(ALONE, 1):
        assert f"[{number}/{len(ALONE)}] {name}" in done.stdout
    assert not [secret for secret in ("sk-not", str(tmp_path), str(ROOT), "/tmp/", "/home/") if secret in text]


@pytest.mark.nightly
def test_every_engine_for_cpus_and_a_killed_run_pass(tmp_path):
    command = [sys.executable, "-m", "safeeraser.selftest", f"--only={','.join(LAUNCHED)}"]
    subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    text = (tmp_path / "selftest.json").read_text()
    engines, (went_on, differing), _ = (json.loads(text)["checks"][name]["figures"] for name in LAUNCHED)
    names = {each["name"].partition(":")[0] for each in engines}
    assert names == {f"{name}, 2 processes" for name in ("cpu_ddp", "cpu_zero2", "cpu_zero3")}
    assert all(0 < each["value"] < each["most"] for each in engines)
    assert 2 <= went_on["value"] < 6 and differing["value"] == 0


CASES = read_beside(__file__, "checks.yaml")
END = "its process ended with exit code"


@pytest.fixture
def make_up(tmp_path, monkeypatch, forked):
    """A function that replaces the real checks by made-up ones, given as name -> body."""

    def make(checks):
        package = tmp_path / "made_up_checks"
        package.mkdir()
        bodies = [f"\n\ndef {name}(bench):\n    {body}\n" for name, body in checks.items()]
        head = "import os\nimport subprocess\n\nfrom safeeraser.selftest.report import figure\n"
        (package / "made_up.py").write_text(head + "".join(bodies))
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(module, "ROOM", "made_up_checks")
        monkeypatch.setattr(module, "CHECKS", {name: ("made_up", f"what {name} does") for name in checks})

    return make


@pytest.mark.slow
def test_a_check_that_gives_no_figure_for_too_long_is_ended(make_up, tmp_path, monkeypatch):
    make_up(CASES["silent"])
    report = tmp_path / "report.json"
    monkeypatch.setattr(module, "PATIENCE", 20)
    assert selftest(None, ("waits",), report) == 1
    (check,) = json.loads(report.read_text())["checks"].values()
    assert (check["outcome"], [one["value"] for one in check["figures"]]) == ("fail", [1])
    assert "no figure came for 20 s" in check["error"]


def test_a_check_that_fails_leaves_the_others_alone(make_up, tmp_path, monkeypatch, capsys):
    make_up(CASES["made_up"])
    report = tmp_path / "report.json"
    assert selftest(None, tuple(CASES["made_up"]), report) == 1
    told = json.loads(report.read_text())
    checks = told["checks"]
    outcomes = {name: (each["outcome"], [one["value"] for one in each["figures"]]) for name, each in checks.items()}
    ended = {"wrong": ("fail", [3]), "skips": ("skipped", [None]), "crashes": ("fail", [1]), "raises": ("fail", [None])}
    assert outcomes == ended | {"good": ("pass", [1, 1])} and list(checks) == list(CASES["made_up"])
    assert (told["size"], checks["skips"]["figures"][0]["note"]) == ("tiny", "there is none")
    for name, words in (("raises", f"ValueError: it broke\n{END} 1"), ("crashes", f"the last words\n{END} -9")):
        assert checks[name]["error"].endswith(f"{words}; all that it said is in report.{name}.log")
        assert words.partition("\n")[0] in (tmp_path / f"report.{name}.log").read_text()
    assert "Python.h" in report.read_text() and "jane" not in report.read_text()
    shown = capsys.readouterr().out
    assert "ValueError: it broke" in shown and "the last words" in shown and "size tiny" in shown
    assert selftest("tiny", ("skips", "good"), report) == 0
    monkeypatch.setattr("safeeraser.selftest.material.write", lambda *_: os._exit(3))
    assert selftest(None, ("good", "wrong"), report) == 1
    assert all(f"{END} 3" in each["error"] for each in json.loads(report.read_text())["checks"].values())


@pytest.mark.slow
def test_fused_attention_whose_scale_is_a_little_off_fails(bench, monkeypatch):
    """Eager attention is held to theory alone, fused attention also to the distance of eager attention."""
    reference, off = observe(bench, dtype="float32", attention="eager"), off_by(torch.bfloat16, "tiny")
    right, eager = functional.scaled_dot_product_attention, observe(bench, dtype="bfloat16", attention="eager")
    assert all(figure["good"] for figure in compare("k", eager, reference, off))
    monkeypatch.setattr(functional, "scaled_dot_product_attention", lambda q, *a, **more: right(1.03 * q, *a, **more))
    found = compare("k", observe(bench, dtype="bfloat16", attention="sdpa"), reference, off, eager)
    assert {"k: gradient", "k: logits"} <= {figure["name"] for figure in found if not figure["good"]}
