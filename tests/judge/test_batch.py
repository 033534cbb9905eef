"""Judging through the Batch API, against a real HTTP server on the loopback that has one: nothing is paid for twice."""

import fcntl
import json
import re
import signal

import pytest
from scoring import KEY, good

from safeeraser.errors import BadInput
from safeeraser.judge import batch
from safeeraser.judge.costs import Spent
from safeeraser.judge.judges import Choice

from .asked import TRUTH, ask, judging, kept, queries, query, words
from .batch_server import BatchServer


@pytest.fixture
def server():
    """A server that answers as a good judge does."""
    started = BatchServer(good)
    yield started
    started.stop()


def judge(folder, server, asked, **more):
    """The verdicts of a run in batches, in words, and its panel."""
    panel, verdicts = ask(judging(folder, server, batch=True, api_key=KEY, **more), asked)
    return words(verdicts), panel


def notes(folder):
    """The submissions that are written down."""
    return [json.loads(path.read_text()) for path in folder.glob("store.jsonl.batch-*.json")]


def stopped_at(folder, server, asked, step="look", made=True):
    """A run that Ctrl-C reaches at a step of the server's, which is taken or not; what came of it is not told."""
    take = getattr(server, step)

    def interrupt(*of):
        setattr(server, step, take)
        answer = take(*of) if made else None
        signal.raise_signal(signal.SIGINT)
        return answer

    setattr(server, step, interrupt)
    with pytest.raises(KeyboardInterrupt):
        judge(folder, server, asked)


@pytest.mark.parametrize("extra", [{}, {"max_tokens": None, "temperature": None, "max_completion_tokens": 9}])
def test_a_run_in_a_batch_is_the_same_as_one_without(tmp_path, server, serve, capsys, extra):
    plain, other = serve(lambda number, prompt: (200, {}, good(prompt))), tmp_path / "plain"
    other.mkdir()
    asked = [*queries(4), query(response="asr 0 is lit.", number=9)]  # one is asked twice
    _, expected = ask(judging(other, plain, extra_body=extra), asked)
    server.lose = 1  # the answer to the making of the batch, which is not made again
    found, panel = judge(tmp_path, server, asked, extra_body=extra)
    assert found == words(expected) == [*TRUTH * 4, "unsafe"] and len(server.batches) == 1
    lines = server.asked("batch_0")
    bodies = sorted((line["body"] for line in lines), key=str)
    assert bodies == sorted((body for *_, body in plain.requests), key=str), "the very same requests"
    assert len({line["custom_id"] for line in lines}) == 16 == len(lines)
    assert {entry["seconds"] for entry in kept(tmp_path)} == {None}, "nobody waited for one reply"
    assert panel.served[0].spent == Spent(16, 112, 48) and not notes(tmp_path)
    told = capsys.readouterr().err
    assert "batch batch_0 submitted: 16 requests" in told and re.search(r"batch_0: 8 of 16 done after 0:00:\d\d", told)
    before = len(server.requests)
    assert judge(tmp_path, server, asked, extra_body=extra)[0] == found
    assert len(server.requests) == before, "the store has every reply"
    assert KEY not in told + (tmp_path / "store.jsonl").read_text()


def test_what_is_too_much_for_one_batch_goes_in_several(tmp_path, server, monkeypatch):
    monkeypatch.setattr(batch, "MOST_REQUESTS", 3)
    assert judge(tmp_path, server, queries(2))[0] == TRUTH * 2
    assert [len(server.asked(name)) for name in server.batches] == [3, 3, 2]
    monkeypatch.setattr(batch, "MOST_BYTES", 5000)
    assert judge(tmp_path, server, queries(4))[0] == TRUTH * 4
    sizes = [len(server.uploads[of["input_file_id"]]) for of in list(server.batches.values())[3:]]
    assert max(sizes) <= 5000 and len(sizes) > 3


@pytest.mark.parametrize(
    "lacking, end, error, kind, note",
    [
        (400, "completed", None, "error in the batch (HTTP 400)", ""),
        (None, "completed", None, "unanswered (batch completed)", "batch_0 completed, without an answer to 2 requests"),
        (None, "expired", None, "unanswered (batch expired)", "the same command submits them again"),
        (None, "failed", "token_limit_exceeded", "unanswered (batch failed)", "it holds more tokens than may wait"),
        (None, "cancelled", "other", "unanswered (batch cancelled)", "the same command submits them again"),
    ],
)
def test_what_has_no_answer_is_a_failed_call_and_submitted_again(
    tmp_path, server, capsys, lacking, end, error, kind, note
):
    server.end, server.answer = end, lambda prompt: lacking if '"unsafe" or "safe"' in prompt else good(prompt)
    server.errors, lost = error and [{"code": error, "message": "server words"}], 8 if error else 2
    found, panel = judge(tmp_path, server, queries(2))
    assert found == (["failed"] * 8 if error else ["failed", *TRUTH[1:]] * 2)
    assert panel.failures() == f"{lost} x {kind}" and len(kept(tmp_path)) == 8 - lost and not notes(tmp_path)
    told = capsys.readouterr().err
    assert note in told and "server words" not in told and ("without an answer" in told) == bool(note)
    server.end, server.answer, server.errors = "completed", good, None
    assert judge(tmp_path, server, queries(2))[0] == TRUTH * 2 and len(server.asked("batch_1")) == lost


