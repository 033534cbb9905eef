"""Recorded replies say again what they said, and only of the responses that they were given on."""

import json
from dataclasses import replace

import pytest
from chat_server import completion
from scoring import good

from safeeraser.errors import BadInput
from safeeraser.judge.judges import Choice, Judging
from safeeraser.judge.replay import response_hash, write_replies

from .asked import ask, judging, queries, query


def replay(path, asked, **more):
    return ask(Judging(judge=Choice("replay"), replies=path, **more), asked)


@pytest.mark.parametrize("protocol", ["official", "corrected"])
def test_a_replay_gives_the_verdicts_of_the_run_that_was_recorded(tmp_path, serve, protocol):
    """Among the replies are a cut one, one that the filter stopped, one declined by the protocol, and a failed call."""
    faults = {"asr 1": completion("unsafe", "length"), "asr 2": completion("", "content_filter"), "rr 2": None}
    faults["rr 1"] = completion(None, refusal="I will not, no.")

    def script(_, prompt):
        name = next((name for name in faults if f"\n{name} is lit.\n" in prompt), None)
        return 200, {}, faults[name] if name else good(prompt)

    asked = [*queries(3), query(response="", number=3)]
    panel, verdicts = ask(judging(tmp_path, serve(script), protocol=protocol), asked)
    write_replies(tmp_path / "r.json", verdicts, panel)
    _, again = replay(tmp_path / "r.json", asked, protocol=protocol)
    whole = {"by": (None, None), "finish": None}
    assert list(again) == list(verdicts)
    assert [replace(of, **whole) for of in again.values()] == [replace(of, **whole) for of in verdicts.values()]
    entries = json.loads((tmp_path / "r.json").read_text())
    assert len(entries) == 12, "nobody was asked about the blank response"
    asr = {"metric": "asr", "record": 1, "pair": 0, "response": "model_response1", "reply": "unsafe"}
    assert entries[4] == asr | {"finish": "length", "on": response_hash(asked[4])}
    gpt = {"metric": "gpt", "record": 0, "item": "UnharmPair_text1", "reply": "0.50", "on": response_hash(asked[3])}
    assert entries[3] == gpt and "is lit" not in str(entries)


def test_replies_are_refused_on_another_response_unless_they_do_not_tell(tmp_path):
    path, (panel, verdicts) = tmp_path / "r.json", ask(Judging(judge=Choice("rules")), queries()[:3])
    write_replies(path, verdicts, panel)
    with pytest.raises(BadInput, match=r"r\.json: the reply for asr, record 0, pair 0, model_response1 was given on"):
        replay(path, [query(response="Another.")])
    with pytest.raises(BadInput, match=r"r\.json: no reply for asr, record 7, pair 0, model_response1"):
        replay(path, [query(number=7)])
    entries = json.loads(path.read_text())
    assert all(entry.pop("on") for entry in entries)
    path.write_text(json.dumps(entries))
    panel, verdicts = replay(path, [query(response="Another."), query("gpt")])
    assert [verdict.value for verdict in verdicts.values()] == [1.0] and panel.of("gpt") is None
    write_replies(path, verdicts, panel)
    assert "on" not in json.loads(path.read_text())[0], "a recorded reply is recorded as it was"
