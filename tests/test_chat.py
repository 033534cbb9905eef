"""The client of OpenAI-compatible servers, against a real HTTP server on the loopback: faults, ends, what is shown."""

import logging
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from chat_server import CLOSE, HANG, NO_COMPLETION

from safeeraser import chat
from safeeraser.chat import Chat, read_key
from safeeraser.errors import BadInput
from safeeraser.replies import Failure, Reply

KEY = "sk-test-0123456789-secret"
PROMPT = "a prompt that nobody may print"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The client's first back-off is half a second, and a pause for the rate limit half a minute."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.002)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.01)
    for name, seconds in {"PAUSE": 0.1, "GARBAGE_PAUSE": 0.01, "LONGEST_GARBAGE_PAUSE": 0.02}.items():
        monkeypatch.setattr(chat, name, seconds)


def client(url, **more):
    return Chat("some-model", **{"api_key": KEY, "base_url": url, "concurrency": 8, **more})


def calls(number, text=PROMPT):
    """`number` calls, each with its number in the prompt."""

    def request(i):
        return lambda: {"messages": [{"role": "user", "content": f"{text} {i}"}], "max_tokens": 5, "seed": i}

    return [(i, request(i)) for i in range(number)]


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
    [(_, authorization, path, body)] = server.requests
    assert (authorization, path) == (f"Bearer {KEY}", "/v1/chat/completions")
    assert body == {"model": "some-model", "max_tokens": 5, "seed": 0, "messages": body["messages"]}
    assert [len(list(asked.ask(calls(count)))) for count in (3, 0, 3)] == [3, 0, 3], "again, and for nothing"
    server = serve(lambda number, prompt: (200, {}, b'{"choices": [{"message": {}}], "usage": "none", "model": 3}'))
    [(_, reply)] = client(server.url).ask(calls(1))
    assert reply == Reply("", None, None, None, reply.seconds, None)


SLOWLY, QUICKLY = {"Retry-After": "7200"}, {"retry-after-ms": "1"}
BAD, GONE = "BadRequestError (HTTP 400)", "no chat completion"
# status, headers, reply -> the failure of a call, or the end of the run; and how many requests one call makes with one
# retry. A rate limit comes back three times after a pause.
FAULTS = [
    (400, {}, "context_length_exceeded", BAD, True, 1),
    (413, {}, "t", "APIStatusError (HTTP 413)", True, 1),
    (422, SLOWLY, "t", "UnprocessableEntityError (HTTP 422)", True, 1),
    (429, QUICKLY, "rate_limit_exceeded", "RateLimitError (HTTP 429)", False, 8),
    (429, {"Retry-After": "0.01"}, "rate_limit_exceeded", "RateLimitError (HTTP 429)", False, 8),
    (500, {}, "t", "InternalServerError (HTTP 500)", False, 2),
    (503, QUICKLY, "t", "InternalServerError (HTTP 503)", False, 2),
    (200, {}, HANG, "APITimeoutError", False, 2),
    (200, {}, NO_COMPLETION, GONE, False, 2),
    (200, {}, b"<html>please log in</html>", GONE, False, 2),
    (200, {}, b"[" * 300_000, GONE, False, 2),
    (200, {}, b"\xff\xfe", GONE, False, 2),
    (200, {}, b'{"choices": 3}', GONE, False, 2),
    (200, {}, b'{"choices": [{"message": {"content": {"a": 1}}}]}', GONE, False, 2),
    (401, {}, "invalid_api_key", "the judge at 127.0.0.1 does not accept the API key (HTTP 401)", None, 1),
    (403, {}, "forbidden", "does not accept the API key (HTTP 403)", None, 1),
    (400, {}, "invalid_api_key", "does not accept the API key (HTTP 400)", None, 1),
    (404, {}, "model_not_found", "knows no model 'some-model', or --base_url is wrong (HTTP 404)", None, 1),
    (402, {}, "t", "takes no more calls on this account (HTTP 402)", None, 1),
    (429, QUICKLY, "insufficient_quota", "takes no more calls on this account (insufficient_quota)", None, 2),
    (429, QUICKLY, "billing_not_active", "takes no more calls on this account (billing_not_active)", None, 2),
    (429, SLOWLY, "rate_limit", "takes no more calls for 2.0 hours (HTTP 429)", None, 1),
    (200, {}, CLOSE, "cannot be reached", None, 2),
]


@pytest.mark.parametrize(("status", "headers", "reply", "says", "at_fault", "requests"), FAULTS)
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


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://localhost/v1", "http://", "http://[::1", "judge"])
def test_an_address_that_is_none(url):
    with pytest.raises(BadInput, match=r"--base_url (is no address|or the environment's proxy)"):
        client(url)


@pytest.mark.parametrize(
    ("good", "dead", "concurrency", "after"),
    [
        (30, (200, {}, CLOSE), 3, "has not answered the last 8 calls (APIConnectionError"),
        (30, (502, QUICKLY, "t"), 20, "has not answered the last 20 calls (InternalServerError"),
        (30, (200, {}, b"null"), 3, "has not answered the last 16 calls (no chat completion"),
        (20, (429, QUICKLY, "insufficient_quota"), 4, "takes no more calls on this account"),
        (
            0,
            (422, {}, "wrong_thing"),
            3,
            "has refused each of 8 calls (UnprocessableEntityError (HTTP 422), wrong_thing)",
        ),
    ],
)
def test_a_server_that_fails_in_the_night_does_not_use_up_the_calls(serve, good, dead, concurrency, after):
    """What was answered is handed over; as many calls in a row must fail as can be in flight, eight at least."""
    server = serve(lambda number, prompt: (200, {}, "yes") if number < good else dead)
    got, says = until_stopped(client(server.url, concurrency=concurrency, retries=1).ask(calls(1000)))
    assert f"the judge at 127.0.0.1 {after}" in says
    kinds = Counter(type(outcome) for _, outcome in got)
    assert kinds[Reply] == good and kinds[Failure] < 40 and len(server.requests) < good + 150


