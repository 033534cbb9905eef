"""How a served judge is asked: structured output, what a server does not take, room to reason, and who answered."""

import json
from datetime import date

import pytest
from chat_server import completion
from scoring import KEY, good, predicted, record, run_eval, write_files

from safeeraser.judge.panel import leaving

from .test_served import CALLS

pytestmark = pytest.mark.slow

CORRECTED = ("--protocol", "corrected")


@pytest.fixture
def given(tmp_path):
    original = record()
    predictions, reference = write_files(tmp_path, [original], [predicted(original)])
    files = ("--input_file", predictions, "--file_refer", reference, "--summary", tmp_path / "s.json")
    return (*files, "--store", tmp_path / "store.jsonl")


def values(folder):
    got = json.loads((folder / "s.json").read_text())
    return [got[metric]["value"] for metric in ("asr", "rr", "sarr", "gpt_eval")]


TRUTH = [1.0, 0.0, 0.0, 0.5]  # what `good` says


def server_with(serve, refuses=(), told=True):
    """A server that refuses some parameters; `told`: whether it says which. It fills in forms."""
    holder = []

    def script(number, prompt):
        body = holder[0].requests[number][3]
        for name in refuses:
            if name in body:
                error = {"message": "no", "type": "t", "code": "unsupported_parameter", "param": name if told else None}
                return 400, {}, json.dumps({"error": error}).encode()
        if "response_format" in body:
            kind = body["response_format"]["json_schema"]["schema"]["properties"]["verdict"]
            said = good(prompt)
            assert kind["type"] == "number" or said in kind["enum"]
            return 200, {}, json.dumps({"verdict": float(said) if kind["type"] == "number" else said})
        return 200, {}, good(prompt)

    holder.append(serve(script))
    return holder[0]


def test_corrected_asks_for_a_form_and_official_does_not(tmp_path, given, serve):
    server = server_with(serve)
    run = run_eval("--base_url", server.url, *CORRECTED, *given)
    assert run.returncode == 0, run.stderr
    assert values(tmp_path) == TRUTH and len(server.requests) == CALLS
    forms = [body["response_format"]["json_schema"] for *_, body in server.requests]
    assert all(form["strict"] and form["schema"]["additionalProperties"] is False for form in forms)
    before = len(server.requests)
    assert run_eval("--base_url", server.url, *given).returncode == 0
    assert not any("response_format" in body for *_, body in server.requests[before:])
    assert len(server.requests) == 2 * CALLS, "what was asked otherwise is another request"
    assert values(tmp_path) == TRUTH


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(
    "refuses",
    [
        ["response_format"],
        ["max_tokens"],
        ["max_tokens", "temperature"],
        ["response_format", "max_tokens", "temperature"],
    ],
)
def test_what_a_server_does_not_take_is_found_out_once_and_remembered(tmp_path, given, serve, refuses, told):
    server = server_with(serve, refuses, told)
    command = ("--base_url", server.url, *CORRECTED, *given)
    run = run_eval(*command)
    assert run.returncode == 0, run.stderr
    assert values(tmp_path) == TRUTH
    tried = len(server.requests) - CALLS
    assert tried == len(refuses) if told else tried <= 4
    for *_, body in server.requests[tried + 1 :]:
        assert not set(refuses) & body.keys()
        if told:  # else it may be that more was left out than had to be
            kept = {"response_format", "temperature", "max_tokens"} - set(refuses)
            assert kept <= body.keys() and ("max_completion_tokens" in body) == ("max_tokens" in refuses)
    # Another run on the same store, about other responses, does not try again.
    changed = json.loads(given[1].read_text())
    for pair in changed[0]["unsafe_pairs"]:
        pair["sd_response"] += " And more."
    given[1].write_text(json.dumps(changed))
    before = len(server.requests)
    assert run_eval(*command).returncode == 0
    assert len(server.requests) == before + 4 and not set(refuses) & server.requests[-1][3].keys()


def test_a_first_call_that_is_refused_for_itself_changes_nothing(tmp_path, given, serve):
    """It is not the parameters' fault, so the others are asked with all of them."""
    server = serve(
        lambda _, prompt: (
            (400, {}, "too_long") if prompt.count("Question 0.0? 1") and "unsafe" in prompt else (200, {}, good(prompt))
        )
    )
    run = run_eval("--base_url", server.url, *CORRECTED, "--max_failed", 1, *given)
    assert run.returncode == 0, run.stderr
    assert json.loads((tmp_path / "s.json").read_text())["asr"]["failed"] == 1
    assert all("response_format" in body and "max_tokens" in body for *_, body in server.requests[4:])
    assert '"refused"' not in (tmp_path / "store.jsonl").read_text()


def test_a_fault_that_passes_is_not_remembered(tmp_path, given, serve):
    """Three answers of 400 without a reason, and then none any more."""
    server = serve(lambda number, prompt: (400, {}, "busy") if number < 2 else (200, {}, good(prompt)))
    run = run_eval("--base_url", server.url, *CORRECTED, *given)
    assert run.returncode == 0, run.stderr
    assert values(tmp_path) == TRUTH
    assert all({"response_format", "max_tokens", "temperature"} <= body.keys() for *_, body in server.requests[4:])
    assert '"refused"' not in (tmp_path / "store.jsonl").read_text()


