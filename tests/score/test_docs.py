"""The commands of docs/scoring.md, run as they stand there."""

import re
import shlex

import pytest
from scoring import ROOT, predicted, record, run_eval, write_files

COMMANDS = re.findall(r"^ {4}python eval_all\.py (.*)$", (ROOT / "docs" / "scoring.md").read_text(), re.MULTILINE)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the files that the page names."""
    records = [record(number) for number in range(3)]
    predictions, reference = write_files(tmp_path, records, [predicted(value) for value in records])
    (tmp_path / "dataset").mkdir()
    predictions.rename(tmp_path / "predictions_val.json")
    reference.rename(tmp_path / "dataset" / "all_val.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_runs_one_after_another(folder, serve):
    server = serve(lambda *_: (200, {}, "Safety: Safe\nCategories: None\nRefusal: No"))
    assert len(COMMANDS) >= 5
    for command in COMMANDS:
        words = shlex.split(command.replace("http://localhost:8000/v1", server.url))
        done = run_eval(*words)
        assert done.returncode == 0, (command, done.stderr)
        for option in ("--summary", "--output_file_rr", "--save_replies"):
            if option in words and "--dry_run" not in words:
                assert (folder / words[words.index(option) + 1]).is_file()
    assert server.requests


def test_the_page_names_every_option_there_is():
    page = (ROOT / "docs" / "scoring.md").read_text()
    options = set(re.findall(r"(?<![\w-])--[a-z_]+", run_eval("--help").stdout)) - {
        "--help",
        "--split",
        "--category",
        "--price",
    }
    assert {option for option in options if option not in page} == set()
