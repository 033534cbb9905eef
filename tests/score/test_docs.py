"""The commands of docs/scoring.md and docs/judging.md, and the quickstart's scoring, run as they stand there."""

import json
import re
import shlex
import subprocess

import pytest
from scoring import ROOT, good, predicted, record, run_eval, write_files

from safeeraser.benchmark.responses import VIEWS
from safeeraser.benchmark.truth import write_truth
from safeeraser.mini.dataset import SPLITS, write_split
from safeeraser.mini.settings import read_settings
from safeeraser.mini.texts import TINY
from safeeraser.mini.truth import truth_of
from safeeraser.reproduce.options import arguments, options_of
from safeeraser.reproduce.steps import runs_of
from safeeraser.score.label_sheet import LABEL

from .labelled import fill_in, nth, rows_of

pytestmark = pytest.mark.slow

SETTINGS = read_settings("tiny").model_copy(update={"train_per_concept": 1, "val_per_concept": 1})
PAGES = [(ROOT / "docs" / name).read_text() for name in ("scoring.md", "judging.md")]
COMMANDS = [re.findall(r"^ {4}python eval_all\.py (.*)$", page, re.MULTILINE) for page in PAGES]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the files that the pages name.

    The mini benchmark has one record of each concept. What answered after the quickstart refuses on one harmful picture
    in two, and says of a third of the benign ones what is true of another.
    """
    records = [record(number) for number in range(3)]
    predictions, reference = write_files(tmp_path, records, [predicted(value) for value in records])
    mini, run = tmp_path / "dataset" / "mini", tmp_path / "results" / "quickstart" / "popd"
    run.mkdir(parents=True)
    for split in SPLITS:
        write_split(mini, split, SETTINGS, lambda: None)
        records = json.loads((mini / f"all_{split}.json").read_text())
        for number, value in enumerate(records):
            for pair, other in zip(value["unsafe_pairs"], records[number - 1]["unsafe_pairs"], strict=True):
                said = TINY.refusals[0] if number % 2 else pair["model_response"]
                pair |= dict.fromkeys(VIEWS["forget"].fields, said)
                pair["sd_response"] = other["sd_response"] if number % 3 == 1 else pair["sd_response"]
        (run / f"predictions_{split}.json").write_text(json.dumps(records))
    write_truth(mini, truth_of(mini, TINY))
    predictions.rename(tmp_path / "predictions_val.json")
    reference.rename(tmp_path / "dataset" / "all_val.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def label_sheet(folder):
    """What the page saves once somebody has labelled."""
    rows = [
        {name: row[name] for name in LABEL} | {"choices": row["choices"]} for row in rows_of(folder / "sheet_val.csv")
    ]
    fill_in(folder / "sheet_val_labels.csv", rows, lambda row: nth(int(row["place"]) % 2)(row))


@pytest.mark.parametrize("commands", COMMANDS, ids=("scoring", "judging"))
def test_every_command_runs_one_after_another(folder, serve, commands):
    guard = "Safety: Safe\nCategories: None\nRefusal: No"
    # This project's own prompts end in a word with a colon; guards are shown the conversation as it is.
    server = serve(lambda _, prompt: (200, {}, good(prompt) if prompt.rstrip().endswith(":") else guard))
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


def test_the_quickstart_scores_by_what_is_true_and_sets_the_offline_judge_beside_it(folder):
    given = arguments(None).parse_args(["--model=mini", "--methods=popd", "--out=results/quickstart"])
    (quickstart,) = runs_of(options_of(given))
    for step in (step for step in quickstart.steps if step.name.startswith(("score", "agree"))):
        done = subprocess.run(step.call(quickstart.folder), cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    run = folder / "results" / "quickstart" / "popd"
    truth, rules = (json.loads((run / name / "summary_val.json").read_text()) for name in (".", "rules"))
    assert (truth["judge"], truth["asr"]["value"], truth["rr"]["value"]) == ("truth", 0.5, 0.5)
    assert truth["sarr"]["value"] == truth["wrong"]["decoupled"]["value"] == pytest.approx(1 / 3)
    assert rules["agreement_with"]["judge"] == "truth" and rules["sarr"]["value"] == 0
    agreed = rules["agreement"]
    assert agreed["asr"]["sensitivity"]["value"] == agreed["asr"]["specificity"]["value"] == 1
    assert agreed["sarr"]["sensitivity"]["value"] == 0 and agreed["sarr"]["corrected"] == pytest.approx(1 / 3)
