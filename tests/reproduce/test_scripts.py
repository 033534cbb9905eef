"""scripts/reproduce.bash and what calls it: variables become options, and a job array's task ends cleanly."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import ROOT

from safeeraser.reproduce.options import arguments, options_of

from .test_work import lines, prepare, until

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
CASES = yaml.safe_load((HERE / "cases.yaml").read_text())
# In place of Python: prints its words, one a line.
ENDS = "that was all\n"
TELLS = f'#!/bin/sh\nprintf "%s\\n" "$@" "{ENDS[:-1]}"\n'
# In place of Python: works on two runs of small steps, in the folder that --out names.
WORKS = f"""#!{sys.executable}
import sys
sys.path[:0] = {[str(ROOT), str(HERE), str(HERE.parent)]!r}
from test_work import finish
sys.exit(finish(sys.argv[sys.argv.index("--out") + 1], "po popd"))
"""
VARIABLES = ("MODEL", "METHODS", "SEED", "SEEDS", "JUDGE", "OUT", "JOBS", "PUBLISHED", "SPECIFICITY", "AUDIT")
VARIABLES += ("ACCELERATE_CONFIG", "SIZE", "LANGUAGE_MODEL")


@pytest.fixture
def checkout(tmp_path):
    """The scripts, with nothing to install and another program in Python's place."""
    shutil.copytree(ROOT / "scripts", tmp_path / "checkout" / "scripts")
    (tmp_path / "bin").mkdir()
    (tmp_path / "checkout/scripts/setup.bash").write_text(f'export PATH="{tmp_path}/bin:$PATH"\n')
    program(tmp_path / "checkout", TELLS)
    return tmp_path / "checkout"


def program(checkout, text, name="python"):
    file = checkout.parent / "bin" / name
    file.write_text(text)
    file.chmod(0o755)


def call(checkout, script, *words, **variables):
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    given, pipes = ["bash", f"scripts/{script}", *words], {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(given, cwd=checkout, env=environment | variables, text=True, **pipes)


@pytest.mark.parametrize(("script", "variables", "expected"), CASES["variables"])
def test_the_variables_are_options(checkout, script, variables, expected):
    out, err = call(checkout, f"{script}.bash", "--retry", **variables).communicate()
    told = out.split(ENDS)[-2].splitlines()  # the last call of Python
    assert told[:2] == ["-m", "safeeraser.reproduce"] and not err
    given = options_of(arguments(None).parse_args(told[2:]))
    as_yaml = json.dumps(vars(given), default=lambda of: sorted(of) if isinstance(of, frozenset) else str(of))
    assert expected.items() <= json.loads(as_yaml).items() and given.retry


@pytest.mark.parametrize(("script", "words", "given", "says"), CASES["scripts"])
def test_what_cannot_be_meant_is_refused_before_anything_is_installed(checkout, script, words, given, says):
    process = call(checkout, f"{script}.bash", *words, **given)
    out, err = process.communicate()
    assert process.returncode == 2 and not out and says in err and "secret" not in err


def test_an_audit_is_shared_by_as_many_processes_as_are_asked_for_and_then_told_in_the_report(checkout, tmp_path):
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    words = ("--checkpoint_path", "there", "--judge", "rules")
    out, _ = call(checkout, "audit.bash", *words, JOBS="2", PATH=path, CUDA_VISIBLE_DEVICES="").communicate()
    told = [text.splitlines() for text in out.split(ENDS)]
    assert told == [["audit.py", *words]] * 2 + [["-m", "safeeraser.report", "there"], []]


def test_a_task_whose_time_is_up_ends_cleanly_and_queues_again(checkout, tmp_path):
    program(checkout, WORKS)
    program(checkout, f'#!/bin/sh\necho "$@" > {tmp_path}/queued\n', "scontrol")
    out = tmp_path / "out"
    prepare(out)
    slurm = {"SLURM_JOB_ID": "71", "SLURM_ARRAY_JOB_ID": "71", "SLURM_ARRAY_TASK_ID": "0"}
    slurm |= {"SLURM_SUBMIT_DIR": str(checkout), "OUT": str(out), "MODEL": "mini"}
    task = call(checkout, "slurm/reproduce.sbatch", **slurm, PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
    until(lambda: (out / "po" / "began").exists())
    task.send_signal(signal.SIGTERM)
    assert task.wait(120) == 143 and (tmp_path / "queued").read_text() == "requeue 71\n"
    (out / "gate").touch()
    assert lines(out / "po" / "ended") == [], "what was at work was ended too"
    tasks = [call(checkout, "slurm/reproduce.sbatch", **slurm) for _ in range(2)]
    assert [each.wait(120) for each in tasks] == [0, 0]
    for name in ("po", "popd"):
        assert lines(out / name / "ended") == ["one", "two"], "the tasks share the runs"
