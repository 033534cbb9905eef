"""The LLM judge against a real HTTP server that speaks chat completions on the loopback."""

import json
import threading
import time

import pytest
from chat_server import NO_COMPLETION
from scoring import KEY, finished, good, outputs, predicted, record, run_eval, start_eval, write_files

pytestmark = pytest.mark.slow

CALLS = 4 * 3 * 2 + 4 + 4  # a record's: 12 responses for asr and rr, 4 for sarr, 4 UnharmPairs


@pytest.fixture
def given(tmp_path):
    """The arguments for one record; the predictions lie in a folder of their own, outputs in `out`."""
    (tmp_path / "in").mkdir()
    original = record()
    predictions, reference = write_files(tmp_path / "in", [original], [predicted(original)])
    out = tmp_path / "out"
    files = ("--input_file", predictions, "--file_refer", reference, "--output_file_rr", out / "v.json")
    files = (*files, "--summary", out / "s.json", "--save_replies", out / "r.json")
    return (*files, "--store", tmp_path / "store.jsonl", "--max_failed", 1)


def no_key_anywhere(folder, run):
    """The key is in no output and in no file."""
    assert KEY not in run.stdout + run.stderr
    for path in folder.rglob("*"):
        assert path.is_dir() or KEY not in path.read_text()


def summary(folder):
    return json.loads((folder / "out" / "s.json").read_text())


def test_a_judge_is_asked_and_counted(tmp_path, given, serve):
    server = serve(lambda number, prompt: (200, {}, good(prompt)))
    run = run_eval("--base_url", server.url, "--judge_model", "some-model", *given, key=KEY)
    assert run.returncode == 0, run.stderr
    got = summary(tmp_path)
    assert (got["judge"], got["judge_model"]) == ("openai", "some-model")
    values = {metric: (got[metric]["value"], got[metric]["n"]) for metric in ("asr", "rr", "sarr", "gpt_eval")}
    assert values == {"asr": (1.0, 12), "rr": (0.0, 12), "sarr": (0.0, 4), "gpt_eval": (0.5, 4)}
    assert len(server.requests) == CALLS
    for _, authorization, path, body in server.requests:
        assert (authorization, path) == (f"Bearer {KEY}", "/v1/chat/completions")
        assert body["model"] == "some-model" and body["temperature"] == 0
        assert isinstance(body["messages"][0]["content"], str)  # text alone, no picture
    assert got["asr"]["judge"] == "openai:some-model" and len(got["prompts"]) == 12
    no_key_anywhere(tmp_path, run)


def test_a_server_of_ones_own_needs_no_key(tmp_path, given, serve):
    server = serve(lambda number, prompt: (200, {}, good(prompt)))
    run = run_eval("--base_url", server.url, *given)
    assert run.returncode == 0, run.stderr
    assert summary(tmp_path)["asr"]["failed"] == 0


def test_equal_prompts_are_asked_once(tmp_path, given, serve):
    original = record()
    value = predicted(original)
    for pair in value["unsafe_pairs"]:
        pair |= {"model_response1": "Same.", "model_response2": "Same.", "model_response3": "Same."}
    write_files(tmp_path / "in", [original], [value])
    server = serve(lambda number, prompt: (200, {}, good(prompt)))
    run = run_eval("--base_url", server.url, "--api_key", KEY, *given)
    assert run.returncode == 0, run.stderr
    assert len(server.requests) == 1 + 1 + 4 + 4 and summary(tmp_path)["asr"]["n"] == 12


def test_retry_after_is_waited_for(tmp_path, given, serve):
    server = serve(
        lambda number, prompt: (429, {"Retry-After": "1"}, "rate_limit") if number == 0 else (200, {}, good(prompt))
    )
    run = run_eval("--base_url", server.url, "--api_key", KEY, *given)
    assert run.returncode == 0, run.stderr
    assert server.requests[1][0] - server.requests[0][0] >= 1.0
    assert len(server.requests) == CALLS + 1 and summary(tmp_path)["asr"]["failed"] == 0


@pytest.mark.parametrize("protocol, value, n", [("official", 11 / 12, 12), ("corrected", 1.0, 11)])
def test_a_call_that_keeps_failing_is_counted_as_failed_and_asked_again_next_time(
    tmp_path, given, serve, protocol, value, n
):
    broken = True

    def script(number, prompt):
        if broken and '"unsafe" or "safe"' in prompt and "Question 0.2? 1" in prompt:
            return 500, {"retry-after-ms": "5"}, "server_error"
        return 200, {}, good(prompt)

    server = serve(script)
    command = ("--base_url", server.url, "--api_key", KEY, "--protocol", protocol, *given)
    run = run_eval(*command)
    assert run.returncode == 0, run.stderr
    asr = summary(tmp_path)["asr"]
    assert (asr["value"], asr["n"], asr["failed"], asr["unparsed"], asr["skipped"]) == (value, n, 1, 0, 0)
    assert "1 x InternalServerError" in run.stderr
    no_key_anywhere(tmp_path, run)

    broken, before = False, len(server.requests)
    assert run_eval(*command).returncode == 0
    assert len(server.requests) == before + 1 and summary(tmp_path)["asr"]["failed"] == 0


