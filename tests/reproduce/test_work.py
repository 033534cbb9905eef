"""The steps that scripts/reproduce.bash runs by Snakemake: none twice, failures, kills, shared GPUs, and Slurm.

The commands are stand-ins (stand_in.sh) that end when and how a test says. The door and Snakemake are the real ones.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml
from helpers import MODEL, ROOT, TRAIN, kill, read_beside, until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("engines")]

HERE = Path(__file__).parent
PAGE = read_beside(__file__, "page.yaml") | {"steps": [], "specificity": "", "data": str(TRAIN.parent)}
PROGRAMS = read_beside(__file__, "programs.yaml")
STEPS = ["unlearn", "predictions_train", "predictions_val", "summary_train", "summary_val"]


class Place:
    """A folder with results in `out`, a `python` of its own, and files that say when and how the stand-ins end."""

    def __init__(self, folder, other):
        self.folder, self.out, self.started = folder, folder / "out", []
        shutil.copy(HERE / "stand_in.sh", folder)
        (folder / "page.yaml").write_text(yaml.safe_dump(PAGE))
        self.other = other
        self.have("python")

    def have(self, *names):
        (self.folder / "bin").mkdir(exist_ok=True)
        for name in names:
            text = PROGRAMS[name].replace("PLACE", str(self.folder)).replace("OTHER", str(self.other))
            (self.folder / "bin" / name).write_text(text)
            (self.folder / "bin" / name).chmod(0o755)

    def start(self, *words, methods="po", **more):
        call = [sys.executable, ROOT / "workflow" / "door.py", "--model=mini", f"--settings={self.folder}/page.yaml"]
        call += [f"--methods={methods}", f"--out={self.out}", f"--model_path={MODEL}", *words]
        path = f"{self.folder}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
        env = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""} | more
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.started.append(subprocess.Popen([*map(str, call)], env=env, cwd=self.folder, **pipes))
        return self.started[-1]

    def finish(self, *words, **more):
        self.open()
        process = self.start(*words, **more)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def open(self):
        (self.folder / "gate").touch()

    def did(self, run, what="ended"):
        file = self.out / run / what
        return file.read_text().split() if file.exists() else []


@pytest.fixture
def make(tmp_path):
    """A function that makes a `Place`. Processes that a failed test has left there are killed."""
    yield lambda python: Place(tmp_path, python)
    for each in psutil.process_iter(["cmdline"]):
        if any(str(tmp_path) in word for word in each.info["cmdline"] or ()):
            kill(each.pid)


@pytest.fixture
def place(make, forks):
    """A place whose `python` is a fork that has libraries loaded already."""
    return make(forks.python)


@pytest.fixture
def real(make):
    """A place with the real Python, which starts anew for each process."""
    return make(sys.executable)


def test_finished_steps_are_passed_over_and_done_anew_with_what_rests_on_them(place):
    assert [place.finish().returncode for _ in range(2)] == [0, 0]
    assert sorted(place.did("po")) == sorted(STEPS) and (place.out / "began").read_text() == "report\n" * 2
    mark = json.loads((place.out / "steps/po/infer_val.done").read_text())
    assert mark["exit_code"] == 0 and f"--output_file={place.out}/po/predictions_val.json" in mark["command"]
    (place.out / "steps/po/infer_val.done").unlink()
    place.out = place.out.rename(place.folder / "moved")  # results may be moved
    log = place.out / "steps/po/infer_val.log"
    watcher = subprocess.Popen(["tail", "-f", log], stdout=subprocess.DEVNULL)  # a reader is not waited for
    assert place.finish().returncode == 0
    assert place.did("po")[len(STEPS) :] == ["predictions_val", "summary_val"] and watcher.poll() is None
    watcher.kill()
    shutil.rmtree(place.out / "po")
    assert place.finish().returncode == 0 and sorted(place.did("po")) == sorted(STEPS)
    free = place.finish("--infer_options=--batch_size=3")
    assert free.returncode == 0 and sorted(place.did("po")) == sorted(STEPS), "it changes no response"
    again = place.finish("--forget_options=lr=1")
    assert again.returncode == 0 and sorted(place.did("po")) == sorted(STEPS * 2)
    assert again.stdout.startswith("again, since its options or data have changed: steps/po/unlearn.done\n")


def test_a_failed_step_is_named_and_tried_again_and_what_lacks_something_stops_nothing(place):
    (place.folder / "ga-unlearn").write_text("1")
    (place.folder / "po-summary_val").write_text("3")
    done = place.finish(methods="ga po")
    assert done.returncode == 1 and place.did("ga") == [] and sorted(place.did("po")) == sorted(STEPS[:4])
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    logs = [place.out / "steps" / name for name in ("ga/unlearn.log", "po/score_val.log")]
    assert errors[0] == f"error: ga: unlearn failed: too hot, of unlearn (log: {logs[0]})"
    assert errors[1].startswith("error: po: score_val lacks something: ") and str(logs[1]) in errors[1]
    assert place.did("", "began") == ["report"], "of what has been scored"
    (place.folder / "ga-unlearn").unlink()
    assert place.finish(methods="ga po").returncode == 3 and sorted(place.did("ga")) == sorted(STEPS)
    (place.folder / "po-summary_val").unlink()
    assert place.finish(methods="ga po").returncode == 3, "it is not tried again unasked"
    assert place.finish("--retry", methods="ga po").returncode == 0 and len(place.did("po")) == len(STEPS)


NIGHTLY = [pytest.param(what, marks=pytest.mark.nightly) for what in ("snakemake", "")]


@pytest.mark.parametrize("what", ["door.py", *NIGHTLY])
def test_killed_it_goes_on_where_it_was(make, forks, what):
    """Kill the door, Snakemake too, or all. The next start waits for processes that are left; no step runs twice."""
    place = make(forks.python if what == "door.py" else sys.executable)
    process = place.start()
    for waiting, ready in (("unlearn", "-unlearn"), ("predictions_train", "")):
        until(lambda: waiting in place.did("po", "began"))  # noqa: B023 -- at once
        for each in family(process, what, "door.py"):
            with suppress(psutil.NoSuchProcess):  # it ends by itself if the process that it waits for is killed first
                each.kill()
        process.wait()  # its children may hold its output open
        process = place.start()
        if what:
            assert any("waiting: a killed command has left processes" in line for line in process.stdout)
        (place.folder / f"gate{ready}").touch()
    assert process.communicate(timeout=120) and process.returncode == 0
    assert sorted(place.did("po")) == sorted(STEPS) and place.did("", "began") == ["report"] * (1 + (what == "door.py"))


def family(process, *names):
    """The living among a process and its descendants whose command lines contain one of `names`."""
    every = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    alive = [each for each in every if each.status() != psutil.STATUS_ZOMBIE]
    return [each for each in alive if any(name in " ".join(each.cmdline()[:4]) for name in names)]


def test_a_second_start_is_refused_and_a_signal_ends_all_that_was_started(real):
    first = real.start()
    until(lambda: real.did("po", "began"))
    second = real.start()
    _, err = second.communicate(timeout=60)
    assert second.returncode == 2 and err.strip().splitlines() == [
        f"error: {real.out}: another run is at work there; wait for it, or end its processes"
    ]
    started = family(first, "")
    first.send_signal(signal.SIGTERM)
    _, err = first.communicate(timeout=60)
    assert first.returncode == 143 and "the same command resumes" in err
    assert not psutil.wait_procs(started, timeout=5)[1]
    assert real.did("po") == [] and real.finish().returncode == 0 and sorted(real.did("po")) == sorted(STEPS)


def test_steps_share_the_gpus_and_no_secret_is_written(place):
    (place.folder / "engine.yaml").write_text("num_processes: 2")
    process = place.start("--jobs=2", methods="ga po", CUDA_VISIBLE_DEVICES="0,1,2,3", OPENAI_API_KEY="sk-secret")
    until(lambda: place.did("ga", "began") and place.did("po", "began"))
    place.open()
    assert process.wait(120) == 0
    logs = [(place.out / "steps" / run / "unlearn.log").read_text().splitlines()[-1] for run in ("ga", "po")]
    assert sorted(logs) == ["GPUs 0,1 1", "GPUs 2,3 1"]
    files = [path for path in place.out.rglob("*") if path.is_file()]
    assert len(files) > 10 and not [path for path in files if b"sk-secret" in path.read_bytes()]
    refused = place.finish("--jobs=2", f"--accelerate_config={place.folder}/engine.yaml", CUDA_VISIBLE_DEVICES="0")
    assert refused.returncode == 2 and "needs 2 GPUs, and here are 1" in refused.stderr


@pytest.mark.nightly
def test_slurm_is_handed_each_step_as_a_job(real):
    """Stand-ins for Slurm's programs run the jobs at once, on this machine."""
    real.have(*PROGRAMS)
    soon = ("--seconds-between-status-checks=1", "--slurm-init-seconds-before-status-checks=1", "--latency-wait=5")
    done = real.finish("--profile=slurm", "--", *soon)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(real.did("po")) == sorted(STEPS)
    asked = (real.folder / "jobs").read_text().splitlines()
    assert len(asked) == len(STEPS) and all("--mem 64000" in job for job in asked)
    assert sum("--gpus=1" in job for job in asked) == len(["unlearn", "infer_train", "infer_val"])
