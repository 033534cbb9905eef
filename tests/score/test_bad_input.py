"""What a user gets wrong: exit code 2, one line that names it, and nothing written."""

import json
import os
import subprocess

import pytest
from scoring import KEY, ROOT, predicted, record, run_eval, write_files

RECORDS = [record(0), record(1, "Violence")]
PREDICTED = [predicted(value) for value in RECORDS]


def refused(tmp_path, *arguments, says):
    before = set(tmp_path.rglob("*"))
    run = run_eval(*arguments)
    assert run.returncode == 2, run.stderr
    assert run.stderr.startswith("error: ") and run.stderr.count("\n") == 1, run.stderr
    assert says in run.stderr and run.stdout == ""
    assert KEY not in run.stderr
    assert set(tmp_path.rglob("*")) == before


def files(folder, records=RECORDS, predictions=PREDICTED):
    paths = write_files(folder, records, predictions)
    out = folder / "v.json"
    given = [
        "--input_file",
        paths[0],
        "--file_refer",
        paths[1],
        "--output_file_rr",
        out,
        "--summary",
        folder / "s.json",
    ]
    return [*given, "--store", folder / "store" / "verdicts.jsonl"]


def test_no_key(tmp_path):
    given = files(tmp_path)
    given[5] = tmp_path / "new" / "v.json"
    refused(tmp_path, *given, says="set OPENAI_API_KEY")


def test_a_missing_file(tmp_path):
    given = files(tmp_path)
    given[1] = tmp_path / "nowhere.json"
    refused(tmp_path, "--judge", "rules", *given, says="nowhere.json: no such file")


def test_truncated_json(tmp_path):
    given = files(tmp_path)
    given[1].write_text(given[1].read_text()[:-40])
    refused(tmp_path, "--judge", "rules", *given, says="predictions.json: not valid JSON")


def test_another_number_of_records(tmp_path):
    given = files(tmp_path, predictions=PREDICTED[:1])
    refused(tmp_path, "--judge", "rules", *given, says="has 1 records")
    refused(tmp_path, "--judge", "rules", "--protocol", "corrected", *given, says="img/Violence/1.jpg")


def test_predictions_of_another_dataset(tmp_path):
    strangers = [PREDICTED[0], PREDICTED[1] | {"image_path": "img/Violence/99.jpg"}]
    says = "only in the predictions: img/Violence/99.jpg; only in the reference: img/Violence/1.jpg"
    refused(tmp_path, "--judge", "rules", "--protocol", "corrected", *files(tmp_path, RECORDS, strangers), says=says)


def test_a_data_file_without_predictions(tmp_path):
    refused(tmp_path, "--judge", "rules", *files(tmp_path, predictions=RECORDS), says="run ckpt_infer.py first")


def test_a_response_that_is_no_text(tmp_path):
    broken = json.loads(json.dumps(PREDICTED))
    broken[1]["unsafe_pairs"][2]["model_response3"] = ["a"]
    says = "record 1, unsafe_pairs.2.model_response3: must be a text, is a list"
    refused(tmp_path, "--judge", "rules", *files(tmp_path, predictions=broken), says=says)


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--judge", "rule"], "unknown judge 'rule'; did you mean 'rules'?"),
        (["--protocol", "offical"], "did you mean 'official'?"),
        (["--split", "test", "--judge", "rules"], "unknown split 'test'"),
        (["--concurrency", "0"], "--concurrency: must be"),
        (["--judge", "replay"], "needs --replies FILE"),
        (["--judge", "rules:gpt-4o"], "the judge rules is no model, so it takes neither model nor address"),
        (["--judge", "rules", "--judge_model", "m"], "--judge rules is no model: --judge_model and --base_url"),
        (["--judge", "llamaguard"], "the judge llamaguard runs on a server of your own: give its address"),
        (["--judge", "rules", "--gpt_judge", "rules"], "--gpt_judge rules: it cannot decide gpt (it decides asr, rr"),
        (["--judge", "rules", "--rr_judge", "llamagard@http://h/v1"], "did you mean 'llamaguard'?"),
        (["--price", "2.5"], "--price: two numbers, such as 2.5,10"),
        (["--price", "nan,1"], "--price: two numbers, such as 2.5,10"),
        (["--max_failed", "nan"], "--max_failed: must be a number from 0 to 1"),
        (["--max_failed", "5"], "--max_failed: must be a number from 0 to 1"),
        (["--apikey", KEY], "unknown option '--apikey'; did you mean '--api_key'?"),
        ([f"--apikey={KEY}"], "unknown option '--apikey'"),
        (["--judge", "rules", "--category", "Wepon"], "did you mean 'Weapon'?"),
        (["--api_key", f"{KEY} and more"], "the API key holds a character that no key has"),
    ],
)
def test_options(tmp_path, arguments, says):
    refused(tmp_path, *arguments, *files(tmp_path), says=says)


