"""A judge's server that misbehaves at three calls in ten, and a run that is killed again and again."""

import json
import random
import time

import psutil
import pytest
from chat_server import CLOSE, HANG, NO_COMPLETION, completion
from scoring import KEY, good, outputs, predicted, record, run_eval, start_eval, write_files

from .test_served import CALLS

pytestmark = pytest.mark.slow

RECORDS = 4
# Retry-After in a form that the official client reads as well, so that the tests need not wait for whole seconds.
SOON = {"retry-after-ms": "5"}
FAULTS = [
    (429, {"Retry-After": "0.01"}, "rate_limit"),
    (429, SOON, "rate_limit"),
    (500, SOON, "server_error"),
    (503, SOON, "overloaded"),
    (200, {}, CLOSE),
    (200, {}, HANG),
    (200, {}, b'{"choices": [{"mess'),
    (200, {}, b'{"choices": []}'),
    (200, {}, NO_COMPLETION),
    (200, {}, "Who can tell?"),
    (200, {}, "word " * 60_000),
]
UNREADABLE = ("Who can tell?", "word " * 60_000)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.005)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.05)
    monkeypatch.setattr("safeeraser.chat.PAUSE", 0.05)
    monkeypatch.setattr("safeeraser.chat.GARBAGE_PAUSE", 0.005)


def given(folder, out="out"):
    folder.mkdir(exist_ok=True)
    records = [record(number) for number in range(RECORDS)]
    paths = write_files(folder, records, [predicted(value, f"Text {n}") for n, value in enumerate(records)])
    files = ("--input_file", paths[0], "--file_refer", paths[1], "--output_file_rr", folder / out / "v.json")
    return (*files, "--summary", folder / out / "s.json", "--store", folder / f"{out}.jsonl", "--max_failed", 1)


def test_every_verdict_is_got_or_told_as_failed(tmp_path, serve, monkeypatch):
    monkeypatch.setattr("safeeraser.judge.panel.TIMEOUT", 2.0)
    draw = random.Random(0)
    faulty = {number: draw.choice(FAULTS) for number in range(1000) if draw.random() < 0.3}
    server = serve(lambda number, prompt: faulty.get(number, (200, {}, good(prompt))))
    run = run_eval("--base_url", server.url, "--protocol", "corrected", *given(tmp_path), key=KEY)
    assert run.returncode == 0, run.stderr
    summary = json.loads((tmp_path / "out" / "s.json").read_text())
    asked = {metric: summary[metric] for metric in ("asr", "rr", "sarr", "gpt_eval")}
    got = {m: of["n"] + of["failed"] + of["unparsed"] for m, of in asked.items()}
    assert got == {"asr": 12 * RECORDS, "rr": 12 * RECORDS, "sarr": 4 * RECORDS, "gpt_eval": 4 * RECORDS}
    assert [asked[m]["value"] for m in ("asr", "rr", "sarr", "gpt_eval")] == [1.0, 0.0, 0.0, 0.5]
    # None paid twice: a prompt that the server has answered with a verdict, or with something that is none, is not
    # asked again in this run; the store holds each reply once.
    failed = sum(of["failed"] for of in asked.values())
    unparsed = sum(of["unparsed"] for of in asked.values())
    assert failed == 0, "all of them are passing faults"
    kept = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines() if line][1:]
    assert len({entry["request"] for entry in kept}) == len(kept) == RECORDS * CALLS - failed
    assert sum(entry["reply"] in UNREADABLE for entry in kept) == unparsed > 0
    before = len(server.requests)
    assert run_eval("--base_url", server.url, "--protocol", "corrected", *given(tmp_path), key=KEY).returncode == 0
    again = [body["messages"][0]["content"] for *_, body in server.requests[before:]]
    assert len(set(again)) == failed
    assert KEY not in run.stdout + run.stderr + (tmp_path / "out.jsonl").read_text()


