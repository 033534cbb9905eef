"""The client of OpenAI-compatible servers, against a real HTTP server: faults, early ends, and no key in any output."""

import logging
import random
import threading
from collections import Counter
from contextlib import nullcontext

import pytest
from chat_server import CLOSE, HANG, NO_COMPLETION
from helpers import read_beside

from safeeraser.chat import Chat
from safeeraser.errors import BadInput
from safeeraser.keys import ApiKey, read_key
from safeeraser.replies import Failure, Reply

KEY = "sk-test-0123456789-secret"
PROMPT = "a prompt that nobody may print"
KEYS = read_beside(__file__, "keys.yaml")


def client(url, **more):
    return Chat("some-model", **{"api_key": ApiKey(KEY), "base_url": url, "concurrency": 8, **more})


def calls(number):
    """`number` calls, each with its number in the prompt."""
    asked = [{"messages": [{"role": "user", "content": f"{PROMPT} {i}"}]} for i in range(number)]
    return [(i, lambda i=i: asked[i] | {"max_tokens": 5, "seed": i}) for i in range(number)]


def until_stopped(outcomes):
    """The outcomes up to the error that ended them, and its message."""
    got = []
    with pytest.raises(BadInput) as stop:
        got.extend(outcomes)
    assert stop.value.__context__ is None and stop.value.__cause__ is None, "they hold the request, with the key"
    return got, str(stop.value)


def test_a_reply_carries_what_the_server_said_and_none_for_the_rest(serve):
    server = serve(lambda number, prompt: (200, {}, "hello"))
    asked = client(server.url)
    [(_, reply)] = asked.ask(calls(1))
    assert reply == Reply("hello", "m", 7, 3, reply.seconds, "stop") and reply.seconds > 0
    [(_, *sent, body)] = server.requests
    assert sent == [f"Bearer {KEY}", "/v1/chat/completions"]
    assert body == {"model": "some-model", "max_tokens": 5, "seed": 0, "messages": body["messages"]}
    assert [len(list(asked.ask(calls(count)))) for count in (3, 0, 3)] == [3, 0, 3], "again, and for nothing"
    server = serve(lambda number, prompt: (200, {}, b'{"choices": [{"message": {}}], "usage": "none", "model": 3}'))
    [(_, reply)] = client(server.url).ask(calls(1))
    assert reply == Reply("", None, None, None, reply.seconds, None)


QUICKLY = {"retry-after-ms": "1"}
# Special replies by their names in faults.yaml.
WAYS = {
    "HANG": HANG,
    "CLOSE": CLOSE,
    "NO_COMPLETION": NO_COMPLETION,
    "HTML": b"<html>log in</html>",
    "DEEP": b"[" * 300_000,
}
FAULTS = [(*of[:2], WAYS.get(of[2], of[2]), *of[3:]) for of in read_beside(__file__, "faults.yaml")]


@pytest.mark.parametrize(
    ("status", "headers", "reply", "says", "at_fault", "requests"), FAULTS, ids=[fault[3] for fault in FAULTS]
)
def test_what_becomes_of_each_fault(serve, caplog, capfd, status, headers, reply, says, at_fault, requests):
    """Neither key nor prompt is shown, though the server repeats the key."""
    caplog.set_level(logging.DEBUG)
    server = serve(lambda number, prompt: (status, headers, reply))
    asked = client(server.url, timeout=0.3 if reply is HANG else 30, retries=1)
    if at_fault is None:
        got, found = until_stopped(asked.ask(calls(50)))
        assert not got and says in found
    else:
        [(_, found)] = asked.ask(calls(1))
        assert found == Failure(says, at_fault)
    assert len(server.requests) == requests
    shown = caplog.text + "".join(capfd.readouterr()) + repr(asked) + repr(found)
    assert KEY not in shown and PROMPT not in shown
    assert not [one for one in caplog.records if one.name.split(".")[0] in ("openai", "httpx2", "httpcore2")]


def test_with_faults_in_three_of_ten_requests_every_call_has_one_outcome(serve):
    drawn, replied = random.Random(0), Counter()
    passing = [(*fault[:3],) for fault in FAULTS if fault[4] is False and fault[2] is not HANG]
    passing += [(200, {}, CLOSE), (422, {}, "t"), (200, {}, None), (200, {}, "x" * 300_000)]

    def script(number, prompt):
        fault = drawn.choice(passing) if number and drawn.random() < 0.3 else None
        replied[prompt] += fault is None
        return fault or (200, {}, f"to {prompt}")

    server = serve(script)
    outcomes = list(client(server.url, concurrency=32).ask(calls(200)))
    assert sorted(key for key, _ in outcomes) == list(range(200)) and server.peak <= 32
    for key, outcome in outcomes:
        if isinstance(outcome, Reply):
            assert outcome.text in (f"to {PROMPT} {key}", "", "x" * 300_000)
    kinds = {outcome.kind for _, outcome in outcomes if isinstance(outcome, Failure)}
    assert kinds == {"UnprocessableEntityError (HTTP 422)"}, "the others go with a retry"
    assert max(replied.values()) == 1, "no prompt is asked again once it has its answer"


