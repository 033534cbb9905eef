"""The commands of docs/guides/score-and-judge.md, run as they are written there."""

import re
import shlex

import pytest
from scoring import ROOT, good, predicted, record, run_eval, write_files

from safeeraser.score.labels import LABEL

from .labelled import fill_in, nth, rows_of

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "guides" / "score-and-judge.md").read_text()
COMMANDS = re.findall(r"^ {4}python eval_all\.py (.*)$", PAGE, re.MULTILINE)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the files that the guide names."""
    for folder in ("dataset", "results"):
        (tmp_path / folder).mkdir()
    for category, answers, asked in (("answer", "results/xstest", "xstest"), ("Violence", "predictions_val", "all")):
        records = [record(number) | {"category": category} for number in range(3)]
        predictions, reference = write_files(tmp_path, records, [predicted(value) for value in records])
        predictions.rename(tmp_path / f"{answers}.json")
        reference.rename(tmp_path / "dataset" / f"{asked}_val.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_runs_one_after_another(folder, serve):
    guard = "Safety: Safe\nCategories: None\nRefusal: No"
    # This project's own prompts end in a word with a colon; guards are shown the conversation as it is.
    server = serve(lambda _, prompt: (200, {}, good(prompt) if prompt.rstrip().endswith(":") else guard))
    for command in COMMANDS:
        if "--agree sheet_val_labels.csv" in command:
            rows = rows_of(folder / "sheet_val.csv")
            rows = [{name: row[name] for name in (*LABEL, "choices")} for row in rows]  # as the HTML page saves them
            fill_in(folder / "sheet_val_labels.csv", rows, lambda row: nth(int(row["place"]) % 2)(row))
        words = shlex.split(command.replace("http://localhost:8000/v1", server.url))
        done = run_eval(*words)
        short = "--check_judge" in words and "--dry_run" not in words  # the rules do not recognise harm, see the guide
        assert done.returncode == (3 if short else 0), (command, done.stderr)
        for option in ("--summary", "--output_file_rr", "--save_replies", "--label_sheet", "--disagreements"):
            if option in words and "--dry_run" not in words:
                assert (folder / words[words.index(option) + 1]).is_file()
    assert server.requests
