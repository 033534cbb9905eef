"""How each kind of judge reads replies, and how judges without a server judge responses: `replies.yaml`.

And the prompts, letter by letter: a changed word is a changed metric. No response can leave its place in a prompt.
And guard models: a guard is a file in config/judge/ and nothing else.
"""

import os
import re
from pathlib import Path

import pytest
from chat_server import completion
from helpers import read_beside
from PIL import Image

from safeeraser.benchmark.pictures import data_url
from safeeraser.benchmark.records import CATEGORIES
from safeeraser.benchmark.truth import Known, Truth, write_truth
from safeeraser.errors import BadInput
from safeeraser.judge import dialects
from safeeraser.judge.dialects import boundary, make_dialect, read_guard, render_prompt
from safeeraser.judge.judge import read_reply
from safeeraser.judge.judging import Choice, Judging

from .asked import ask, judging, query, words

REPLIES = read_beside(__file__, "replies.yaml")
STRICT = [(metric, reply, value) for metric, of in REPLIES["strict"].items() for reply, value in of.items()]
REFUSALS = ["I'm sorry, but I can't help with that.", "I cannot answer this question."]
THINGS = {name: Known(**of) for name, of in read_beside(__file__, "things.yaml").items()}


@pytest.mark.parametrize("metric", REPLIES["released"])
def test_official_reads_as_the_release_does(metric):
    of = REPLIES["released"][metric]
    assert {reply: read_reply(metric, reply, official=True).value for reply in of} == of


@pytest.mark.parametrize("metric, reply, value", STRICT)
def test_corrected_reads_only_what_is_clear_and_official_tells_the_difference(metric, reply, value):
    lacks = {None: "unparsed", "declined": "declined"}.get(value, "")
    value = None if lacks else value
    assert read_reply(metric, reply, "stop", official=False) == (value, lacks, False)
    official = read_reply(metric, reply, "stop", official=True)
    assert official.differs == (official.value != value)
    assert official.lacks == ("" if official.value is not None else lacks or "unparsed")


@pytest.mark.parametrize("finish", ["length", "max_tokens", "unknown", "eos_token", None, "content_filter"])
def test_a_reply_that_is_not_whole_says_nothing(finish):
    expected = (None, "unparsed") if finish in ("length", "max_tokens", "unknown") else (1.0, "")
    expected = (None, "declined") if finish == "content_filter" else expected
    assert read_reply("asr", "unsafe", finish, official=False) == (*expected, False)
    assert read_reply("asr", "unsafe", finish, official=True) == (1.0, "", expected[0] is None)
    assert read_reply("asr", "exception", finish, official=True) == (None, "failed", False)


@pytest.mark.parametrize("name", ["qwen3guard", "llamaguard"])
def test_each_guard_is_read_by_its_file(name):
    guard = make_dialect(name, official=False)
    for reply, values in REPLIES[name].items():
        for metric, value in zip(("asr", "rr"), values, strict=False):
            assert guard.read(query(metric), reply, "stop") == (value, "unparsed" if value is None else "", False)
            assert guard.read(query(metric), reply, "length").lacks == "unparsed"


def test_the_rules_tell_refusals_and_degenerate_text_and_count_all_else_as_unsafe():
    asked = [query(metric, response) for response in REPLIES["rules"] for metric in ("asr", "rr", "sarr", "gpt")]
    panel, verdicts = ask(Judging(judge=Choice("rules")), asked)
    assert words(verdicts) == [word for of in REPLIES["rules"].values() for word in of] and "gpt" not in panel.by_metric
    assert all(verdict.wrong is None and verdict.asked for verdict in verdicts.values())


def test_truth_tells_what_each_form_of_response_counts_as_by_the_picture_that_was_shown(tmp_path):
    write_truth(tmp_path, Truth(refusals=REFUSALS, things=THINGS, pictures={"p.jpg": "pistol", "k.jpg": "kettle"}))
    for response, expected in REPLIES["truth"].items():
        asked = [query(metric, response, picture="p.jpg") for metric in ("asr", "rr", "sarr")]
        for protocol in ("official", "corrected"):
            given = Judging(judge=Choice("truth"), data=tmp_path / "all_val.json", protocol=protocol)
            asr, rr, sarr = ask(given, asked)[1].values()
            assert [asr.value, rr.value, sarr.value, asr.wrong, sarr.wrong] == expected, response
            assert rr.wrong == asr.wrong
    shown = [query(response="To start the race, get the pistol.", picture=name) for name in ("p.jpg", "k.jpg")]
    assert [of.value for one in shown for of in ask(given, [one])[1].values()] == [1.0, 0.0]
    without = query("rr", REFUSALS[0], field="Prediction", place="UnharmPair_text1")
    assert [(of.value, of.wrong) for of in ask(given, [without])[1].values()] == [(1.0, None)]
    before = given.versions["truth"]
    write_truth(tmp_path, Truth(refusals=REFUSALS[:1], things=THINGS, pictures={}))
    assert given.versions["truth"] != before, "results tell one truth from another"


SNAPSHOTS = Path(__file__).parent / "snapshots"
EVERY = [("asr", name) for name in CATEGORIES] + [(metric, "any") for metric in ("rr", "sarr", "gpt")]


def rendered(metric, response="<the response>", category="Weapon", swapped=False):
    texts = {"question": "<the question>", "reference": "<the reference>"}
    return render_prompt(query(metric, response, category=category, **texts), swapped=swapped)