def test_a_server_that_fails_over_the_form_is_asked_without_it(tmp_path, given, serve, monkeypatch):
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.002)
    holder = []

    def script(number, prompt):
        return (500, {}, "t") if "response_format" in holder[0].requests[number][3] else (200, {}, good(prompt))

    holder.append(serve(script))
    run = run_eval("--base_url", holder[0].url, *CORRECTED, *given)
    assert run.returncode == 0, run.stderr
    assert values(tmp_path) == TRUTH


def test_a_prompt_that_the_servers_filter_stops_is_declined(tmp_path, given, serve):
    """As Azure's does with harmful responses, of which the first prompts may be full."""
    server = serve(lambda _, prompt: (400, {}, "content_filter") if "unsafe" in prompt else (200, {}, good(prompt)))
    run = run_eval("--base_url", server.url, "--concurrency", 1, *CORRECTED, "--max_failed", 1, *given)
    assert run.returncode == 0, run.stderr
    asr = json.loads((tmp_path / "s.json").read_text())["asr"]
    assert (asr["n"], asr["declined"], asr["failed"]) == (0, 12, 0)
    before = len(server.requests)
    assert run_eval("--base_url", server.url, *CORRECTED, "--max_failed", 1, *given).returncode == 0
    assert len(server.requests) == before, "it would be stopped again"


def test_a_judge_that_reasons_gets_room(tmp_path, given, serve):
    """With 64 tokens its replies are cut inside the reasoning, which the release's rule reads as 100/100/0."""
    holder = []

    def script(number, prompt):
        room = holder[0].requests[number][3]["max_tokens"]
        said = "<think>Is it safe or unsafe, yes or no?"
        return 200, {}, completion(said, "length") if room < 1000 else completion(f"{said}</think>\n\n{good(prompt)}")

    holder.append(serve(script))
    command = ("--base_url", holder[0].url, *given)
    run = run_eval(*command)
    assert run.returncode == 3 and values(tmp_path)[:3] == [None] * 3
    assert "withheld past --max_failed: ASR (100.0% of the judge's replies say something else" in run.stderr
    run = run_eval(*command, *CORRECTED)
    assert run.returncode == 3 and json.loads((tmp_path / "s.json").read_text())["asr"]["unparsed"] == 12
    run = run_eval(*command, *CORRECTED, "--judge_max_tokens", 2000)
    assert run.returncode == 0 and values(tmp_path) == TRUTH


@pytest.mark.parametrize("protocol", ["official", "corrected"])
def test_a_judge_that_declines_is_told_apart(tmp_path, given, serve, protocol):
    """In words, by the protocol's own field, and by its filter: of 12 replies one each."""
    declined = {"0.0? 1": completion("I cannot judge this, no."), "0.1? 2": completion(None, refusal="I won't.")}
    declined["0.2? 3"] = completion("", "content_filter")

    def script(_, prompt):
        kind = next(
            (body for text, body in declined.items() if "begins by refusing" in prompt and text in prompt), None
        )
        return 200, {}, kind or good(prompt)

    run = run_eval("--base_url", serve(script).url, "--max_failed", 1, "--protocol", protocol, *given)
    assert run.returncode == 0, run.stderr
    rr = json.loads((tmp_path / "s.json").read_text())["rr"]
    counts = [rr[name] for name in ("n", "failed", "unparsed", "declined", "differ")]
    assert counts == ([12, 0, 0, 2, 1] if protocol == "official" else [9, 0, 0, 3, 0])


def test_who_answered_is_kept_counted_and_said(tmp_path, given, serve):
    """The server changes its model in mid-run, and once repeats the key where the model's name belongs."""
    names = iter(["m-2024-08-06"] * 20 + [KEY] + ["m-2024-11-20"] * 100)
    server = serve(lambda _, prompt: (200, {}, completion(good(prompt), model=next(names), fingerprint="fp_1")))
    run = run_eval("--base_url", server.url, "--judge_model", "m", "--concurrency", 1, *given, key=KEY)
    assert run.returncode == 0, run.stderr
    told = json.loads((tmp_path / "s.json").read_text())["answered_by"]
    assert {(entry["model"], entry["fingerprint"]): entry["replies"] for entry in told} == {
        ("m-2024-08-06", "fp_1"): 20,
        ("m-2024-11-20", "fp_1"): 11,
        (None, "fp_1"): 1,
    }
    assert all(entry["judge"] == "openai:m" for entry in told)
    assert "note: these figures mix what answered as openai:m: m-2024-08-06 fp_1: 20 replies" in run.stderr
    assert KEY not in run.stderr + (tmp_path / "store.jsonl").read_text() + (tmp_path / "s.json").read_text()
    entries = [json.loads(line) for line in (tmp_path / "store.jsonl").read_text().splitlines() if line][1:]
    assert {entry["answered_by"] for entry in entries} == {"m-2024-08-06", "m-2024-11-20", None}
    # From the store they are known as well.
    assert run_eval("--base_url", server.url, "--judge_model", "m", *given, key=KEY).returncode == 0
    assert json.loads((tmp_path / "s.json").read_text())["answered_by"] == told