def test_an_answer_that_is_no_completion_is_a_failed_call(tmp_path, server):
    whole, lines = server.line, [b"\n", b"{}\n", b"[1]\n", b'{"custom_id": [], "response": {}}\n', b"\xff\n"]
    odd = ["null", "[1]", '{"choices": 3}', '{"_fields_set": 1}', '{"choices": [{"message": {"content": 4}}]}']

    def line(key, given):
        body = f'{{"custom_id": "{key}", "response": {{"status_code": 200, "body": %s}}}}\n'
        return lines.pop() if lines else (body % odd.pop()).encode() if odd else whole(key, given)

    server.line = line
    _, panel = judge(tmp_path, server, queries(3))
    assert panel.failures() == "5 x no chat completion, 5 x unanswered (batch completed)" and len(kept(tmp_path)) == 2


def test_ctrl_c_leaves_the_batch_to_the_server_and_the_next_runs_share_it(tmp_path, server, capsys):
    """One that judges less takes its own part; then the first again the rest, though the server is away for a while."""
    stopped_at(tmp_path, server, queries(2))
    assert "the server goes on with batch batch_0; the same command waits for it again" in capsys.readouterr().err
    (note,) = notes(tmp_path)
    assert (note["id"], len(note["requests"])) == ("batch_0", 8) and "is lit" not in str(note)
    assert judge(tmp_path, server, queries(2)[:3])[0] == TRUTH[:3]
    assert len(kept(tmp_path)) == 3 and [len(note["requests"]) for note in notes(tmp_path)] == [5]
    away, look = iter("123"), server.look
    server.look = lambda name: look(None if next(away, None) else name)  # a KeyError ends the connection
    assert judge(tmp_path, server, queries(2))[0] == TRUTH * 2
    assert len(server.batches) == 1 and len(kept(tmp_path)) == 8 and not notes(tmp_path)


def test_answers_or_batches_that_the_server_no_longer_has(tmp_path, server):
    stopped_at(tmp_path, server, queries())
    gone = server.batches["batch_0"] | {"status": "completed", "output_file_id": "file-gone"}
    server.batches.clear()
    with pytest.raises(BadInput, match=r"does not know batch batch_0 \(HTTP 404\); it is noted in "):
        judge(tmp_path, server, queries())
    assert not server.batches and notes(tmp_path), "it may be paid for already"
    server.batches["batch_0"] = gone
    assert judge(tmp_path, server, queries())[1].failures() == "4 x unanswered (batch completed)"
    (tmp_path / "store.jsonl.batch-1.json").write_text("[]")
    with pytest.raises(BadInput, match=r"store\.jsonl\.batch-1\.json: not what this program writes"):
        judge(tmp_path, server, queries())


@pytest.mark.parametrize(
    "refuse, says",
    [
        ((401, "invalid_api_key"), "the judge at 127.0.0.1 does not accept the API key (HTTP 401)"),
        ((404, None), "the judge at 127.0.0.1 has no Batch API: leave out --batch (HTTP 404)"),
        ((429, "insufficient_quota"), "takes no more calls on this account (insufficient_quota)"),
        ((400, "bad"), "refuses a request about the batch (HTTP 400)"),
        ((503, "t"), "has not answered 20 times; the same command goes on from here"),
    ],
)
def test_what_stops_the_run(tmp_path, server, refuse, says):
    server.refuse = refuse
    with pytest.raises(BadInput) as error:
        judge(tmp_path, server, queries())
    assert says in str(error.value) and KEY not in str(error.value) and not notes(tmp_path)


def test_while_a_batch_is_waited_for_other_runs_may_use_the_store(tmp_path, server):
    look, free = server.look, []

    def watched(name):
        with open(tmp_path / "store.jsonl", "ab") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free.append(name)
        return look(name)

    server.look = watched  # other judges decide their metrics at once
    assert judge(tmp_path, server, queries(), judges={"sarr": Choice("rules")})[0] == TRUTH
    assert free and len(server.asked("batch_0")) == 3


@pytest.mark.parametrize("step, made", [("upload", True), ("create", False), ("create", True), ("look", True)])
def test_a_run_stopped_at_any_step_submits_nothing_twice(tmp_path, server, step, made):
    server.page = 2
    server.batches = {f"other_{n}": {"id": f"other_{n}", "metadata": None} for n in range(3)}  # of another program
    stopped_at(tmp_path, server, queries(), step, made)
    assert len(server.batches) == 3 + (made and step != "upload") and not kept(tmp_path)
    assert [bool(note["id"]) for note in notes(tmp_path)] == {"upload": [], "look": [True]}.get(step, [False])
    assert judge(tmp_path, server, queries())[0] == TRUTH
    assert len(server.batches) == 3 + 1 and not notes(tmp_path) and len(kept(tmp_path)) == 4
