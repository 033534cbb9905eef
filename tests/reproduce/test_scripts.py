"""scripts/reproduce.bash and the scripts around it: variables become options, and wrong ones are refused."""

import os
import shutil
import subprocess

import pytest
from door import arguments, plan_of
from helpers import ROOT, read_beside

pytestmark = pytest.mark.slow

CASES = read_beside(__file__, "cases.yaml")
# A program in place of Python prints its words, one a line, and `ENDS`.
ENDS = "that was all\n"
TELLS = f'#!/bin/sh\nprintf "%s\\n" "$@" "{ENDS[:-1]}"\n'
VARIABLES = ("MODEL", "METHODS", "SEED", "SEEDS", "JUDGE", "OUT", "JOBS", "PUBLISHED", "SPECIFICITY", "AUDIT")
VARIABLES += ("ACCELERATE_CONFIG", "SIZE", "LANGUAGE_MODEL", "PROFILE")


@pytest.fixture
def checkout(tmp_path):
    """A copy of the scripts that installs nothing, with another program in place of Python."""
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
    assert told[0] == "workflow/door.py" and not err
    given = arguments().parse_args(told[1:])
    assert expected.items() <= plan_of(given).model_dump(mode="json").items() and given.retry


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
