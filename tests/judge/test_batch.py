"""Judging through the Batch API of a real HTTP server on the loopback interface: nothing is paid for twice."""

import json
import re
import signal

import pytest
from helpers import read_beside, refusal
from scoring import KEY, good

from safeeraser.errors import BadInput
from safeeraser.judge.judge import Spent

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
    """The stored notes of submitted batches."""
    return [json.loads(path.read_text()) for path in folder.glob("store.jsonl.batch-*.json")]


def stopped_at(folder, server, asked, step="look", made=True):
    """Interrupt a run by Ctrl-C at a step of the server, which takes it if `made`; the run does not learn whether."""
    take = getattr(server, step)

    def interrupt(*of):
        setattr(server, step, take)
        answer = take(*of) if made else None
        signal.raise_signal(signal.SIGINT)
        return answer

    setattr(server, step, interrupt)
    with pytest.raises(KeyboardInterrupt):
        judge(folder, server, asked)


def test_a_run_in_a_batch_is_the_same_as_one_without(tmp_path, server, serve, capsys):
    extra = {"max_tokens": None, "temperature": None, "max_completion_tokens": 9}
    plain, other = serve(lambda number, prompt: (200, {}, good(prompt))), tmp_path / "plain"
    other.mkdir()
    asked = [*queries(4), query(response="asr 0 is lit.", number=9)]  # one is asked twice
    _, expected = ask(judging(other, plain, extra_body=extra), asked)
    server.lose = 1  # the answer to the creation of the batch, which is not repeated
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
    assert KEY not in told + (tmp_path / "store.jsonl").read_text()


@pytest.mark.parametrize(
    "end, error, kind, note",
    read_beside(__file__, "refusals.yaml")["batch"],
)
def test_what_has_no_answer_is_a_failed_call_and_submitted_again(tmp_path, server, capsys, end, error, kind, note):
    lacking, lost = None if note else 400, 8 if error else 2
    server.end, server.answer = end, lambda prompt: lacking if '"unsafe" or "safe"' in prompt else good(prompt)
    server.errors = error and [{"code": error, "message": "server words"}]
    found, panel = judge(tmp_path, server, queries(2))
    assert found == (["failed"] * 8 if error else ["failed", *TRUTH[1:]] * 2)
    assert panel.failures() == f"{lost} x {kind}" and len(kept(tmp_path)) == 8 - lost and not notes(tmp_path)
    told = capsys.readouterr().err
    assert note in told and "server words" not in told
    server.end, server.answer, server.errors = "completed", good, None
    assert judge(tmp_path, server, queries(2))[0] == TRUTH * 2 and len(server.asked("batch_1")) == lost


def test_a_batch_that_the_server_no_longer_has_and_what_else_stops_the_run(tmp_path, server):
    stopped_at(tmp_path, server, queries())
    gone = server.batches.pop("batch_0") | {"status": "completed", "output_file_id": "file-gone"}
    with pytest.raises(BadInput, match=r"does not know batch batch_0 \(HTTP 404\); .* records this batch"):
        judge(tmp_path, server, queries())
    assert not server.batches and notes(tmp_path), "it may be paid for already"
    server.batches["batch_0"] = gone
    assert judge(tmp_path, server, queries())[1].failures() == "4 x unanswered (batch completed)"
    for server.refuse, says in read_beside(__file__, "refusals.yaml")["server"]:
        said = refusal(judge, tmp_path, server, queries())
        assert says in said and KEY not in said and not notes(tmp_path)


@pytest.mark.parametrize("step, made", [("upload", True), ("create", False), ("create", True), ("look", True)])
def test_a_run_stopped_at_any_step_submits_nothing_twice(tmp_path, server, step, made):
    server.batches = {f"other_{n}": {"id": f"other_{n}", "metadata": None} for n in range(3)}  # of another program
    stopped_at(tmp_path, server, queries(), step, made)
    assert len(server.batches) == 3 + (made and step != "upload") and not kept(tmp_path)
    assert [bool(note["id"]) for note in notes(tmp_path)] == {"upload": [], "look": [True]}.get(step, [False])
    assert judge(tmp_path, server, queries())[0] == TRUTH
    assert len(server.batches) == 3 + 1 and not notes(tmp_path) and len(kept(tmp_path)) == 4
