"""The client of OpenAI-compatible servers, against a real HTTP server on the loopback."""

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

pytestmark = pytest.mark.slow

KEY = "sk-test-0123456789-secret"
PROMPT = "a prompt that nobody may print"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The client's first back-off is half a second, and a pause for the rate limit half a minute."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.002)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.01)
    monkeypatch.setattr(chat, "PAUSE", 0.1)


def client(url, **more):
    return Chat("some-model", **{"api_key": KEY, "base_url": url, "concurrency": 8, **more})


def calls(number, text=PROMPT):
    """`number` calls, each with its number in the prompt."""

    def request(i):
        return lambda: {"messages": [{"role": "user", "content": f"{text} {i}"}], "max_tokens": 5, "seed": i}

    return [(i, request(i)) for i in range(number)]


def ask_one(url, **more):
    [(_, outcome)] = client(url, **more).ask(calls(1))
    return outcome


def test_a_reply_carries_what_the_server_said(serve):
    server = serve(lambda number, prompt: (200, {}, "hello"))
    reply = ask_one(server.url)
    assert reply == Reply("hello", "m", 7, 3, reply.seconds, "stop") and 0 < reply.seconds < 5
    [(_, authorization, path, body)] = server.requests
    assert (authorization, path) == (f"Bearer {KEY}", "/v1/chat/completions")
    assert body == {"model": "some-model", "max_tokens": 5, "seed": 0, "messages": body["messages"]}


FAULTS = [
    (429, {"Retry-After": "0.01"}, "rate_limit"),
    (429, {}, "rate_limit"),
    (500, {}, "server_error"),
    (503, {"retry-after-ms": "5"}, "overloaded"),
    (200, {}, CLOSE),
    (200, {}, HANG),
    (200, {}, b'{"choices": [{'),
    (200, {}, b'{"id": "c", "choices": []}'),
    (200, {}, NO_COMPLETION),
    (200, {}, None),
    (200, {}, "x" * 300_000),
    (422, {}, "unprocessable"),
]


def test_with_faults_in_three_of_ten_requests_every_call_has_one_outcome(serve):
    drawn, replied = random.Random(0), Counter()

    def script(number, prompt):
        fault = drawn.choice(FAULTS) if number and drawn.random() < 0.3 else None
        replied[prompt] += fault is None
        return fault or (200, {}, f"to {prompt}")

    server = serve(script)
    outcomes = list(client(server.url, concurrency=32, timeout=2.0).ask(calls(300)))
    assert sorted(key for key, _ in outcomes) == list(range(300))
    for key, outcome in outcomes:
        if isinstance(outcome, Reply):
            assert outcome.text in (f"to {PROMPT} {key}", "", "x" * 300_000)
    kinds = Counter(outcome.kind for _, outcome in outcomes if isinstance(outcome, Failure))
    assert set(kinds) == {"UnprocessableEntityError (HTTP 422)"}, "the others go with a retry"
    assert max(replied.values()) == 1, "no prompt is asked again once it has its answer"
    assert server.peak <= 32


@pytest.mark.parametrize(
    "status, reply, kind, at_fault",
    [
        (400, "context_length_exceeded", "BadRequestError (HTTP 400)", True),
        (413, "t", "APIStatusError (HTTP 413)", True),
        (422, "t", "UnprocessableEntityError (HTTP 422)", True),
        (429, "rate_limit_exceeded", "RateLimitError (HTTP 429)", False),
        (500, "t", "InternalServerError (HTTP 500)", False),
        (200, HANG, "APITimeoutError", False),
        (200, NO_COMPLETION, "no chat completion", False),
        (200, b"", "no chat completion", False),
        (200, b"<html>please log in</html>", "no chat completion", False),
        (200, b"[" * 300_000, "no chat completion", False),
        (200, b"null", "no chat completion", False),
        (200, b"[1, 2]", "no chat completion", False),
        (200, b"\xff\xfe", "no chat completion", False),
        (200, b'{"choices": 3}', "no chat completion", False),
        (200, b'{"choices": [3]}', "no chat completion", False),
        (200, b'{"choices": [{"message": "a word"}]}', "no chat completion", False),
        (200, b'{"choices": [{"message": {"content": {"a": 1}}}]}', "no chat completion", False),
    ],
)
def test_what_becomes_of_each_failure(serve, status, reply, kind, at_fault):
    server = serve(lambda number, prompt: (status, {}, reply))
    assert ask_one(server.url, timeout=0.2, retries=1) == Failure(kind, at_fault)