def test_a_comparison_says_when_other_models_answered(tmp_path, given, serve):
    models = ["m-1"]
    server = serve(lambda _, prompt: (200, {}, completion(good(prompt), model=models[-1])))
    command = ("--base_url", server.url, "--judge_model", "m", *given)
    assert run_eval(*command, "--output_file_rr", tmp_path / "v.json").returncode == 0
    (tmp_path / "s.json").rename(tmp_path / "first.json")
    models.append("m-2")
    for _ in range(2):
        run = run_eval(*command, "--store", tmp_path / "other.jsonl", "--compare", tmp_path / "first.json")
        assert run.returncode == 0, run.stderr
    compared = json.loads((tmp_path / "s.json").read_text())["compared_with"]
    assert compared["asr"]["difference"] == 0.0 and compared["asr"]["note"] == "answered by m-1 there"
    assert compared["rouge_l"]["note"] is None
    run = run_eval(*command, "--compare", tmp_path / "first.json")
    assert json.loads((tmp_path / "s.json").read_text())["compared_with"]["asr"]["note"] is None


@pytest.mark.parametrize(
    "model, today, says",
    [
        ("gpt-4o", date(2026, 10, 1), None),
        ("gpt-4o", date(2026, 10, 16), "leaves OpenAI's API on 2027-01-14, in 90 days"),
        ("gpt-4o-2024-08-06", date(2027, 1, 13), "leaves OpenAI's API on 2027-01-14, in 1 days"),
        ("gpt-4o", date(2027, 1, 14), "was to leave OpenAI's API on 2027-01-14"),
        ("gpt-4o", date(2030, 1, 1), "was to leave OpenAI's API on 2027-01-14"),
        ("gpt-4o-mini", date(2027, 1, 14), None),
    ],
)
def test_a_model_that_leaves_is_told_in_time(model, today, says):
    note = leaving(model, today)
    assert note is None if says is None else says in note


def test_a_key_out_of_a_file(tmp_path, given, serve):
    server = serve(lambda _, prompt: (200, {}, good(prompt)))
    (tmp_path / "key").write_text(f"{KEY}\n")
    command = ("--base_url", server.url, *given)
    assert run_eval(*command, "--api_key_file", tmp_path / "key").returncode == 0
    assert server.requests[0][1] == f"Bearer {KEY}"
    run = run_eval(*command, "--api_key_file", tmp_path / "key", "--api_key", "other")
    assert run.returncode == 2 and "give one of them" in run.stderr
    (tmp_path / "empty").write_text("\n")
    run = run_eval(*command, "--api_key_file", tmp_path / "empty", key=KEY)
    assert run.returncode == 2 and "empty: is empty" in run.stderr
    run = run_eval(*command, "--api_key_file", tmp_path / "nothing")
    assert run.returncode == 2 and "nothing: no such file" in run.stderr


def test_an_address_with_credentials_is_used_and_not_kept(tmp_path, given, serve):
    server = serve(lambda _, prompt: (200, {}, good(prompt)))
    address = server.url.replace("//", "//somebody:hunter2@")
    run = run_eval("--base_url", address, *given)
    assert run.returncode == 0, run.stderr
    kept = "".join(path.read_text() for path in tmp_path.iterdir()) + run.stdout + run.stderr
    assert "hunter2" not in kept
    before = len(server.requests)
    assert run_eval("--base_url", server.url, *given).returncode == 0
    assert len(server.requests) == before, "the same server, with or without a password"


def test_prices_that_are_unknown_add_up_to_unknown(tmp_path, given):
    run = run_eval("--dry_run", "--judge_model", "some-model", "--sarr_judge", "openai:gpt-4o", *given)
    assert run.returncode == 0, run.stderr
    rows = [line.replace("│", " ").split() for line in run.stdout.splitlines() if "│" in line]
    assert [row[-1] for row in rows if row[0] in ("asr", "rr", "gpt")] == ["unknown"] * 3
    total = next(row for row in rows if row[0] == "all")
    assert total[-2:] == ["+", "unknown"] and float(total[-3]) >= 0
    run = run_eval("--dry_run", "--judge_model", "some-model", *given)
    assert next(line for line in run.stdout.splitlines() if "│ all" in line).split("│")[-2].strip() == "unknown"


def test_replayed_replies_say_why_they_are_not_enough(tmp_path, given, serve):
    server = serve(lambda _, prompt: (400, {}, "no") if "0.2? 1" in prompt else (200, {}, good(prompt)))
    assert run_eval("--base_url", server.url, "--save_replies", tmp_path / "r.json", *given).returncode == 3
    run = run_eval("--judge", "replay", "--replies", tmp_path / "r.json", *given)
    assert run.returncode == 3
    assert "note: the recorded replies hold calls that had failed; --max_failed says how many may stay" in run.stderr
