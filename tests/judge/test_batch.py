"""Judging through the Batch API, against a real HTTP server on the loopback that has one."""

import fcntl
import json
import re
import signal
from unittest.mock import patch

import pytest
from scoring import KEY, finished, good, outputs, predicted, record, run_eval, start_eval, write_files

from safeeraser.judge import batch
from safeeraser.judge.store import Store

from .batch_server import BatchServer
from .test_served import CALLS, no_key_anywhere, summary

# `given` is test_served's: the arguments for one record.
from .test_served import given as given

pytestmark = pytest.mark.slow

KIND = '"unsafe" or "safe"'  # what marks the prompts for asr, 12 of a record's


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Looks and retries without their pauses."""
    monkeypatch.setattr(batch, "POLL", 0.01)
    monkeypatch.setattr(batch, "PAUSE", 0.01)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.002)


@pytest.fixture
def server():
    """A server that answers as a good judge does."""
    started = BatchServer(good)
    yield started
    started.stop()


def judge(server, given, *more):
    return run_eval("--base_url", server.url, "--batch", *given, *more, key=KEY)


def beside(folder):
    """The submissions that are written down."""
    return [json.loads(path.read_text()) for path in folder.glob("store.jsonl.batch-*.json")]


def stored(folder):
    entries = map(json.loads, filter(None, (folder / "store.jsonl").read_text().split("\n")[1:]))
    return {entry["request"]: entry for entry in entries}


def test_a_run_in_a_batch_is_the_same_as_one_without(tmp_path, given, server, serve):
    plain = serve(lambda number, prompt: (200, {}, good(prompt)))
    assert run_eval("--base_url", plain.url, *given, key=KEY).returncode == 0
    expected = outputs(tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        path.unlink()

    run = judge(server, given)
    assert run.returncode == 0, run.stderr
    assert outputs(tmp_path / "out") == expected and {"v.json", "s.json", "v.txt", "r.json"} <= expected.keys()
    bodies = [line["body"] for line in server.asked("batch_0")]
    assert sorted(bodies, key=str) == sorted((body for *_, body in plain.requests), key=str), "the very same requests"
    assert len({line["custom_id"] for line in server.asked("batch_0")}) == CALLS
    assert "batch batch_0 submitted: 32 requests" in run.stderr and "16 of 32 done after 0:00:0" in run.stderr
    assert [entry["seconds"] for entry in stored(tmp_path).values()].count(None) == CALLS, "nobody waited for one reply"
    assert not beside(tmp_path) and ("POST", "/v1/chat/completions") not in server.requests
    no_key_anywhere(tmp_path, run)

    before = len(server.requests)
    assert judge(server, given).returncode == 0
    assert len(server.requests) == before, "the store has every reply"
    assert outputs(tmp_path / "out") == expected


def test_what_is_too_much_for_one_batch_goes_in_several(tmp_path, given, server, monkeypatch):
    monkeypatch.setattr(batch, "MOST_REQUESTS", 10)
    run = judge(server, given)
    assert run.returncode == 0, run.stderr
    assert [len(server.asked(name)) for name in server.batches] == [10, 10, 10, 2]
    assert summary(tmp_path)["asr"]["n"] == 12 and not beside(tmp_path)


def test_a_batch_holds_no_more_bytes_than_allowed(tmp_path, given, server, monkeypatch):
    monkeypatch.setattr(batch, "MOST_BYTES", 4000)
    run = judge(server, given)
    assert run.returncode == 0, run.stderr
    sizes = [len(server.uploads[made["input_file_id"]]) for made in server.batches.values()]
    assert len(sizes) > 4 and max(sizes) <= 4000
    assert sum(len(server.asked(name)) for name in server.batches) == CALLS


def abandon(server, given):
    """A run that is stopped when its batch is made."""
    with patch.object(batch.BatchChat, "look", side_effect=KeyboardInterrupt):
        assert judge(server, given).returncode == 130
    assert len(server.batches) == 1


def stopped_at(server, given, step, stop):
    """Start a run, and send it a signal once the server stands still at a step."""
    server.hold = step
    process = start_eval("--base_url", server.url, "--batch", *given, key=KEY)
    assert server.held.wait(30)
    process.send_signal(stop)
    run = finished(process)
    server.hold = None
    server.go.set()
    return run


@pytest.mark.parametrize("step, made", [("upload", 0), ("create", 0), ("created", 1), ("look", 1)])
def test_a_run_killed_at_any_step_submits_nothing_twice(tmp_path, given, server, step, made):
    server.page = 2
    server.batches = {f"other_{n}": {"id": f"other_{n}", "metadata": None} for n in range(3)}  # of another program
    stopped_at(server, given, step, signal.SIGKILL)
    assert len(server.batches) == 3 + made
    noted = beside(tmp_path)
    assert [bool(submission["id"]) for submission in noted] == {"upload": [], "look": [True]}.get(step, [False])
    assert not list((tmp_path / "out").iterdir()) and "plain and whole" not in json.dumps(noted)

    run = judge(server, given)
    assert run.returncode == 0, run.stderr
    assert len(server.batches) == 3 + 1 and not beside(tmp_path)
    assert summary(tmp_path)["asr"]["n"] == 12 and len(stored(tmp_path)) == CALLS
    no_key_anywhere(tmp_path, run)


def test_ctrl_c_leaves_the_batch_to_the_server_and_names_it(tmp_path, given, server):
    run = stopped_at(server, given, "look", signal.SIGINT)
    assert run.returncode == 130
    assert "the server goes on with batch batch_0; the same command waits for it again" in run.stderr
    assert "Traceback" not in run.stderr
    no_key_anywhere(tmp_path, run)
    assert judge(server, given).returncode == 0 and len(server.batches) == 1


def test_a_run_stopped_while_it_reads_the_answers_goes_on_from_there(tmp_path, given, server):
    keep, left = Store.add, iter(range(5))

    def add(store, entry):
        if next(left, None) is None:
            raise KeyboardInterrupt
        keep(store, entry)

    with patch.object(Store, "add", add):
        assert judge(server, given).returncode == 130
    assert len(stored(tmp_path)) == 5 and beside(tmp_path)
    run = judge(server, given)
    assert run.returncode == 0, run.stderr
    assert len(stored(tmp_path)) == CALLS and len(server.batches) == 1 and not beside(tmp_path)


def test_a_batch_whose_making_went_unanswered_is_not_made_again(tmp_path, given, server):
    server.lose = 1
    run = judge(server, given)
    assert run.returncode == 0, run.stderr
    assert len(server.batches) == 1


def test_another_run_takes_its_own_part_of_a_batch(tmp_path, given, server):
    """The first run is stopped; one that judges less, with the same store, and then the first again share its batch."""
    abandon(server, given)
    run = judge(server, given, "--asr_judge", "rules", "--rr_judge", "rules")
    assert run.returncode == 0, run.stderr
    assert len(stored(tmp_path)) == 8 and [len(submission["requests"]) for submission in beside(tmp_path)] == [24]
    run = judge(server, given)
    assert run.returncode == 0, run.stderr
    assert len(server.batches) == 1 and len(stored(tmp_path)) == CALLS and not beside(tmp_path)


@pytest.mark.parametrize(
    "lacking, end, says",
    [
        (400, "completed", "12 x error in the batch (HTTP 400)"),
        (500, "completed", "12 x error in the batch (HTTP 500)"),
        (None, "completed", "12 x unanswered (batch completed)"),
        (
            None,
            "expired",
            "batch batch_0 expired, without an answer to 12 requests; the same command submits them again",
        ),
        (None, "cancelled", "12 x unanswered (batch cancelled)"),
    ],
)
def test_what_has_no_answer_is_a_failed_call_and_submitted_again(tmp_path, given, server, lacking, end, says):
    server.end, server.answer = end, lambda prompt: lacking if KIND in prompt else good(prompt)
    run = judge(server, given, "--protocol", "corrected")
    assert run.returncode == 0, run.stderr
    assert says in run.stderr and "server words" not in run.stderr
    got = summary(tmp_path)
    assert (got["asr"]["n"], got["asr"]["failed"], got["rr"]["n"]) == (0, 12, 12)
    assert len(stored(tmp_path)) == CALLS - 12 and not beside(tmp_path)

    server.end, server.answer = "completed", good
    run = judge(server, given, "--protocol", "corrected")
    assert run.returncode == 0, run.stderr
    assert len(server.asked("batch_1")) == 12 and summary(tmp_path)["asr"]["n"] == 12


def test_a_batch_that_failed_whole(tmp_path, given, server):
    server.end, server.errors = "failed", [{"code": "token_limit_exceeded", "message": "server words"}]
    run = judge(server, given)
    assert run.returncode == 0, run.stderr
    assert "batch batch_0 failed, without an answer to 32 requests; it holds more tokens than may wait" in run.stderr
    assert "32 x unanswered (batch failed)" in run.stderr and "server words" not in run.stderr
    assert not beside(tmp_path)


def test_an_answer_that_is_no_completion_is_a_failed_call(tmp_path, given, server):
    good_line, lines = server._line, [b"\n", b"{}\n", b"[1]\n", b'{"custom_id": [], "response": {}}\n', b"\xff\n"]
    odd = ["null", "[1]", '{"choices": 3}', '{"_fields_set": 1}', '{"choices": [{"message": {"content": 4}}]}']

    def line(key, given):
        if lines:
            return lines.pop()
        if odd:
            return f'{{"custom_id": "{key}", "response": {{"status_code": 200, "body": {odd.pop()}}}}}\n'.encode()
        return good_line(key, given)

    server._line = line
    run = judge(server, given)
    assert run.returncode == 0, run.stderr
    assert "5 x no chat completion" in run.stderr and "5 x unanswered (batch completed)" in run.stderr
    assert len(stored(tmp_path)) == CALLS - 10


def test_answers_that_the_server_keeps_no_longer(tmp_path, given, server):
    abandon(server, given)
    server.batches["batch_0"] |= {"status": "completed", "output_file_id": "file-gone"}
    run = judge(server, given)
    assert run.returncode == 0 and "32 x unanswered (batch completed)" in run.stderr
    assert judge(server, given).returncode == 0 and len(stored(tmp_path)) == CALLS


@pytest.mark.parametrize(
    "status, code, says",
    [
        (401, "invalid_api_key", "the judge at 127.0.0.1 does not accept the API key (HTTP 401)"),
        (404, None, "the judge at 127.0.0.1 has no Batch API: leave out --batch (HTTP 404)"),
        (429, "insufficient_quota", "takes no more calls on this account (insufficient_quota)"),
        (400, "bad", "refuses a request about the batch (HTTP 400)"),
        (503, "t", "has not answered 20 times; the same command goes on from here"),
    ],
)
def test_what_stops_the_run(tmp_path, given, server, status, code, says):
    server.refuse, server.code = status, code
    run = judge(server, given)
    assert run.returncode == 2 and says in run.stderr
    assert run.stderr.startswith("error: ") and run.stderr.count("\n") == 1, run.stderr
    assert not list((tmp_path / "out").iterdir()) and not beside(tmp_path)
    no_key_anywhere(tmp_path, run)


def test_a_batch_of_another_account(tmp_path, given, server):
    abandon(server, given)
    server.batches.clear()
    run = judge(server, given)
    assert run.returncode == 2 and "does not know batch batch_0 (HTTP 404)" in run.stderr
    assert not server.batches, "it may be paid for already"


def test_a_server_that_is_away_for_a_while(tmp_path, given, server):
    abandon(server, given)
    look, away = server.look, iter(range(3))

    def sometimes(name):
        if next(away, None) is not None:
            raise ConnectionError
        return look(name)

    server.look = sometimes
    assert judge(server, given).returncode == 0 and len(server.batches) == 1


def test_a_damaged_note_is_named(tmp_path, given, server):
    (tmp_path / "store.jsonl.batch-1.json").write_text("[]")
    run = judge(server, given)
    assert run.returncode == 2 and "store.jsonl.batch-1.json: not what this program writes" in run.stderr
    assert not server.requests


@pytest.mark.parametrize(
    "judges, says",
    [
        (["--judge", "rules"], "--batch: none of the judges is asked over the network"),
        (
            ["--judge", "qwen3guard@http://localhost:8000/v1"],
            "--batch: the judge qwen3guard runs on a server of your own",
        ),
        (["--asr_judge", "llamaguard@http://localhost:8000/v1"], "--batch: the judge llamaguard runs on a server"),
        (["--dry_run", "--judge", "rules"], "--batch: none of the judges"),
    ],
)
def test_judges_that_have_no_batches(given, judges, says):
    run = run_eval("--batch", *given, *judges, key=KEY)
    assert run.returncode == 2 and says in run.stderr


def test_other_judges_decide_their_metrics_at_once(tmp_path, given, server):
    run = judge(server, given, "--sarr_judge", "rules")
    assert run.returncode == 0, run.stderr
    assert len(server.asked("batch_0")) == CALLS - 4 and summary(tmp_path)["sarr"]["judge"] == "rules"


def test_parameters_of_a_models_own_are_the_same_as_without_a_batch(tmp_path, given, server, serve):
    extra = ("--extra_body", '{"max_tokens": null, "temperature": null, "max_completion_tokens": 9}')
    plain = serve(lambda number, prompt: (200, {}, good(prompt)))
    assert run_eval("--base_url", plain.url, *given, *extra, key=KEY).returncode == 0
    assert judge(server, given, *extra).returncode == 0
    bodies = [line["body"] for line in server.asked("batch_0")]
    assert sorted(bodies, key=str) == sorted((body for *_, body in plain.requests), key=str)
    assert all(body["max_completion_tokens"] == 9 and "extra_body" not in body for body in bodies)


def test_while_a_batch_is_waited_for_other_runs_may_use_the_store(tmp_path, given, server):
    look, free = batch.BatchChat.look, []

    def watched(api, name):
        with open(tmp_path / "store.jsonl", "ab") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free.append(name)
        return look(api, name)

    with patch.object(batch.BatchChat, "look", watched):
        run = judge(server, given)
    assert run.returncode == 0, run.stderr
    assert free and summary(tmp_path)["asr"]["n"] == 12


def test_equal_requests_are_one_line_of_a_batch(tmp_path, given, server):
    original = record()
    value = predicted(original)
    for pair in value["unsafe_pairs"]:
        pair |= {"model_response1": "Same.", "model_response2": "Same.", "model_response3": "Same."}
    write_files(tmp_path / "in", [original], [value])
    assert judge(server, given).returncode == 0
    assert len(server.asked("batch_0")) == 1 + 1 + 4 + 4 and summary(tmp_path)["asr"]["n"] == 12


def test_a_dry_run_tells_half_the_price_and_submits_nothing(given, server):
    whole, half = (
        run_eval("--base_url", server.url, *given, "--dry_run", "--price", "20000,0", *more)
        for more in ([], ["--batch"])
    )
    costs = [float(re.search(r"│ all .* ([\d.]+) │", run.stdout)[1]) for run in (whole, half)]
    assert costs[1] == pytest.approx(costs[0] / 2, abs=0.01) and costs[1] > 0 and not server.requests