def test_what_a_server_leaves_out_is_none(serve):
    server = serve(lambda number, prompt: (200, {}, b'{"choices": [{"message": {}}], "usage": "none", "model": 3}'))
    reply = ask_one(server.url)
    assert reply == Reply("", None, None, None, reply.seconds, None)


@pytest.mark.parametrize(
    "status, code, says",
    [
        (401, "invalid_api_key", "the judge at 127.0.0.1 does not accept the API key (HTTP 401)"),
        (403, "forbidden", "does not accept the API key (HTTP 403)"),
        (400, "invalid_api_key", "does not accept the API key (HTTP 400)"),
        (404, "model_not_found", "knows no model 'some-model', or --base_url is wrong (HTTP 404)"),
        (405, "t", "or --base_url is wrong (HTTP 405)"),
        (402, "t", "takes no more calls on this account (HTTP 402)"),
        (429, "insufficient_quota", "takes no more calls on this account (insufficient_quota)"),
        (429, "billing_not_active", "takes no more calls on this account (billing_not_active)"),
    ],
)
def test_what_no_call_can_mend_stops_everything_after_the_first(serve, status, code, says):
    server = serve(lambda number, prompt: (status, {}, code))
    with pytest.raises(BadInput) as stop:
        list(client(server.url, retries=1).ask(calls(50)))
    assert says in str(stop.value) and len(server.requests) <= 2
    assert stop.value.__context__ is None and stop.value.__cause__ is None, "they hold the request, with the key"


def until_stopped(outcomes):
    """The outcomes up to the error that ended them, and its message."""
    got = []
    with pytest.raises(BadInput) as stop:
        got.extend(outcomes)
    return got, str(stop.value)


def test_a_quota_that_runs_out_leaves_what_was_answered(serve):
    server = serve(lambda number, prompt: (200, {}, "yes") if number < 20 else (429, {}, "insufficient_quota"))
    got, says = until_stopped(client(server.url, concurrency=4).ask(calls(1000)))
    assert "takes no more calls on this account" in says
    assert len(got) == 20 and len(server.requests) <= 20 + 4 * 6


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://localhost/v1", "http://", "http://[::1", "judge"])
def test_an_address_that_is_none(url):
    with pytest.raises(BadInput, match=r"--base_url (is no address|or the environment's proxy)"):
        client(url)


def test_a_server_that_is_not_there_stops_at_the_first_call():
    got, says = until_stopped(client("http://127.0.0.1:9/v1", who="the model").ask(calls(50)))
    assert not got and says == "the model at 127.0.0.1 cannot be reached; is --base_url right?"


@pytest.mark.parametrize("concurrency, after", [(3, 8), (20, 20)])
@pytest.mark.parametrize("dead, kind", [(CLOSE, "APIConnectionError"), ((502, {}, "t"), "InternalServerError")])
def test_a_server_that_dies_in_the_night_does_not_use_up_the_calls(serve, concurrency, after, dead, kind):
    dead = (200, {}, CLOSE) if dead is CLOSE else dead
    server = serve(lambda number, prompt: (200, {}, "yes") if number < 30 else dead)
    got, says = until_stopped(client(server.url, concurrency=concurrency, retries=1).ask(calls(1000)))
    assert f"the judge at 127.0.0.1 has not answered the last {after} calls ({kind}" in says
    kinds = Counter(type(outcome) for _, outcome in got)
    assert kinds[Reply] == 30 and kinds[Failure] < 2 * after


def test_single_failures_do_not_add_up(serve):
    server = serve(lambda number, prompt: (200, {}, "yes") if number % 5 == 0 else (500, {}, "t"))
    outcomes = list(client(server.url, concurrency=1, retries=0).ask(calls(60)))
    assert sum(isinstance(outcome, Failure) for _, outcome in outcomes) == 48