def test_killed_again_and_again_it_ends_in_the_same_summary(tmp_path, serve):
    """SIGKILL ten times at random moments; the server answers each prompt alike, as at temperature 0."""
    server = serve(lambda number, prompt: (time.sleep(0.01), (200, {}, good(prompt)))[1])
    assert run_eval("--base_url", server.url, *given(tmp_path, "whole"), key=KEY).returncode == 0
    paid, draw, kills = len(server.answered), random.Random(1), 0
    command = ("--base_url", server.url, "--concurrency", 2, *given(tmp_path, "killed"))
    for _ in range(10):
        before = len(server.requests)
        process = start_eval(*command, key=KEY)
        target, deadline = before + draw.randrange(1, 12), time.monotonic() + 30
        while process.poll() is None and len(server.requests) < target and time.monotonic() < deadline:
            time.sleep(0.002)
        kills += process.poll() is None
        psutil.Process(process.pid).kill()
        process.communicate()
    assert kills == 10
    assert run_eval(*command, key=KEY).returncode == 0
    assert outputs(tmp_path / "killed") == outputs(tmp_path / "whole")
    # Each kill loses what was in flight and no more: two calls at a time.
    assert paid <= len(server.answered) - paid <= paid + 2 * 10


PHRASES = {"asr": '"unsafe" or "safe"', "rr": "begins by refusing", "sarr": "normal and meaningful", "gpt": "Rating:"}
# What a response says is its true verdict; by its number the server misbehaves at it.
KINDS = ("good", "cut", "declines", "both", "slow")
SHARES = (75, 5, 5, 5, 10)


def test_a_judge_of_every_kind_of_fault_gives_exactly_the_truth(tmp_path, serve, monkeypatch):
    """30% errors that pass, 5% replies cut off, 5% declined, 5% with both words, 10% slow ones."""
    monkeypatch.setattr("safeeraser.judge.panel.TIMEOUT", 1.0)
    draw = random.Random(5)
    records = [record(number) for number in range(10)]
    values = [predicted(value, f"Text {number}") for number, value in enumerate(records)]
    truth = {}

    def response(*metrics):
        """A text that is its own, and what a right judge says of it, by metric."""
        text = f"Lamp number {len(truth)} is lit."
        kind = {metric: draw.choices(KINDS, SHARES)[0] for metric in metrics}
        truth[text] = {metric: (draw.random() < 0.3, kind[metric]) for metric in metrics}
        return text

    for value in values:
        for pair in value["unsafe_pairs"]:
            pair |= {f"model_response{n}": response("asr", "rr") for n in (1, 2, 3)} | {"sd_response": response("sarr")}
        for key in ("text1", "text2", "image1", "image2"):
            value[f"UnharmPair_{key}"]["Prediction"] = response("gpt")
    words = {"asr": ("unsafe", "safe"), "rr": ("yes", "no"), "sarr": ("no", "yes"), "gpt": ("1.00", "0.00")}

    def script(number, prompt):
        if random.Random(number).random() < 0.3:
            return random.Random(number + 1).choice(FAULTS[:-2])
        text = max((text for text in truth if f"\n{text}\n" in prompt), key=len)
        metric = next(metric for metric, phrase in PHRASES.items() if phrase in prompt)
        counts, kind = truth[text][metric]
        right, wrong = words[metric] if counts else words[metric][::-1]
        if kind == "slow":
            time.sleep(0.1)
        said = {"cut": f"{right} because", "declines": f"I cannot judge this, {wrong}.", "both": f"{wrong} {right}"}
        return 200, {}, completion(said.get(kind, right), "length" if kind == "cut" else "stop")

    paths = write_files(tmp_path, records, values)
    files = ("--input_file", paths[0], "--file_refer", paths[1], "--summary", tmp_path / "s.json")
    limits = ("--store", tmp_path / "store.jsonl", "--max_failed", 1, "--concurrency", 32)
    server = serve(script)
    # At such a rate a call may meet errors alone in all its tries: it is told as failed, and asked again.
    for _ in range(5):
        run = run_eval("--base_url", server.url, "--protocol", "corrected", *files, *limits)
        assert run.returncode == 0, run.stderr
        summary = json.loads((tmp_path / "s.json").read_text())
        if not (lost := sum(summary[key]["failed"] for key in ("asr", "rr", "sarr", "gpt_eval"))):
            break
        assert "judge calls failed" in run.stderr
    assert not lost
    for metric in words:
        of = summary["gpt_eval" if metric == "gpt" else metric]
        said = [told[metric] for told in truth.values() if metric in told]
        read = [counts for counts, kind in said if kind in ("good", "slow")]
        assert (of["value"], of["n"]) == (sum(read) / len(read), len(read))
        kinds = [kind for _, kind in said]
        assert of["unparsed"] == kinds.count("cut") + kinds.count("both") and of["declined"] == kinds.count("declines")
        assert of["failed"] == 0
