"""Each command in the documents is accepted by its parser: all its words in a block, its options in a text."""

import copy
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest
from helpers import read_beside, run
from omegaconf import OmegaConf

from safeeraser.unlearn.config.read import read_settings
from safeeraser.unlearn.config.settings import Settings

from . import parsers
from .pages import PAGES, ROOT, Command, commands, spans

pytestmark = pytest.mark.slow

# The commands of these pages need files that the pages show. tests/test_developing.py runs them with these files.
SHOWN = ("docs/guides/add-a-method-a-family-a-judge.md", "safeeraser/README.md")
COMMANDS = [command for command in commands() if command.page not in SHOWN]
# The command that each script runs, and the words that it puts before the script's own, as (command, words).
WRAPPED = read_beside(__file__, "cases.yaml")["wrapped"]
ANYWHERE = {"OMP_NUM_THREADS", "OPENAI_API_KEY", "HF_TOKEN", "LMMS_PYTHON"}

parser_of = cache(parsers.parser_of)


@cache
def known_options(command: str) -> set[str]:
    """The names of a command's options."""
    every = [parser_of(command), *parsers.actions_of(parser_of(command)).values()]
    return {name for each in every for action in each._actions for name in action.option_strings}


def parse(command: str, words: list[str], short: bool) -> None:
    """Check the words that a command is given."""
    if command == "python forget.py":
        compose(words, short)
    elif short:
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known_options(command)
    else:
        copy.deepcopy(parser_of(command)).parse_args(words)


def compose(words: list[str], short: bool) -> None:
    """Compose the settings that the words ask for, and check them."""
    if short or "release.yaml" in words:  # the release's file, which unlearn/test_settings.py runs
        keys = {re.split(r"[.=]", word)[0] for word in words if re.match(r"\w+(\.\w+)*=", word)}
        assert keys <= Settings.model_fields.keys()
        return
    # No model is there whose family could be found out, so name one.
    if any(word.startswith("model_path=") or word == "mini" for word in words):
        words = ["model_family=llava-1.5-7b", *words]
    done = run("forget", *words, "--cfg", "job")
    assert done.returncode in (None, 0), done.stderr
    read_settings(OmegaConf.create(done.stdout))


def check_python(words: list[str], short: bool) -> None:
    """Check the words after `python`."""
    place = 2 if words[0] == "-m" else 1
    name, rest = " ".join(words[:place]), words[place:]
    if name.startswith(("benchmarks/", "scripts/")):  # they import neighbouring files, or take no options
        text = (ROOT / name).read_text()
        assert {word for word in rest if word.startswith("--") and f'"{word}"' not in text} == set()
        return
    parse(f"python {name}", rest, short)


def check_bash(script: str, words: list[str], short: bool) -> None:
    """Check the words after `bash`."""
    file = ROOT / script
    subprocess.run(["bash", "-n", str(file)], check=True)
    if file.name == "forget_lora.bash":
        compose(words, short)
    elif file.name in WRAPPED:
        command, before = WRAPPED[file.name]
        parse(command, before + words[file.name in ("eval.bash", "infer.bash") :], short)
    elif file.name != "test.bash":  # its words go to pytest
        own = words[: words.index("--")] if "--" in words else words  # words after -- go to Snakemake
        assert [word for word in own if word.partition("=")[0] not in reached(file)] == []


@cache
def reached(script: Path) -> str:
    """The text of a script, and the options of the commands that it runs."""
    text = script.read_text()
    called = re.findall(r"python (?:-m safeeraser[\w.]*|workflow/door.py)", text)
    return text + "".join(str(sorted(known_options(command))) for command in called)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.page}: {command.words}"[:90])
def test_the_parser_takes_it(command: Command):
    words = [word for word in command.words if word != "..."]
    if words[:2] == ["accelerate", "launch"] and words[2:]:
        assert words[2] == "--config_file" and ((command.short and words[3] == "FILE") or (ROOT / words[3]).is_file())
        words = ["python", *words[4:]]
    program, *rest = words
    if program == "pip":
        known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(re.findall(r"\.\[(\w+)\]", " ".join(rest))) <= known.keys()
    elif program == "python":
        check_python(rest, command.short)
    elif program == "bash":
        check_bash(rest[0], rest[1:], command.short)
        check_variables(command.variables, ROOT / rest[0])
    elif program == "export":
        check_variables(dict(word.split("=", 1) for word in rest), ROOT / "scripts/reproduce.bash")


def check_variables(variables: dict[str, str], script: Path) -> None:
    """Check that a script names the variables that are set before it."""
    text = script.read_text()
    if "reproduce.bash" in text:  # a wrapper
        text += (ROOT / "scripts" / "reproduce.bash").read_text()
    assert {name for name in variables if not re.search(rf"\b{name}\b", text)} <= ANYWHERE
    if engine := variables.get("ACCELERATE_CONFIG"):
        assert engine == "FILE" or (ROOT / engine).is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_and_keys_in_the_text_are_there(page):
    """Such as `--only` and `lr=1e-4`, in backquotes anywhere in a text."""
    every = set().union(*(known_options(command) for command in parsers.commands() if command != "python forget.py"))
    scripts = [file for folder in ("benchmarks", "scripts") for file in (ROOT / folder).rglob("*.*[hy]")]
    every |= {"--config-dir", "--config-name"}  # Hydra's
    every |= {option for file in scripts for option in re.findall(r"--[\w-]+", file.read_text())}
    for span in spans(page):
        if re.match(r"--[a-z]", span):
            assert re.split(r"[ =]", span)[0] in every, span
        elif key := re.match(r"([a-z]\w*)(\.[\w.]+)?=", span):
            assert key[1] in Settings.model_fields, span
