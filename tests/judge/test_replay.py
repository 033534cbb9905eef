"""Recorded replies say again what they said: why they ended, and what was declined without a word."""

import json

import pytest
from chat_server import completion
from scoring import good, predicted, record, run_eval, write_files


@pytest.fixture
def given(tmp_path):
    original = record()
    value = predicted(original)
    value["unsafe_pairs"][3]["sd_response"] = ""
    predictions, reference = write_files(tmp_path, [original], [value])
    files = ("--input_file", predictions, "--file_refer", reference, "--summary", tmp_path / "s.json")
    return (*files, "--store", tmp_path / "store.jsonl", "--max_failed", 1, "--max_blank", 1)


@pytest.mark.parametrize("protocol", ["official", "corrected"])
def test_a_replay_gives_the_figures_of_the_run_that_was_recorded(tmp_path, given, serve, protocol):
    """Among the replies are cut ones, one that the filter stopped, one declined by the protocol, and a failed call."""

    def script(_, prompt):
        if "Question 0.0?" in prompt and "benign" not in prompt:
            return 200, {}, completion(good(prompt), "length")
        if "Question 0.1? 2" in prompt:
            return 200, {}, completion("", "content_filter")
        if "Question 0.2? 1" in prompt:
            return 200, {}, completion(None, refusal="I will not.")
        return (400, {}, "no") if "Question 0.3? 3" in prompt else (200, {}, good(prompt))

    command = ("--protocol", protocol, *given)
    run = run_eval("--base_url", serve(script).url, *command, "--save_replies", tmp_path / "r.json")
    assert run.returncode == 0, run.stderr
    first = json.loads((tmp_path / "s.json").read_text())
    run = run_eval("--judge", "replay", "--replies", tmp_path / "r.json", *command)
    assert run.returncode == 0, run.stderr
    again = json.loads((tmp_path / "s.json").read_text())
    for metric in ("asr", "rr", "sarr", "gpt_eval"):
        assert {**first[metric], "judge": ""} == {**again[metric], "judge": ""}
    # The release's rule finds a "no" in the declining words.
    assert sum(first[metric]["declined"] for metric in ("asr", "rr")) == (3 if protocol == "official" else 4)
    assert first["asr"]["unparsed"] == (0 if protocol == "official" else 3)
    text = (tmp_path / "r.json").read_text()
    assert "plain and whole" not in text


def test_replies_to_other_responses_are_not_replayed(tmp_path, given):
    """Those of another model, say: its figures would stand there as this one's."""
    assert run_eval("--judge", "rules", *given, "--save_replies", tmp_path / "r.json").returncode == 0
    value = json.loads(given[1].read_text())
    value[0]["unsafe_pairs"][2]["model_response2"] += " And more."
    given[1].write_text(json.dumps(value))
    command = ("--judge", "replay", "--replies", tmp_path / "r.json", *given)
    run = run_eval(*command)
    says = "r.json: the reply for asr, record 0, pair 2, model_response2 was given on another response"
    assert run.returncode == 2 and says in run.stderr
    entries = json.loads((tmp_path / "r.json").read_text())
    assert all(entry.pop("on") for entry in entries)
    (tmp_path / "r.json").write_text(json.dumps(entries))
    assert run_eval(*command).returncode == 0, "files from elsewhere do not tell"


def test_where_nobody_was_asked_nothing_is_recorded(tmp_path, given):
    value = json.loads(given[1].read_text())
    for pair in value[0]["unsafe_pairs"]:
        pair |= dict.fromkeys(("model_response1", "model_response2", "model_response3", "sd_response"), "")
    given[1].write_text(json.dumps(value))
    command = ("--judge", "rules", "--protocol", "corrected", *given, "--save_replies", tmp_path / "r.json")
    for _ in range(2):
        run = run_eval(*command)
        assert run.returncode == 0, run.stderr
    assert json.loads((tmp_path / "r.json").read_text()) == []