def test_single_failures_do_not_add_up(serve):
    server = serve(lambda number, prompt: (200, {}, "yes") if number % 5 == 0 else (500, {}, "t"))
    outcomes = list(client(server.url, concurrency=1, retries=0).ask(calls(60)))
    assert sum(isinstance(outcome, Failure) for _, outcome in outcomes) == 48


def test_a_rate_limit_that_outlasts_the_clients_retries_is_waited_for(serve, caplog):
    server = serve(lambda number, prompt: (429, {}, "rate_limit") if number < 3 else (200, {}, "yes"))
    outcomes = list(client(server.url, retries=0).ask(calls(10)))
    assert all(isinstance(outcome, Reply) for _, outcome in outcomes)
    assert "the judge at 127.0.0.1 limits the rate of calls: waiting 0 s" in caplog.text
    times = [at for at, *_ in server.requests]
    assert times[3] - times[0] > 0.25, "three pauses of a tenth of a second"


def test_the_first_call_goes_alone_and_then_as_many_as_allowed(serve):
    together = threading.Barrier(6)
    server = serve(lambda number, prompt: (number and together.wait(30), (200, {}, "yes"))[1])
    outcomes = client(server.url, concurrency=6).ask(calls(1 + 6 * 5))
    next(outcomes)
    assert server.peak == 1
    assert len(list(outcomes)) == 30 and server.peak == 6


def test_requests_are_made_only_when_there_is_room(serve):
    server = serve(lambda number, prompt: (200, {}, "yes"))
    read, made, given = 0, 0, 0

    def lazily():
        nonlocal read
        for key, request in calls(60):
            read += 1
            assert read - given <= 5

            def make(request=request):
                nonlocal made
                made += 1
                assert made - given <= 5
                return request()

            yield key, make

    for _ in client(server.url, concurrency=5).ask(lazily()):
        given += 1
    assert read == made == given == 60


@pytest.mark.parametrize("given", [[*calls(4), (4, lambda: [][0])], (calls(4)[3 // n] for n in (1, 1, 0))])
def test_what_the_caller_raises_reaches_the_caller(serve, given, capfd):
    """In the making of a request, or of the list of calls."""
    server = serve(lambda number, prompt: (200, {}, "yes"))
    with pytest.raises((IndexError, ZeroDivisionError)):
        list(client(server.url, concurrency=2).ask(given))
    assert capfd.readouterr().err == ""


def test_requests_per_minute_spaces_the_requests_and_their_retries(serve):
    server = serve(lambda number, prompt: (200, {}, "yes") if number % 3 else (500, QUICKLY, "t"))
    assert len(list(client(server.url, requests_per_minute=1500).ask(calls(10)))) == 10
    times = [at for at, *_ in server.requests]
    # A request may be late on its way, so a single gap says little; ten calls without their retries take 0.36 s.
    assert len(times) == 15 and times[-1] - times[0] >= 14 * 0.04 - 0.1


def test_closing_cancels_what_is_in_flight(serve, capfd, recwarn):
    server = serve(lambda number, prompt: (200, {}, HANG if number > 1 else "yes"))
    outcomes = client(server.url, timeout=600).ask(calls(50))
    next(outcomes), next(outcomes)
    outcomes.close()  # what hangs would hold it for half a minute
    assert len(server.requests) <= 9 and not server.stopped.is_set()
    assert capfd.readouterr().err == "" and not recwarn.list


SCRIPT = """
import logging, sys
from safeeraser.chat import Chat
logging.basicConfig(level=logging.INFO)
calls = ((i, lambda: {"messages": [{"role": "user", "content": "%s"}]}) for i in range(50))
outcomes = Chat("m", api_key="%s", base_url=sys.argv[1], concurrency=8).ask(calls)
try:
    for key, outcome in outcomes:
        print(key, flush=True)
        if "forgotten" in sys.argv and key:
            break
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["interrupted", "forgotten"])
def test_ctrl_c_and_a_generator_that_nobody_closed_leave_nothing_on_stderr(serve, how):
    server = serve(lambda number, prompt: (200, {}, HANG if number > 5 else "yes"))
    command = [sys.executable, "-W", "default", "-c", SCRIPT % (PROMPT, KEY), server.url, how]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while how == "interrupted" and len(server.requests) < 14 and time.monotonic() < deadline:
        time.sleep(0.02)
    if how == "interrupted":
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=25)
    assert err == "" and len(set(out.split()) - {how}) == (6 if how == "interrupted" else 2)


def test_a_key_is_given_or_found_or_not_needed(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    words = {"who": "the judge", "otherwise": "--judge rules needs none"}
    assert read_key(f" {KEY}\n", None, **words) == KEY
    assert read_key(None, "http://localhost:8000/v1", **words) == "none"
    with pytest.raises(BadInput, match=r"the judge needs a key: set OPENAI_API_KEY .*--judge rules"):
        read_key(" ", None, **words)
    with pytest.raises(BadInput, match="the API key holds a character that no key has") as refused:
        read_key(f"{KEY} and more", None, **words)
    assert KEY not in str(refused.value)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert read_key(None, "http://localhost:8000/v1", **words) == KEY