def test_a_rate_limit_that_outlasts_the_clients_retries_is_waited_for(serve, caplog):
    began = []

    def script(number, prompt):
        began.append(time.monotonic())
        return (429, {}, "rate_limit") if began[-1] - began[0] < 0.15 else (200, {}, "yes")

    server = serve(script)
    outcomes = list(client(server.url, retries=0).ask(calls(10)))
    assert all(isinstance(outcome, Reply) for _, outcome in outcomes)
    assert "the judge at 127.0.0.1 limits the rate of calls: waiting 0 s" in caplog.text


def test_a_limit_by_the_day_ends_the_run(serve):
    server = serve(lambda number, prompt: (429, {"Retry-After": "7200"}, "rate_limit"))
    got, says = until_stopped(client(server.url).ask(calls(10)))
    assert not got and "the judge at 127.0.0.1 takes no more calls for 2.0 hours (HTTP 429)" in says
    assert len(server.requests) == 1


def test_the_first_call_goes_alone_and_then_as_many_as_allowed(serve):
    together = threading.Barrier(6)
    server = serve(lambda number, prompt: (number and together.wait(10), (200, {}, "yes"))[1])
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


@pytest.mark.parametrize("fault", ["in the list", "in a request"])
def test_what_the_caller_raises_reaches_the_caller(serve, fault, capfd):
    server = serve(lambda number, prompt: (200, {}, "yes"))

    def broken():
        raise OSError(fault)

    def given():
        yield from calls(4)
        if fault == "in the list":
            broken()
        yield 4, broken

    with pytest.raises(OSError, match=fault):
        list(client(server.url, concurrency=2).ask(given()))
    assert capfd.readouterr().err == ""


def test_requests_per_minute_spaces_the_requests_and_their_retries(serve):
    server = serve(lambda number, prompt: (200, {}, "yes") if number % 3 else (500, {"retry-after-ms": "1"}, "t"))
    assert len(list(client(server.url, requests_per_minute=750).ask(calls(10)))) == 10
    times = [at for at, *_ in server.requests]
    assert len(times) == 15
    # A request may be late on its way, so a single gap says little; ten calls without their retries take 0.72 s.
    assert times[-1] - times[0] >= 14 * 0.08 - 0.2


def test_closing_cancels_what_is_in_flight(serve, capfd, recwarn):
    server = serve(lambda number, prompt: (200, {}, HANG if number > 1 else "yes"))
    outcomes = client(server.url).ask(calls(50))
    next(outcomes), next(outcomes)
    began = time.monotonic()
    outcomes.close()
    assert time.monotonic() - began < 5 and len(server.requests) <= 9
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


def run_script(server, *arguments):
    command = [sys.executable, "-W", "default", "-c", SCRIPT % (PROMPT, KEY), server.url, *arguments]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_ctrl_c_leaves_nothing_on_stderr(serve):
    server = serve(lambda number, prompt: (200, {}, HANG if number > 5 else "yes"))
    process = run_script(server)
    deadline = time.monotonic() + 30
    while len(server.requests) < 14 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    *keys, last = out.split()
    assert (len(set(keys)), last, err) == (6, "interrupted", "")


def test_a_generator_that_nobody_closed_does_not_keep_the_process_from_its_end(serve):
    process = run_script(serve(lambda number, prompt: (200, {}, HANG if number > 1 else "yes")), "forgotten")
    out, err = process.communicate(timeout=10)
    assert len(out.split()) == 2 and not err


def test_a_chat_can_be_asked_again_and_for_nothing(serve):
    asked = client(serve(lambda number, prompt: (200, {}, "yes")).url)
    assert [len(list(asked.ask(calls(count)))) for count in (3, 0, 3)] == [3, 0, 3]


def test_neither_key_nor_prompt_nor_a_line_a_request_is_shown(serve, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    drawn = random.Random(1)
    server = serve(lambda number, prompt: drawn.choice(FAULTS))
    asked = client(server.url, timeout=0.2, retries=1, concurrency=100)
    outcomes = list(asked.ask(calls(60)))
    shown = caplog.text + "".join(capfd.readouterr()) + repr(asked) + repr(outcomes)
    assert KEY not in shown and PROMPT not in shown
    assert not [record for record in caplog.records if record.name.split(".")[0] in ("openai", "httpx2", "httpcore2")]


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
