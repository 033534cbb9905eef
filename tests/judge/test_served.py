"""A judge behind a server: its requests, the parameters that a server may refuse, who answered, and the keys."""

import json
import re
from urllib.parse import urlsplit

import pytest
from chat_server import completion
from scoring import KEY, good

from safeeraser.errors import BadInput
from safeeraser.judge.dialects import prompts_version, render_prompt
from safeeraser.judge.judge import Spent
from safeeraser.judge.judging import Choice
from safeeraser.judge.panel import Panel

from .asked import TRUTH, ask, judging, kept, queries, query, words

OPTIONAL = {"response_format", "max_tokens", "temperature"}
ALL = sorted(OPTIONAL)


def form(kind):
    """The structured output that a request asks for."""
    schema = {"type": "object", "properties": {"verdict": kind}, "required": ["verdict"], "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": schema}}


WORDS = [{"type": "string", "enum": list(of)} for of in (("unsafe", "safe"), ("yes", "no"), ("yes", "no"))]
FORMS = {"response_format": [form(kind) for kind in (*WORDS, {"type": "number"})]}


@pytest.mark.parametrize(
    "more, changed",
    [
        ({"extra_body": {"temperature": None}, "model": "some", "max_tokens": 9}, {"model": "some", "max_tokens": 9}),
        ({"protocol": "corrected"}, FORMS | {"temperature": 0}),
    ],
)
def test_each_request_is_the_prompt_and_what_was_asked_for_and_nothing_else(tmp_path, serve, more, changed):
    server = serve(lambda _, prompt: (200, {}, good(prompt)))
    panel, verdicts = ask(judging(tmp_path, server, concurrency=1, **more), queries())
    assert words(verdicts) == TRUTH
    for number, (one, (*_, body)) in enumerate(zip(queries(), server.requests, strict=True)):
        expected = {key: value[number] if isinstance(value, list) else value for key, value in changed.items()}
        prompt = render_prompt(one, swapped="protocol" not in more)
        usual = {"model": "gpt-4o", "max_tokens": 64, "messages": [{"role": "user", "content": prompt}]}
        assert body == usual | expected
    (judge,) = panel.served
    assert (judge.spent, judge.refused, judge.failures) == (Spent(4, 28, 12), frozenset(), {})


def test_what_was_said_is_kept_with_who_said_it_and_what_it_took(tmp_path, serve):
    """The server changes its model in mid-run, and once repeats the key where the model's name belongs."""
    names = iter(["m-1", "m-1", KEY, "m-2"])
    server = serve(lambda _, prompt: (200, {}, completion(good(prompt), model=next(names), fingerprint="fp")))
    given = judging(tmp_path, server, concurrency=1, api_key=KEY)
    panel, verdicts = ask(given, queries())
    who = {"judge": "openai:gpt-4o", "fingerprint": "fp"}
    told = [who | {"model": name, "replies": n} for name, n in (("m-1", 2), (None, 1), ("m-2", 1))]
    assert panel.answered_by(verdicts) == told
    entries = kept(tmp_path)
    assert [entry.pop("verdicts") for entry in entries] == [{"asr": 1.0}, {"rr": 0.0}, {"sarr": 0.0}, {"gpt": 0.5}]
    assert all(entry.pop("seconds") >= 0 and re.fullmatch(r"20[-\d]+T[:\d]+Z", entry.pop("at")) for entry in entries)
    assert len({entry.pop("request") for entry in entries}) == 4
    same = {"judge": "openai", "model": "gpt-4o", "prompt": prompts_version(), "finish": "stop", "fingerprint": "fp"}
    same |= {"prompt_tokens": 7, "completion_tokens": 3}
    said = zip(("unsafe", "no", "yes", "0.50"), ("m-1", "m-1", None, "m-2"), strict=True)
    assert entries == [same | {"reply": reply, "answered_by": name} for reply, name in said]
    assert KEY not in (tmp_path / "store.jsonl").read_text()
    again, found = ask(given, queries())
    assert again.answered_by(found) == told and len(server.requests) == 4, "from the store they are known as well"
    assert again.served[0].spent == Spent()


@pytest.mark.parametrize(
    "refuses, told, tries",
    [
        (ALL, True, 3),
        (["response_format"], False, 2),  # once more with all: something else may have been wrong
        (["max_tokens"], False, 3),
        (ALL, False, 4),
    ],
)
def test_what_a_server_does_not_take_is_found_out_once_and_remembered(tmp_path, serve, refuses, told, tries):
    """`told`: whether the server names the parameter that it refuses."""

    def script(number, prompt):
        name = next((name for name in refuses if name in server.requests[number][3]), None)
        error = {"message": "no", "type": "t", "code": "unsupported_parameter", "param": name if told else None}
        return (400, {}, json.dumps({"error": error}).encode()) if name else (200, {}, good(prompt))

    server = serve(script)
    given = judging(tmp_path, server, protocol="corrected")
    panel, verdicts = ask(given, queries())
    assert words(verdicts) == TRUTH and len(server.requests) == tries + 4
    refused = panel.served[0].refused
    # If the server does not name it, the parameters that are likelier to be refused are left out as well.
    assert refused == set(refuses) if told else refused >= set(refuses)
    for *_, body in server.requests[tries + 1 :]:
        assert body.keys() & OPTIONAL == OPTIONAL - refused
        assert ("max_completion_tokens" in body) == ("max_tokens" in refused)
    again, found = ask(given, [*queries(), query(response="Another.")])
    assert words(found) == [*TRUTH, "unsafe"] and len(server.requests) == tries + 5
    assert again.served[0].refused == refused and not refused & server.requests[-1][3].keys()


def test_keys_and_addresses_are_used_and_not_kept(tmp_path, serve, monkeypatch):
    """The given key is sent, else the environment's, else a placeholder. No password of an address is stored.

    A guard, or the judge openai at another address than the main judge's, is never sent OPENAI_API_KEY. It gets the key
    in the variable for its name or its host.
    """
    server = serve(lambda _, prompt: (200, {}, good(prompt)))
    ask(judging(tmp_path, server), [query(response="1")])
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    ask(judging(tmp_path, server), [query(response="2")])
    ask(judging(tmp_path, server, api_key="another"), [query(response="3")])
    assert [key for _, key, *_ in server.requests] == ["Bearer none", f"Bearer {KEY}", "Bearer another"]
    other = serve(lambda _, prompt: (200, {}, good(prompt)))
    judges = {"asr": Choice("llamaguard", None, other.url), "rr": Choice("openai", None, other.url)}
    for number, own in enumerate(("none", "its")):
        ask(judging(tmp_path / own, server, judges=judges), queries())
        assert {key for _, key, *_ in server.requests[3:]} == {f"Bearer {KEY}"}
        assert [key for _, key, *_ in other.requests[2 * number :]] == [f"Bearer {own}"] * 2
        monkeypatch.setenv("LLAMAGUARD_API_KEY", "its")
        monkeypatch.setenv(f"KEY_FOR_127_0_0_1_{urlsplit(other.url).port}", "its")
    with pytest.raises(BadInput, match=r"a key belongs to one host, and the judges are at 127.0.0.1:\d+, 127.0.0.1:"):
        Panel(judging(tmp_path, server, judges=judges, api_key="another"))
    del server.requests[3:]
    server.url = server.url.replace("//", "//somebody:hunter2@")
    ask(secret := judging(tmp_path, server), [query(response="1")])
    assert len(server.requests) == 3, "the same server, with or without a password"
    assert "hunter2" not in (tmp_path / "store.jsonl").read_text() + str(secret.record) + str(secret)
