"""The command line: mistakes are one line before anything is loaded, and a check that fails leaves the others alone."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from helpers import write_json

from safeeraser.selftest import run
from safeeraser.selftest.__main__ import main, parser
from safeeraser.selftest.run import KIND, Options, examine, selftest

pytestmark = pytest.mark.slow

MADE_UP = {
    "good": "yield Figure('one', 1.0, most=2.0)",
    "raises": "yield Figure('one', 1.0, most=2.0)\n    raise ValueError('it broke')",
    "crashes": "yield Figure('one', 1.0)\n    print('the last words', flush=True)\n    os.kill(os.getpid(), 9)",
    "skips": "yield from ()\n    raise Skip('there is none')",
    "wrong": "yield Figure('one', 3.0, most=2.0)",
}


@pytest.fixture
def checks(tmp_path, monkeypatch):
    """Checks that are no checks, in a package of their own."""
    package = tmp_path / "made_up_checks"
    package.mkdir()
    (package / "__init__.py").touch()
    for name, body in MADE_UP.items():
        head = "import os\nfrom safeeraser.selftest.result import Figure, Skip\n\n\ndef check(bench):\n"
        (package / f"{name}.py").write_text(f"{head}    {body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(run, "ROOM", "made_up_checks")
    monkeypatch.setattr(run, "CHECKS", {name: f"what {name} does" for name in MADE_UP})
    return tuple(MADE_UP)


def test_a_check_that_fails_leaves_the_others_alone(checks, tmp_path, capsys):
    report = tmp_path / "report.json"
    assert selftest(Options(None, ("raises", "good", "crashes", "skips", "wrong"), report)) == 1
    told = json.loads(report.read_text())["checks"]
    outcomes = {name: check["outcome"] for name, check in told.items()}
    assert outcomes == {"raises": "fail", "good": "pass", "crashes": "fail", "skips": "skipped", "wrong": "fail"}
    assert told["raises"]["error"].endswith("ValueError: it broke")
    assert told["crashes"]["error"].endswith("the last words\nits process ended with exit code -9")
    assert told["skips"]["skipped"] == "there is none" and len(told["crashes"]["figures"]) == 1
    shown = capsys.readouterr().out
    assert "ValueError: it broke" in shown and "the last words" in shown


def test_a_note_tells_no_folder_either(checks, tmp_path, monkeypatch):
    noted = "from safeeraser.selftest.result import Figure\n\n\ndef check(bench):\n"
    noted += "    yield Figure('one', None, note='missing: headers (/home/jane/include/Python.h)')\n"
    (tmp_path / "made_up_checks" / "noted.py").write_text(noted)
    monkeypatch.setitem(run.CHECKS, "noted", "what is lacking")
    assert selftest(Options("tiny", ("noted",), tmp_path / "report.json")) == 0
    told = (tmp_path / "report.json").read_text()
    assert "Python.h" in told and "jane" not in told


def test_without_a_failure_the_exit_code_is_0(checks, tmp_path):
    assert selftest(Options("tiny", ("good", "skips"), tmp_path / "report.json")) == 0


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGHUP))
def test_a_polite_end_leaves_nothing_behind(tmp_path, number):
    (tmp_path / "temporary").mkdir()
    call = [sys.executable, "-m", "safeeraser.selftest", "--only=nf4", f"--json={tmp_path}/report.json"]
    process = subprocess.Popen(call, env=os.environ | {"TMPDIR": f"{tmp_path}/temporary"})
    until = time.monotonic() + 60
    while not list(tmp_path.glob("temporary/*/process-0.log")):  # from here on its own process is at work
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    (worker,) = (each for each in psutil.Process(process.pid).children() if "spawn_main" in " ".join(each.cmdline()))
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    assert not worker.is_running() and not list((tmp_path / "temporary").iterdir())


def test_a_size_that_does_not_fit_is_refused(checks, tmp_path):
    with pytest.raises(run.BadInput, match="--size 7b: "):
        examine(("good",), "7b", tmp_path)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--size", "8b"], "unknown size '8b'; did you mean '7b'?"),
        (["--only", "speed,engine"], "unknown check 'engine'; did you mean 'engines'?"),
        (["--jsn", "x"], "unknown option '--jsn'; did you mean '--json'?"),
        (["--json", "other.json"], "--json other.json: holds something else than an earlier self-test"),
        (["--json", "."], "it is a folder"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "other.json", {"mine": 1})
    monkeypatch.setattr(sys, "argv", ["selftest", *words])
    monkeypatch.setattr("signal.signal", lambda *_: None)  # of this process, which goes on
    with pytest.raises(SystemExit) as stop:
        main()
    told = capsys.readouterr().err
    assert stop.value.code == 2 and told.startswith("error: ") and says in told and told.count("\n") == 1
    assert json.loads((tmp_path / "other.json").read_text()) == {"mine": 1}


def test_an_earlier_report_may_be_replaced_and_a_folder_is_made(tmp_path):
    """Looking changes no report: that is done when there is a new one."""
    earlier = write_json(tmp_path / "report.json", {"kind": KIND})
    before = earlier.read_bytes()
    run.check_report(earlier)
    run.check_report(tmp_path / "new" / "report.json")
    assert earlier.read_bytes() == before and list((tmp_path / "new").iterdir()) == []
    write_json(earlier, {"kind": "other"})
    with pytest.raises(run.BadInput, match="holds something else than an earlier self-test"):
        run.check_report(earlier)


def test_the_options_have_help():
    told = parser().format_help()
    assert all(f"{name}" in told for name in run.CHECKS) and "--size" in told and "(default: selftest.json)" in told
