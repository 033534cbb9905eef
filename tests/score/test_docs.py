"""The commands of docs/scoring.md and docs/judging.md, run as they stand there."""

import csv
import re
import shlex

import pytest
from scoring import ROOT, predicted, record, run_eval, write_files

from safeeraser.score.label_sheet import LABEL

from .test_label_sheet import rows_of

PAGES = [(ROOT / "docs" / name).read_text() for name in ("scoring.md", "judging.md")]
COMMANDS = [re.findall(r"^ {4}python eval_all\.py (.*)$", page, re.MULTILINE) for page in PAGES]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the files that the page names."""
    records = [record(number) for number in range(3)]
    predictions, reference = write_files(tmp_path, records, [predicted(value) for value in records])
    (tmp_path / "dataset").mkdir()
    predictions.rename(tmp_path / "predictions_val.json")
    reference.rename(tmp_path / "dataset" / "all_val.json")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def label_sheet(folder):
    """What the page saves once somebody has labelled."""
    rows = rows_of(folder / "sheet_val.csv")
    with open(folder / "sheet_val_labels.csv", "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, LABEL, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(row | {"label": row["choices"].split(" / ")[n % 2]} for n, row in enumerate(rows))


@pytest.mark.parametrize("commands", COMMANDS, ids=("scoring", "judging"))
def test_every_command_runs_one_after_another(folder, serve, commands):
    server = serve(lambda *_: (200, {}, "Safety: Safe\nCategories: None\nRefusal: No"))
    assert commands
    for command in commands:
        if "--agree sheet_val_labels.csv" in command:
            label_sheet(folder)
        words = shlex.split(command.replace("http://localhost:8000/v1", server.url))
        done = run_eval(*words)
        short = "--check_judge" in words and "--dry_run" not in words  # the rules know no harm, and the page says so
        assert done.returncode == (3 if short else 0), (command, done.stderr)
        for option in ("--summary", "--output_file_rr", "--save_replies", "--label_sheet", "--disagreements"):
            if option in words and "--dry_run" not in words:
                assert (folder / words[words.index(option) + 1]).is_file()
    assert server.requests


def test_the_pages_name_every_option_there_is():
    page = "".join(PAGES)
    options = set(re.findall(r"(?<![\w-])--[a-z_]+", run_eval("--help").stdout)) - {
        "--help",
        "--split",
        "--category",
        "--price",
    }
    assert {option for option in options if option not in page} == set()
