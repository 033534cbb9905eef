"""Runs are taken through their steps once, by one process or several, and resume after a kill.

The commands are Python one-liners in place of training and inference, so that each takes as long as the test wants.
"""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from safeeraser.reproduce.check import jobs_at_fault
from safeeraser.reproduce.marks import is_held, read_mark
from safeeraser.reproduce.options import arguments, options_of
from safeeraser.reproduce.show import shortcomings, states
from safeeraser.reproduce.steps import Run, Step
from safeeraser.reproduce.work import Stopped, Worker

# Notes that it was at work, waits until it may end, and notes that it was whole.
WORKS = """
import pathlib, sys, time
run, name, gate = pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
run.mkdir(parents=True, exist_ok=True)
with open(run / "began", "a") as file: print(name, file=file)
while not gate.exists(): time.sleep(0.02)
with open(run / "ended", "a") as file: print(name, file=file)
"""
WORKER = "import sys; sys.path.insert(0, sys.argv[3]); from test_work import finish; sys.exit(finish(*sys.argv[1:3]))"


def prepare(folder):
    """The data that runs in a folder are made of."""
    (folder / "data").mkdir(parents=True)
    for name in ("all_train.json", "all_val.json"):
        (folder / "data" / name).write_text("[]")


def options_in(folder, *words):
    given = arguments(None).parse_args(["--model=mini", f"--out={folder}", f"--data={folder}/data", "--jobs=1", *words])
    return options_of(given)


def works(name, folder):
    return Step(name, ("python", "-c", WORKS, "{run}", name, str(folder / "gate")))


def a_run(options, *steps, name="po"):
    return Run(name, name, 233, options.out / name, options.marks / name, steps)


def lines(file):
    return file.read_text().splitlines() if file.exists() else []


def until(there, seconds=120):
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.02)


def finish(folder, names):
    """What the processes of `start` do: two steps of each run."""
    options, folder = options_in(folder), Path(folder)
    steps = (works("one", folder), works("two", folder))
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


@pytest.fixture
def options(tmp_path):
    prepare(tmp_path)
    (tmp_path / "gate").touch()
    return options_in(tmp_path)


def test_finished_steps_are_passed_over_and_done_anew_with_what_they_rest_on(options, tmp_path):
    leaf = replace(works("leaf", tmp_path), leaf=True)
    run = a_run(options, works("one", tmp_path), leaf, works("two", tmp_path))
    for _ in range(2):
        Worker(options, [run]).work()
    assert lines(run.folder / "ended") == ["one", "leaf", "two"]
    mark = read_mark(run, run.steps[0])
    assert mark["exit_code"] == 0 and mark["command"][-3:] == ["{run}", "one", str(tmp_path / "gate")]
    for gone, again in (("leaf", ["leaf"]), ("one", ["one", "leaf", "two"])):
        (run.folder / "ended").unlink()
        (run.marks / f"{gone}.json").unlink()
        Worker(options, [run]).work()
        assert lines(run.folder / "ended") == again
    (tmp_path / "moved").mkdir()
    for name in ("po", "steps"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    Worker(options, [replace(run, folder=tmp_path / "moved/po", marks=tmp_path / "moved/steps/po")]).work()
    assert lines(tmp_path / "moved/po/ended") == ["one", "leaf", "two"], "results may be moved"


def test_a_failed_step_keeps_the_runs_later_ones_waiting_and_no_other_run(options, tmp_path):
    fails = Step("one", ("python", "-c", "import sys; print('error: too hot'); sys.exit(7)"))
    failing, other = a_run(options, fails, works("two", tmp_path), name="ga"), a_run(options, works("one", tmp_path))
    worker = Worker(options, [failing, other])
    for _ in range(2):
        worker.work()
    assert states(failing) == {"one": "failed", "two": "waiting"} and states(other)["one"].endswith(" min")
    assert shortcomings([failing, other]) == [f"ga: one failed: too hot (log: {failing.marks / 'one.log'})"]
    assert (failing.marks / "one.log").read_text().count("too hot") == 1, "not by the same process again"
    Worker(options, [replace(failing, steps=(works("one", tmp_path), failing.steps[1]))]).work()
    assert lines(failing.folder / "ended") == ["one", "two"], "the next command goes on"


def test_what_lacks_something_stops_nothing_and_is_tried_again_when_asked(options, tmp_path):
    lacks = Step("one", ("python", "-c", f"import os, sys; sys.exit(0 if os.path.exists('{tmp_path}/there') else 3)"))
    run = a_run(options, lacks, works("two", tmp_path))
    for words in ((), (), ("--retry",)):
        Worker(options_in(tmp_path, *words), [run]).work()
        assert read_mark(run, lacks)["exit_code"] == 3 and states(run)["one"].startswith("lacking ")
    assert lines(run.folder / "ended") == ["two"] * 2, "what rests on it is done anew with it"
    (tmp_path / "there").touch()
    Worker(options_in(tmp_path, "--retry"), [run]).work()
    assert shortcomings([run]) == [] and len(lines(run.folder / "ended")) == 3


def test_jobs_of_one_command_share_the_gpus_and_what_breaks_one_run_breaks_no_other(options, tmp_path, monkeypatch):
    """The GPUs are divided by as many as have a run."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    tells = Step("one", ("python", "-c", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"))
    odd = Step("one", ("python", None))
    runs = [a_run(options, step, name=name) for name, step in (("po", tells), ("odd", odd))]
    (engine := tmp_path / "engine.yaml").write_text("num_processes: 3")
    (fault,) = jobs_at_fault(replace(options, jobs=4, engine=engine), runs)
    assert fault.startswith("--jobs 2: a job would have 2 of the GPUs")
    (worker := Worker(replace(options, jobs=4), runs)).work()
    assert lines(runs[0].marks / "one.log")[-1] in ("0,2", "1,3") and "Error" in worker.faults["odd"]


@pytest.mark.slow
def test_processes_share_the_runs_and_what_a_killed_one_had_started_is_waited_for(tmp_path):
    prepare(tmp_path)
    options = options_in(tmp_path)
    first, second = (start(tmp_path, "po popd") for _ in range(2))
    until(lambda: len(list(tmp_path.glob("*/began"))) == 2)  # each at a run of its own, until the gate opens
    first.kill()
    first.wait()
    assert is_held(options.marks / "po") and is_held(options.marks / "popd"), "by the commands that were started"
    third = start(tmp_path, "po popd")
    until(lambda: "another job is at it" in third.stdout.readline())
    (tmp_path / "gate").touch()
    assert [process.wait(120) for process in (second, third)] == [0, 0]
    ended = [lines(tmp_path / name / "ended") for name in ("po", "popd")]
    assert sorted(ended, key=len) == [["one", "two"], ["one", "one", "two"]]