@pytest.mark.parametrize(
    ("good", "dead", "concurrency", "after"),
    [
        (30, (200, {}, CLOSE), 3, "has not answered the last 8 calls (APIConnectionError"),
        (30, (502, QUICKLY, "t"), 20, "has not answered the last 20 calls (InternalServerError"),
        (30, (200, {}, b"null"), 3, "has not answered the last 16 calls (no chat completion"),
        (0, (422, {}, "wrong"), 3, "has refused each of 8 calls (UnprocessableEntityError (HTTP 422), wrong)"),
    ],
)
def test_a_server_that_fails_in_the_night_does_not_use_up_the_calls(serve, good, dead, concurrency, after):
    """Earlier answers are kept. The client stops after max(8, `concurrency`) failures in a row; garbage: twice."""
    server = serve(lambda number, prompt: (200, {}, "yes") if number < good else dead)
    got, says = until_stopped(client(server.url, concurrency=concurrency, retries=1).ask(calls(1000)))
    assert f"the judge at 127.0.0.1 {after}" in says
    kinds = Counter(type(outcome) for _, outcome in got)
    assert kinds[Reply] == good and kinds[Failure] < 40 and len(server.requests) < good + 150


def test_a_rate_limit_that_outlasts_the_clients_retries_is_waited_for(serve, caplog):
    server = serve(lambda number, prompt: (429, {}, "rate_limit") if number < 3 else (200, {}, "yes"))
    outcomes = list(client(server.url, retries=0).ask(calls(10)))
    assert all(isinstance(outcome, Reply) for _, outcome in outcomes)
    assert "the judge at 127.0.0.1 limits the rate of calls: waiting 0 s" in caplog.text
    times = [at for at, *_ in server.requests]
    assert times[3] - times[0] > 0.25, "three pauses of a tenth of a second"
    server = serve(lambda number, prompt: (200, {}, "yes") if number % 5 == 0 else (500, {}, "t"))
    assert len(list(client(server.url, concurrency=1, retries=0).ask(calls(60)))) == 60, "single ones do not add up"


def test_the_first_call_goes_alone_and_then_as_many_as_allowed(serve):
    together = threading.Barrier(6)
    server = serve(lambda number, prompt: (number and together.wait(30), (200, {}, "yes"))[1])
    outcomes = client(server.url, concurrency=6).ask(calls(1 + 6 * 5))
    next(outcomes)
    assert server.peak == 1
    assert len(list(outcomes)) == 30 and server.peak == 6


def test_requests_per_minute_spaces_the_requests_and_their_retries(serve):
    server = serve(lambda number, prompt: (200, {}, "yes") if number % 3 else (500, QUICKLY, "t"))
    assert len(list(client(server.url, requests_per_minute=1500).ask(calls(10)))) == 10
    times = [at for at, *_ in server.requests]
    # Only the total is checked, because a single request may be late. Ten requests without retries take 0.36 s.
    assert len(times) == 15 and times[-1] - times[0] >= 14 * 0.04 - 0.1


def test_closing_cancels_what_is_in_flight(serve, capfd, recwarn):
    server = serve(lambda number, prompt: (200, {}, HANG if number > 1 else "yes"))
    outcomes = client(server.url, timeout=600).ask(calls(50))
    next(outcomes), next(outcomes)
    outcomes.close()  # a call that hangs would last half a minute
    assert len(server.requests) <= 9 and not server.stopped.is_set()
    assert capfd.readouterr().err == "" and not recwarn.list


@pytest.mark.parametrize(("given", "url", "variables", "found"), KEYS)
def test_a_key_is_given_or_found_or_not_needed(monkeypatch, given, url, variables, found):
    monkeypatch.delenv("KEY_OVER_HTTP", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with nullcontext() if isinstance(found, list) else pytest.raises(BadInput, match=found) as refused:
        words = {"variables": ["OPENAI_API_KEY"], "who": "the judge", "otherwise": "--judge rules needs none"}
        assert [*read_key(given, url, **words)] == found
    assert not refused or "sk-" not in str(refused.value)
