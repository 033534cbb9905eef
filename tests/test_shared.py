"""Code that all rooms share: command lines, the end of a command, the progress of a long run, and processes."""

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import read_beside, refusal

from safeeraser import arguments, progress
from safeeraser.arguments import Arguments
from safeeraser.errors import BadInput, Interrupted, command
from safeeraser.processes import Processes

REFUSED = read_beside(__file__, "shared.yaml")
WORDS = ["--file", "a b", "--views=retain, forget,retain", "--batch", "auto", "--size=2", "--share", "0.5", "--greedy"]
WORDS += ["--body", '{"a": [1]}', "--judge", "truth"]
READ = {"file": Path("a b"), "views": ("retain", "forget"), "batch": None, "size": 2, "share": 0.5, "greedy": True}
READ |= {"body": {"a": [1]}, "judge": "truth", "rate": None}
PLAIN = {"file": Path("x"), "views": None, "batch": 1, "size": 3, "share": None, "greedy": False, "body": None}
PLAIN |= {"judge": "rules", "rate": None}


def parser():
    made = Arguments(prog="made")
    made.add_argument("--file", type=Path, required=True)
    made.add_argument("--views", type=arguments.several("view", ("forget", "retain")))
    made.add_argument("--batch", type=arguments.count_or("auto"), default=1)
    made.add_argument("--size", type=arguments.count, default=3)
    made.add_argument("--share", type=arguments.share)
    made.add_argument("--body", type=arguments.json_object)
    made.add_argument("--judge", type=arguments.one_of("judge", ("rules", "truth")), default="rules")
    made.add_argument("--rate", type=float)
    made.add_argument("--greedy", action="store_true")
    return made


def test_words_and_keywords_are_read_alike():
    """A list equals words with commas between, and a dict equals JSON. A value that no word can express is kept."""
    assert vars(parser().parse_args(WORDS)) == READ and vars(parser().parse_args(["--file", "x"])) == PLAIN
    given = READ | {"views": ["retain", "forget"], "batch": "auto"}
    assert vars(parser().keywords(given)) == READ
    assert (
        vars(parser().keywords(PLAIN)) == PLAIN and vars(parser().keywords({"file": "x", "views": []}))["views"] == []
    )
    assert arguments.several("word")("b, a,b") == ("b", "a")
    with pytest.raises(BadInput, match="unknown option '--gredy'; did you mean '--greedy'"):
        parser().keywords({"file": "x", "gredy": False})


@pytest.mark.parametrize(("words", "says"), REFUSED)
def test_a_mistake_on_a_command_line_is_named_and_no_value_repeated(words, says):
    read = parser()
    if words.startswith("all"):  # a sub-command
        (read := Arguments()).add_subparsers().add_parser("all").add_argument("--deep")
        assert read.parse_args(["all", "--deep", "1"]).deep == "1"
    said = refusal(read.parse_args, words.split())
    assert says in said and "secret" not in said


@pytest.mark.parametrize(
    ("raised", "code", "says"),
    [
        (None, 0, ""),
        (BadInput("a file\n of two  lines"), 2, "error: a file of two lines\n"),
        (BadInput("Traceback\n  line 3\nsafeeraser.errors.BadInput: no file\n"), 2, "error: no file\n"),
        (OSError(errno.ENAMETOOLONG, "Too long", "nnn"), 2, "error: nnn: Too long\n"),
        (Interrupted("kept until here", 15), 143, "error: kept until here\n"),
        (KeyboardInterrupt(), 130, "error: interrupted; what was finished is kept\n"),
    ],
)
def test_how_a_command_ends(capsys, raised, code, says):
    def main(given, *, code=None):
        if given:
            raise given
        return code

    with pytest.raises(SystemExit) as end:
        command(main)(raised)
    assert (end.value.code, *capsys.readouterr()) == (code, "", says)
    with pytest.raises(SystemExit, match="3"):
        command(main)(None, code=3)
    with pytest.raises(PermissionError):
        command(main)(PermissionError(errno.EACCES, "Denied", "x"))


@pytest.mark.parametrize("terminal", [False, True])
def test_a_line_a_minute_in_a_file_a_bar_on_a_terminal_and_nothing_of_the_other_processes(
    capsys, monkeypatch, terminal
):
    """In a file, 60 of 120 responses after 80 s and 100 after 160 s are printed; 30 after half a minute are not."""
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    for name, value in ({"TTY_COMPATIBLE": "1", "TERM": "xterm", "COLUMNS": "100"} if terminal else {}).items():
        monkeypatch.setenv(name, value)
    for shown in (True, False):
        now[0] = 0.0
        with progress.progress("responses", 120, shown=shown, more=lambda: ", $1") as advance:
            for now[0], count in ((30.0, 30), (80.0, 30), (160.0, 40)):
                advance(count)
        out, err = capsys.readouterr()
        if terminal:
            assert all(each in err for each in ("responses", "100/120", "0.6/s, $1")) == shown == bool(err)
        else:
            lines = ["60 of 120 responses, 0.8 a second, $1, 0:01:20 left"]
            lines += ["100 of 120 responses, 0.6 a second, $1, 0:00:32 left"]
            assert err.splitlines() == lines * shown
        assert out == ""


def test_without_a_launcher_a_process_is_alone_and_each_has_a_gpu(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    alone = Processes.join()
    assert (alone, alone.main, alone.gather("a"), Processes(1, 2).main) == (Processes(0, 1), True, ["a"], False)
    assert progress.first_process() and alone.device == torch.device("cpu")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert not progress.first_process() and alone.device == torch.device("cuda", 1)
