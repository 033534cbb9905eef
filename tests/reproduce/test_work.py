"""Runs taken through their steps by several processes, killed, stopped and gone on with: real commands, but small ones.

The commands are Python one-liners in place of training and inference, so that each takes as long as the test wants.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from safeeraser.reproduce.marks import is_held, read_mark
from safeeraser.reproduce.options import arguments, options_of
from safeeraser.reproduce.show import shortcomings, states
from safeeraser.reproduce.steps import Run, Step
from safeeraser.reproduce.work import Stopped, Worker, gpu_shares

pytestmark = pytest.mark.slow

# Notes that it was at work, waits until it may end, and notes that it was whole.
WORKS = """
import pathlib, sys, time
run, name, gate = pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
run.mkdir(parents=True, exist_ok=True)
with open(run / "began", "a") as file: print(name, file=file)
while not gate.exists(): time.sleep(0.02)
with open(run / "ended", "a") as file: print(name, file=file)
"""
# A process of its own that works on the runs of `work_in`.
WORKER = """
import sys
sys.path.insert(0, sys.argv[3])
from test_work import finish
sys.exit(finish(sys.argv[1], sys.argv[2]))
"""


@pytest.fixture
def options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("all_train.json", "all_val.json"):
        (tmp_path / "data" / name).write_text("[]")
    return options_in(tmp_path)


def options_in(folder, *words):
    given = arguments(None).parse_args(["--model=mini", f"--out={folder}", f"--data={folder}/data", "--jobs=1", *words])
    return options_of(given)


def works(name, gate):
    return Step(name, ("python", "-c", WORKS, "{run}", name, str(gate)))


def a_run(options, *steps, name="po"):
    return Run(name, name, 233, options.out / name, options.marks / name, steps)


def lines(file):
    return file.read_text().splitlines() if file.exists() else []


def until(there, seconds=30):
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.02)


def finish(folder, names):
    """What the processes of `start` do: two steps of each run."""
    options = options_in(folder)
    steps = (works("one", Path(folder, "gate")), works("two", Path(folder, "gate")))
    worker = Worker(options, [a_run(options, *steps, name=name) for name in names.split()])
    with worker.signals():
        try:
            worker.work()
        except Stopped:
            return 128 + worker.signal
    return 0


def start(folder, names):
    call = [sys.executable, "-c", WORKER, str(folder), names, str(Path(__file__).parent)]
    return subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_finished_steps_are_passed_over_and_a_run_may_be_moved(options, tmp_path):
    (tmp_path / "gate").touch()
    run = a_run(options, works("one", tmp_path / "gate"), works("two", tmp_path / "gate"))
    for _ in range(2):
        Worker(options, [run]).work()
    assert lines(run.folder / "ended") == ["one", "two"]
    mark = read_mark(run, run.steps[0])
    assert mark["exit_code"] == 0 and mark["command"][-3:] == ["{run}", "one", str(tmp_path / "gate")]
    (tmp_path / "moved").mkdir()
    for name in ("po", "steps"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    Worker(options, [replace(run, folder=tmp_path / "moved/po", marks=tmp_path / "moved/steps/po")]).work()
    assert lines(tmp_path / "moved/po/ended") == ["one", "two"]


def test_a_run_whose_folder_was_removed_is_done_anew(options, tmp_path):
    (tmp_path / "gate").touch()
    run = a_run(options, works("one", tmp_path / "gate"))
    Worker(options, [run]).work()
    shutil.rmtree(run.folder)
    Worker(options, [run]).work()
    assert lines(run.folder / "ended") == ["one"]


def test_what_rests_on_a_step_whose_mark_was_moved_away_is_done_anew(options, tmp_path):
    (tmp_path / "gate").touch()
    leaf = replace(works("leaf", tmp_path / "gate"), leaf=True)
    run = a_run(options, works("one", tmp_path / "gate"), leaf, works("two", tmp_path / "gate"))
    Worker(options, [run]).work()
    (run.marks / "leaf.json").unlink()
    Worker(options, [run]).work()
    assert lines(run.folder / "ended") == ["one", "leaf", "two", "leaf"]
    (run.marks / "one.json").unlink()
    Worker(options, [run]).work()
    assert lines(run.folder / "ended")[4:] == ["one", "leaf", "two"]


def test_what_was_finished_otherwise_is_refused_and_kept(options, tmp_path):
    (tmp_path / "gate").touch()
    run = a_run(options, works("one", tmp_path / "gate"))
    Worker(options, [run]).work()
    before = (run.marks / "one.json").read_bytes()
    changed = replace(run.steps[0], words=(*run.steps[0].words, "--seed=1"))
    worker = Worker(options, [replace(run, steps=(changed,))])
    worker.work()
    assert "one was finished with other words, and is now to be done with --seed=1" in worker.faults["po"]
    (options.data / "all_val.json").write_text("[1]")
    worker = Worker(options_in(tmp_path), [run])
    worker.work()
    assert "one was finished on other data (all_val.json)" in worker.faults["po"]
    assert (run.marks / "one.json").read_bytes() == before and lines(run.folder / "ended") == ["one"]


def test_a_failed_step_keeps_the_runs_later_ones_waiting_and_no_other_run(options, tmp_path):
    (tmp_path / "gate").touch()
    fails = Step("one", ("python", "-c", "import sys; print('error: too hot'); sys.exit(7)"))
    failing = a_run(options, fails, works("two", tmp_path / "gate"), name="ga")
    other = a_run(options, works("one", tmp_path / "gate"))
    worker = Worker(options, [failing, other])
    worker.work()
    assert states(failing) == {"one": "failed", "two": "waiting"} and states(other)["one"].endswith(" min")
    (said,) = shortcomings([failing, other])
    assert said == f"ga: one failed: too hot (log: {failing.marks / 'one.log'})"
    failures = (failing.marks / "one.log").read_text().count("too hot")
    worker.work()
    assert (failing.marks / "one.log").read_text().count("too hot") == failures == 1, "not by the same process again"
    mended = replace(failing, steps=(works("one", tmp_path / "gate"), failing.steps[1]))
    Worker(options, [mended]).work()
    assert lines(failing.folder / "ended") == ["one", "two"], "the next command goes on"


def test_what_lacks_something_stops_nothing_and_is_tried_again_when_asked(options, tmp_path):
    (tmp_path / "gate").touch()
    lacks = Step("one", ("python", "-c", f"import os, sys; sys.exit(0 if os.path.exists('{tmp_path}/there') else 3)"))
    run = a_run(options, lacks, works("two", tmp_path / "gate"))
    for words in ((), (), ("--retry",)):
        Worker(options_in(tmp_path, *words), [run]).work()
        assert read_mark(run, lacks)["exit_code"] == 3
    assert lines(run.folder / "ended") == ["two"] * 2, "what rests on it is done anew with it"
    (tmp_path / "there").touch()
    Worker(options_in(tmp_path, "--retry"), [run]).work()
    assert shortcomings([run]) == [] and len(lines(run.folder / "ended")) == 3


def test_a_launchers_exit_code_tells_nothing_where_the_result_is_there(options):
    script = "import sys, pathlib; run = pathlib.Path(sys.argv[1]); run.mkdir(); (run / 'p.json').touch(); sys.exit(1)"
    run = a_run(options, Step("infer_val", ("python", "-c", script, "{run}"), result="p.json"))
    Worker(options, [run]).work()
    assert read_mark(run, run.steps[0])["exit_code"] == 3


def test_what_a_launched_step_has_written_is_known_whatever_the_disks_clock_says(options):
    writes = "import os, sys; file = sys.argv[1] + '/p.json'; open(file, 'w'); os.utime(file, (9, 9)); sys.exit(1)"
    idles = "import sys; sys.exit(1)"
    for script, code in ((idles, 1), (writes, 3)):
        run = a_run(options, Step("infer_val", ("python", "-c", script, "{run}"), result="p.json"))
        run.folder.mkdir(exist_ok=True)
        Worker(options, [run]).work()
        assert read_mark(run, run.steps[0])["exit_code"] == code
    os.utime(run.folder / "p.json", (time.time() + 99,) * 2)  # of an earlier time, by a disk whose clock is ahead
    run = a_run(options, Step("infer_train", ("python", "-c", idles), result="p.json"))
    Worker(options, [run]).work()
    assert read_mark(run, run.steps[0])["exit_code"] == 1


def test_a_log_that_cannot_be_written_stops_its_run_alone(options, tmp_path):
    (tmp_path / "gate").touch()
    full, other = (a_run(options, works("one", tmp_path / "gate"), name=name) for name in ("ga", "po"))
    full.marks.mkdir(parents=True)
    (full.marks / "one.log").symlink_to("/dev/full")
    worker = Worker(options, [full, other])
    worker.work()
    assert worker.faults == {"ga": f"{full.marks / 'one.log'}: cannot be written (No space left on device)"}
    assert lines(other.folder / "ended") == ["one"]


def test_two_processes_share_the_runs_and_do_nothing_twice(options, tmp_path):
    names = "po popd ga"
    both = [start(tmp_path, names) for _ in range(2)]
    until(lambda: len(list(tmp_path.glob("*/began"))) == 2)  # each at a run of its own, until the gate opens
    held = [run for run in ("po", "popd", "ga") if is_held(options.marks / run)]
    assert held == ["po", "popd"]
    assert states(a_run(options, works("one", ""), works("two", "")))["one"] == f"running {os.uname().nodename}"
    (tmp_path / "gate").touch()
    assert [process.wait(60) for process in both] == [0, 0]
    for name in names.split():
        assert lines(tmp_path / name / "began") == lines(tmp_path / name / "ended") == ["one", "two"]
    assert any("another job is at it" in process.stdout.read() for process in both)


def test_what_a_killed_process_had_started_is_waited_for(options, tmp_path):
    first = start(tmp_path, "po")
    until(lambda: (tmp_path / "po" / "began").exists())
    first.kill()
    first.wait()
    assert is_held(options.marks / "po"), "by the command that was started"
    second = start(tmp_path, "po")
    until(lambda: "another job is at it" in second.stdout.readline())
    assert lines(tmp_path / "po" / "began") == ["one"]
    (tmp_path / "gate").touch()
    assert second.wait(60) == 0
    assert lines(tmp_path / "po" / "ended") == ["one", "one", "two"], "the real commands pass over what they finished"


@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGTERM))
def test_a_polite_end_takes_along_what_was_started(options, tmp_path, number):
    process = start(tmp_path, "po")
    until(lambda: (tmp_path / "po" / "began").exists())
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    assert not is_held(options.marks / "po") and not (options.marks / "po" / "one.json").exists()
    assert json.loads((options.marks / "po" / "now.json").read_text())["step"] == "one"


def test_jobs_share_the_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert gpu_shares(1) == [None] and gpu_shares(2) == ["4,6", "5,7"] and gpu_shares(5)[4] == "4"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_shares(3) == [None] * 3
