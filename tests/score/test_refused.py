"""A user's mistakes: exit code 2, one line that names the mistake and no key, and nothing written or replaced."""

import json
import shlex

import helpers
import pytest
from helpers import read_beside
from scoring import KEY, predicted, record, run_eval, write_files

REFUSALS = read_beside(__file__, "refusals.yaml")
RECORDS = [record(0), record(1, "Violence")]
PREDICTED = [predicted(value) for value in RECORDS]
NOWHERE = ("--base_url", "http://127.0.0.1:9/v1", "--api_key", KEY)
RULES = ("--judge", "rules")


@pytest.fixture
def given(tmp_path, monkeypatch):
    """The options for two records, in a working directory with their files."""
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path, RECORDS, PREDICTED)
    out = ("--output_file_rr", "v.json", "--summary", "s.json", "--store", "store/verdicts.jsonl")
    return ("--input_file", "predictions.json", "--file_refer", "all_val.json", *out)


def refused(folder, *words, says):
    assert KEY not in helpers.refused(folder, "eval_all", *words, cwd=folder, says=says)


@pytest.mark.parametrize("words, says", REFUSALS.items())
def test_options_that_cannot_be_meant(tmp_path, given, words, says):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "cut.json").write_text(json.dumps(PREDICTED)[:-40])
    for name in ("mine", "mine_val", "train_val"):
        (tmp_path / f"{name}.json").write_text(json.dumps(RECORDS))
    refused(tmp_path, *given, *shlex.split(words.replace("KEY", KEY)), says=says)


def broken(place, key, value):
    """The predictions with another value in the second record."""
    found = json.loads(json.dumps(PREDICTED))
    (found[1]["unsafe_pairs"][place] if place is not None else found[1])[key] = value
    return found


CORRECTED = (*RULES, "--protocol", "corrected")


@pytest.mark.parametrize(
    "records, values, words, says",
    [
        (RECORDS, PREDICTED[:1], RULES, "predictions.json has 1 records, all_val.json has 2"),
        (RECORDS, broken(None, "image_path", "x.jpg"), CORRECTED, "in the predictions: x.jpg; only in the reference"),
        (RECORDS, broken(2, "model_response3", ["a"]), RULES, "1, unsafe_pairs.2.model_response3: must be a text"),
        (RECORDS, broken(2, "sd_response", "a \ud800"), RULES, "unsafe_pairs.2.sd_response: holds half a character"),
        ([record(0, "Cooking")], [predicted(record(0, "Cooking"))], NOWHERE, "no judge prompt for category 'Cooking'"),
    ],
)  # fmt: skip
def test_files_that_do_not_belong_together(tmp_path, given, records, values, words, says):
    write_files(tmp_path, records, values)
    refused(tmp_path, *given, *words, says=says)


@pytest.mark.parametrize("place", ["v.json", "v.txt", "s.json", "r.json"])
def test_a_file_that_no_scoring_run_wrote_is_not_replaced(tmp_path, given, place):
    """It may hold the predictions of another model, which take hours to make."""
    given = (*given, *RULES, "--save_replies", "r.json")
    for content in ("my notes", '[{"a": 1}]', '{"asr": 1}', json.dumps(PREDICTED)):
        (tmp_path / place).write_text(content)
        refused(tmp_path, *given, says=f"{place}: exists, and no earlier run of this command wrote it; --overwrite")
    run = run_eval(*given, "--overwrite")
    assert run.returncode == 0 and (tmp_path / place).read_text() != content
    assert run_eval(*given).returncode == 0, "what an earlier run wrote is replaced"


def test_corrected_pairs_by_picture_and_official_by_position_with_a_note(tmp_path, given):
    write_files(tmp_path, RECORDS, PREDICTED[::-1])
    values = []
    for protocol in ("corrected", "official"):
        run = run_eval(*given, *RULES, "--protocol", protocol, "--overwrite")
        assert ("2 of 2 records name another picture" in run.stderr) == (protocol == "official")
        values.append(json.loads((tmp_path / "s.json").read_text())["rouge_l"]["value"])
    assert values[0] == 1.0 > values[1], "each Prediction is its own reference"


def test_figures_of_another_judge_or_protocol_are_not_replaced(tmp_path, given):
    assert run_eval(*given, *RULES).returncode == 0
    refused(tmp_path, *given, *CORRECTED, says="s.json: exists, made with protocol=official, now protocol=corrected;")
    guard = ("--rr_judge", "qwen3guard:m@http://127.0.0.1:9/v1")
    refused(tmp_path, *given, *RULES, *guard, says="made with rr=rules, now rr=qwen3guard:m; name another file, or")
    assert run_eval(*given, *RULES).returncode == 0, "the same words"
    assert run_eval(*given, *CORRECTED, "--overwrite").returncode == 0