def test_a_category_without_a_prompt_is_found_before_anything_is_paid(tmp_path):
    records = [record(0, "Cooking")]
    given = files(tmp_path, records, [predicted(records[0])])
    address = ("--base_url", "http://127.0.0.1:9/v1")
    refused(tmp_path, "--api_key", KEY, *address, *given, says="no judge prompt for category 'Cooking'")


@pytest.mark.parametrize("content", ['{"format": "safeeraser verdict store", "version": 99}\n', "notes\n", "[]\n"])
def test_a_store_of_something_else(tmp_path, content):
    given = files(tmp_path)
    (tmp_path / "store").mkdir()
    given[-1].write_text(content)
    refused(
        tmp_path,
        "--api_key",
        KEY,
        "--base_url",
        "http://127.0.0.1:9/v1",
        *given,
        says="no verdict store of this version",
    )
    assert given[-1].read_text() == content


def test_a_pipe_is_no_store_and_is_not_waited_for(tmp_path):
    given = files(tmp_path)
    (tmp_path / "store").mkdir()
    os.mkfifo(given[-1])
    address = ("--base_url", "http://127.0.0.1:9/v1")
    reader = os.open(given[-1], os.O_RDWR)  # else the code before this test would wait for ever
    os.write(reader, b"\n")
    refused(tmp_path, "--api_key", KEY, *address, *given, says="cannot be a verdict store")
    os.close(reader)


def test_an_output_that_is_an_input(tmp_path):
    given = files(tmp_path)
    given[5] = given[1]
    refused(tmp_path, "--judge", "rules", *given, says="give each its own name")


@pytest.mark.parametrize(
    "out, says", [(".", "names no file"), ("{}", "is a folder"), ("{}/s.json/v.json", "cannot be")]
)
def test_an_output_that_cannot_be_written(tmp_path, out, says):
    given = files(tmp_path)
    (tmp_path / "s.json").write_text("a file, not a folder")
    given[5] = out.format(tmp_path)
    refused(tmp_path, "--judge", "rules", *given, says=says)


def test_a_reference_that_names_no_split(tmp_path):
    given = files(tmp_path)
    given[3] = given[3].rename(tmp_path / "mine.json")
    refused(tmp_path, "--judge", "rules", *given, says="give --split train or --split val")


def test_help_is_offered():
    run = run_eval("--help")
    assert run.returncode == 0 and "--file_refer" in run.stdout


def test_pairing_by_picture_undoes_another_order(tmp_path):
    given = files(tmp_path, predictions=PREDICTED[::-1])
    turned = run_eval("--judge", "rules", "--protocol", "corrected", *given)
    assert turned.returncode == 0, turned.stderr
    by_picture = json.loads((tmp_path / "s.json").read_text())["rouge_l"]["value"]
    assert by_picture == 1.0  # each Prediction is its own reference
    by_position = run_eval("--judge", "rules", *given)
    assert "name another picture" in by_position.stderr
    assert json.loads((tmp_path / "s.json").read_text())["rouge_l"]["value"] < 1.0


def test_one_category_alone(tmp_path):
    run = run_eval("--judge", "rules", "--category", "Violence", *files(tmp_path))
    assert run.returncode == 0, run.stderr
    assert json.loads((tmp_path / "s.json").read_text())["asr"]["n"] == 12