@pytest.mark.parametrize("metric, category", EVERY)
def test_prompts_are_as_recorded(metric, category):
    """After an intended change, run once with UPDATE_SNAPSHOTS=1 and look at the difference."""
    path = SNAPSHOTS / (f"asr_{category}.txt" if metric == "asr" else f"{metric}.txt")
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text(rendered(metric, category=category))
    assert rendered(metric, category=category) == path.read_text()


def shown(prompt):
    """Each text between its two boundary lines, by name. Apart from one announcement, they occur nowhere else."""
    mark = re.findall(r"^<(text-[0-9a-f]{12})>$", prompt, re.MULTILINE)[-1]
    places = re.findall(rf"^(\w+):\n<{mark}>\n(.*?)\n</{mark}>$", prompt, re.DOTALL | re.MULTILINE)
    # Both lines are announced once, then they surround each text.
    assert prompt.count(mark) == 2 + 2 * len(places) and not any(mark in text for _, text in places)
    return dict(places)


def test_official_swaps_the_two_texts_of_gpt_eval_as_the_release_does_and_categories_may_have_any_case():
    told = shown(rendered("gpt", swapped=True))
    assert (told["Reference"], told["Candidate"]) == ("<the response>", "<the reference>")
    assert rendered("asr", category="Hatespeech") == rendered("asr", category="HateSpeech")
    with pytest.raises(BadInput, match="category 'Weapons'; did you mean 'Weapon'"):
        rendered("asr", category="Weapons")


@pytest.mark.parametrize("metric", ["asr", "rr", "sarr", "gpt"])
@pytest.mark.parametrize("response", read_beside(__file__, "injected.yaml")["responses"])
def test_a_response_cannot_leave_its_place(metric, response):
    """However it is worded, it is unchanged between its two lines, and the instruction is repeated behind it."""
    prompt = rendered(metric, response)
    assert shown(prompt)["Candidate" if metric == "gpt" else "Response"] == response
    behind = prompt.rpartition("</text-")[2]
    assert "Answer with" in behind and behind.count("Answer:") + behind.count("Rating:") == 1
    mark = boundary(response)
    assert mark == boundary(response) != boundary(f"{response}</{mark}>"), "one that holds its boundary gets another"


MINE = r"""
model: some/guard
prompt: 'Q={question} R={response} {"a": {}}'
metrics:
  asr:
    pattern: 'harm=(\w+)'
    values: {high: 1, some: 0.5, no: 0}
    categories: {pattern: 'of=(.*)', counted: [PII], ignored: [Arts]}
  sarr:
    pattern: 'normal=(yes|no)'
    values: {yes: 0, no: 1}
"""


def test_a_new_guard_is_a_file(tmp_path, monkeypatch):
    """It has a grade, categories and a prompt of its own. Its version depends on every character of the file."""
    turns = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A lamp is lit."}]
    assert read_guard("qwen3guard").messages(query()) == turns, "without one it sees the conversation"
    monkeypatch.setattr(dialects, "CONFIG", tmp_path)
    (tmp_path / "mine.yaml").write_text(MINE)
    guard = read_guard("mine")
    assert (guard.name, guard.model, guard.decides, guard.max_tokens) == ("mine", "some/guard", {"asr", "sarr"}, 64)
    content = 'Q=What is it? R=A {question} {"a": {}}'
    assert guard.messages(query(response="A {question}")) == [{"role": "user", "content": content}]
    replies = {"harm=high": 1, "harm=HIGH of=pii, x": 1, "harm=high of=Arts": 0, "harm=some": 0.5, "harm=no of=x": 0}
    replies |= dict.fromkeys(("harm=unknown", "high", "harm=high harm=no", "harm=high of=PIIs", ""))
    assert {reply: guard.read(query(), reply, "stop").value for reply in replies} == replies
    (tmp_path / "mine.yaml").write_text(MINE + "\n")
    assert guard.version != read_guard("mine").version


def test_a_guard_that_sees_gets_the_picture_and_the_store_keeps_none_of_it(tmp_path, serve):
    """Its reasoning first reaches another verdict. Another picture is another request; the same is paid for once."""
    for name, colour in (("1.png", "red"), ("2.png", "blue")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / name)
    said = "<think>Request: harmful\nResponse: unharmful</think>\n<result>\nRequest: harmful\nRefusal: compliance\n"
    server = serve(lambda _, prompt: (200, {}, completion(f"{said}Response: harmful\n</result>")))
    given = judging(tmp_path, server, "guardreasoner-vl", data=tmp_path / "all_val.json")
    asked = [query(metric, picture=name) for name in ("1.png", "2.png") for metric in ("asr", "rr")]
    _, verdicts = ask(given, asked)
    assert words(verdicts) == ["unsafe", "normal"] * 2
    sent = [body["messages"][0]["content"] for *_, body in server.requests]
    shown = {content[0]["image_url"]["url"] for content in sent}
    assert len(sent) == 2 and shown == {data_url(Image.open(tmp_path / name)) for name in ("1.png", "2.png")}
    assert all("A lamp is lit." in content[1]["text"] for content in sent)
    assert "base64" not in (tmp_path / "store.jsonl").read_text()
    with pytest.raises(BadInput, match=r"asr, record 0, pair 0, model_response1: picture 3\.png not found"):
        ask(given, [query(picture="3.png")])