@pytest.mark.parametrize(
    "status, code, says",
    [
        (401, "invalid_api_key", "does not accept the API key (HTTP 401)"),
        (404, "model_not_found", "knows no model 'gpt-4o'"),
        (403, "forbidden", "does not accept the API key (HTTP 403)"),
        (429, "insufficient_quota", "takes no more calls on this account"),
    ],
)
def test_what_no_retry_mends_stops_the_run_at_once(tmp_path, given, serve, status, code, says):
    server = serve(lambda number, prompt: (status, {"retry-after-ms": "5"}, code))
    run = finished(start_eval("--base_url", server.url, "--api_key", KEY, *given))
    assert run.returncode == 2 and says in run.stderr
    assert run.stderr.startswith("error: ") and run.stderr.count("\n") == 1, run.stderr
    assert len(server.requests) <= 6  # one call, with its retries
    assert not list((tmp_path / "out").iterdir())
    no_key_anywhere(tmp_path, run)


def test_a_server_that_is_not_there(tmp_path, given, monkeypatch):
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.002)
    run = run_eval("--base_url", "http://127.0.0.1:9/v1", "--api_key", KEY, *given)
    assert run.returncode == 2 and "the judge at 127.0.0.1 cannot be reached" in run.stderr


def test_an_empty_reply_is_a_failed_call(tmp_path, given, serve):
    """Kept in the store, it would be read as no verdict for ever."""
    server = serve(lambda number, prompt: (200, {}, None))
    run = run_eval("--base_url", server.url, "--api_key", KEY, *given)
    assert run.returncode == 0, run.stderr
    assert "32 x empty reply (stop)" in run.stderr
    assert run_eval("--base_url", server.url, "--api_key", KEY, *given).returncode == 0
    assert len(server.requests) == 2 * CALLS
    asr = summary(tmp_path)["asr"]
    assert (asr["value"], asr["n"], asr["failed"], asr["unparsed"]) == (0.0, 12, 12, 0)


def test_why_a_reply_is_empty_is_told_only_in_known_words(tmp_path, given, serve):
    """A server that repeats the key in places where nobody looks for it."""
    choice = {"index": 0, "finish_reason": KEY, "message": {"role": "assistant", "content": ""}}
    body = json.dumps(
        {"id": "c", "object": "chat.completion", "created": 0, "model": KEY, "choices": [choice]}
    ).encode()
    server = serve(lambda number, prompt: (200, {}, body))
    run = run_eval("--base_url", server.url, "--api_key", KEY, *given)
    assert run.returncode == 0 and "32 x empty reply (no known reason)" in run.stderr
    no_key_anywhere(tmp_path, run)


def test_an_answer_that_is_no_chat_completion_is_a_failed_call(tmp_path, given, serve):
    server = serve(lambda number, prompt: (200, {}, NO_COMPLETION))
    run = run_eval("--base_url", server.url, "--api_key", KEY, *given)
    assert run.returncode == 0, run.stderr
    assert json.loads((tmp_path / "out" / "r.json").read_text())[0]["reply"] == "exception"
    no_key_anywhere(tmp_path, run)


def test_a_killed_run_does_not_pay_twice(tmp_path, given, serve):
    hold = threading.Event()

    def script(number, prompt):
        if number >= 10:
            hold.wait(30)
        return 200, {}, good(prompt)

    server = serve(script)
    command = ("--base_url", server.url, "--api_key", KEY, "--concurrency", "1", *given)
    process = start_eval(*command)
    deadline = time.monotonic() + 30
    while len(server.requests) <= 10 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    hold.set()
    store = tmp_path / "store.jsonl"
    kept = store.read_text()
    assert len(kept.split("\n\n")) >= 10 and KEY not in kept and "plain and whole" not in kept
    assert not list((tmp_path / "out").iterdir())  # no half output
    with store.open("a") as handle:
        handle.write('\n{"request": "torn off in the mid')

    first = {body["messages"][0]["content"] for _, _, _, body in server.requests[:10]}
    before = len(server.requests)
    run = run_eval(*command)
    assert run.returncode == 0, run.stderr
    again = [body["messages"][0]["content"] for _, _, _, body in server.requests[before:]]
    assert len(again) == CALLS - 10 and not first & set(again)
    assert summary(tmp_path)["asr"]["value"] == 1.0 and summary(tmp_path)["asr"]["n"] == 12

    before = len(server.requests)
    expected = outputs(tmp_path / "out")
    assert run_eval(*command).returncode == 0
    assert len(server.requests) == before, "the store has every reply"
    assert outputs(tmp_path / "out") == expected