@pytest.mark.parametrize("script", [["eval.bash"], ["audit.bash", "--dry_run", "--checkpoint_path"]])
@pytest.mark.parametrize("words", [["--api_key", KEY], [f"--api_key={KEY}"]])
def test_a_script_takes_no_key_on_its_command_line(tmp_path, script, words):
    python, adapter = tmp_path / "python", tmp_path / "adapter"
    python.write_text(f"#!/bin/bash\necho $* >> {tmp_path}/started\n")
    python.chmod(0o755)
    name, *options = script
    call = ["bash", ROOT / "scripts" / name, *options, adapter]
    environment = os.environ | {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run([*call, *words], capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "OPENAI_API_KEY" in done.stderr and "--api_key_file FILE" in done.stderr and KEY not in done.stderr
    assert not (tmp_path / "started").exists()
    subprocess.run([*call, "--api_key_file", tmp_path / "key"], env=environment, check=True)
    assert f"--api_key_file {tmp_path}/key" in (tmp_path / "started").read_text()


@pytest.mark.parametrize("content", ["my notes", "{}", "[3]", '[{"a": 1}]', '{"asr": 1}'])
@pytest.mark.parametrize("place", ["v.json", "v.txt", "s.json"])
def test_a_file_that_no_scoring_run_wrote_is_not_replaced(tmp_path, place, content):
    given = files(tmp_path)
    (tmp_path / place).write_text(content)
    says = f"{place}: is there, and no earlier run of this command wrote it; --overwrite replaces it"
    refused(tmp_path, "--judge", "rules", *given, says=says)
    assert (tmp_path / place).read_text() == content
    run = run_eval("--judge", "rules", "--overwrite", *given)
    assert run.returncode == 0 and (tmp_path / place).read_text() != content


def test_predictions_named_as_an_output_are_not_replaced(tmp_path):
    """Those of another model, say: they take hours to make."""
    given = files(tmp_path)
    given[5] = tmp_path / "others.json"
    given[5].write_text(json.dumps(PREDICTED))
    refused(tmp_path, "--judge", "rules", *given, says="others.json: is there, and no earlier run")


def test_what_an_earlier_run_wrote_is_replaced(tmp_path):
    given = [*files(tmp_path), "--save_replies", tmp_path / "r.json"]
    for _ in range(2):
        run = run_eval("--judge", "rules", *given)
        assert run.returncode == 0, run.stderr
    assert {path.name for path in tmp_path.iterdir()} >= {"v.json", "v.txt", "s.json", "r.json"}


@pytest.mark.parametrize(
    "options",
    [
        {"--output_file_rr": "x.json", "--summary": "x.json"},
        {"--output_file_rr": "x.txt"},  # where its statistics go as well
        {"--summary": "x.json", "--save_replies": "x.json"},
        {"--summary": "x.json", "--store": "x.json"},
    ],
)
def test_a_place_that_is_named_twice(tmp_path, options):
    given = files(tmp_path)
    for option, name in options.items():
        given = [*given, option, tmp_path / name]
    refused(tmp_path, "--judge", "rules", *given, says="named twice")


def test_a_link_that_leads_in_a_circle(tmp_path):
    given = files(tmp_path)
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    refused(tmp_path, "--judge", "rules", *given, "--summary", tmp_path / "a", says="a: cannot be written")


def test_a_summary_alone(tmp_path):
    given = files(tmp_path)
    del given[4:6]
    run = run_eval("--judge", "rules", *given)
    assert run.returncode == 0, run.stderr
    assert json.loads((tmp_path / "s.json").read_text())["verdicts"] is None
    assert {path.name for path in tmp_path.iterdir()} == {"predictions.json", "all_val.json", "s.json"}
    del given[4:6]
    refused(tmp_path, "--judge", "rules", *given, says="give --output_file_rr, for the verdicts, or --summary")


def test_a_response_that_no_file_can_hold_is_named_before_anything_is_paid(tmp_path):
    broken = json.loads(json.dumps(PREDICTED))
    broken[1]["unsafe_pairs"][2]["sd_response"] = "lamp \ud800"
    given = files(tmp_path, predictions=broken)
    refused(tmp_path, "--judge", "rules", *given, says="unsafe_pairs.2.sd_response: holds half a character")


@pytest.mark.parametrize(
    "change",
    [{"asr": "x"}, {"answered_by": "x"}, {"answered_by": [{}]}, {"asr": {"value": 7}}],
)
def test_a_run_to_compare_with_that_is_none(tmp_path, change):
    (tmp_path / "other").mkdir()
    theirs = files(tmp_path / "other")
    assert run_eval("--judge", "rules", *theirs).returncode == 0
    summary = json.loads((tmp_path / "other" / "s.json").read_text())
    (tmp_path / "other" / "s.json").write_text(json.dumps(summary | change))
    given = (*files(tmp_path), "--compare", tmp_path / "other" / "s.json")
    refused(tmp_path, "--judge", "rules", *given, says="is not what eval_all.py writes")
    (tmp_path / "other" / "s.json").write_text(json.dumps(summary | {"rules": "of another version"}))
    assert run_eval("--judge", "rules", *given).returncode == 0
    compared = json.loads((tmp_path / "s.json").read_text())["compared_with"]
    assert (compared["asr"]["difference"], compared["asr"]["note"]) == (None, "other rules there")
    assert compared["rouge_l"]["difference"] == 0.0


@pytest.mark.parametrize("body", ['{"model": "m"}', '{"messages": []}', '{"stream": true}'])
def test_what_is_not_for_extra_parameters(tmp_path, body):
    refused(tmp_path, "--extra_body", body, *files(tmp_path), says="is this program's to set")


def test_a_retain_pair_that_the_reference_lacks(tmp_path):
    lacking = [{key: value for key, value in RECORDS[0].items() if key != "UnharmPair_text2"}, RECORDS[1]]
    given = files(tmp_path, records=lacking)
    says = "all_val.json: record 0, UnharmPair_text2: missing, and the predictions have it"
    refused(tmp_path, "--judge", "rules", *given, says=says)
