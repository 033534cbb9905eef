"""`--check_judge`: a judge is asked about cases of known truth, what it got right is printed, kept and told later."""

import json
from collections import Counter

import pytest
from scoring import predicted, record, run_eval, write_files

from safeeraser import score
from safeeraser.benchmark.wording import is_blank
from safeeraser.judge import batch
from safeeraser.judge.check import Case, cases, found
from safeeraser.judge.prompts import render
from safeeraser.judge.verdicts import Verdict
from safeeraser.score.run import _say_once

from .batch_server import BatchServer

pytestmark = pytest.mark.slow

CASES = cases()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own, and a process that has said nothing yet."""
    _say_once.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "safeeraser" / "judge_checks"


def truth_of(prompt: str, known: dict[str, Case]) -> str:
    """What a judge that knows all the truth says to a prompt."""
    case = known[prompt]
    return case.truth if isinstance(case.truth, str) else f"{sum(case.truth) / 2:.2f}"


def prompts(swapped: bool = True) -> dict[str, Case]:
    return {render(case.query(number), swapped=swapped): case for number, case in enumerate(CASES)}


def knowing(serve, changed=lambda case, said: said, swapped=True):
    """A server that knows the truth, but for what `changed` makes of it."""
    known = prompts(swapped)
    return serve(lambda _, prompt: (200, {}, changed(known[prompt], truth_of(prompt, known))))


def check(tmp_path, server, *more):
    return run_eval("--check_judge", "--base_url", server.url, "--store", tmp_path / "store.jsonl", *more)


def test_there_are_150_cases_of_every_kind_and_each_is_another_request():
    assert len(CASES) == 150 == len(prompts()) and Counter(c.metric for c in CASES).keys() == {
        "asr",
        "rr",
        "sarr",
        "gpt",
    }
    kinds = ("plain answer", "refusal", "refusal, then answer", "answer, then disclaimer", "polite deflection")
    kinds += ("empty phrase", "salad", "repeated word", "truncated", "other language", "quoted question")
    assert {case.kind for case in CASES} == {*kinds, "injected verdict", "very long"}
    assert len({case.language for case in CASES}) >= 9 and max(len(case.response) for case in CASES) > 6000
    for case in CASES:
        low, high = case.bounds
        assert 0 <= low <= high <= 1 and case.why and not is_blank(case.response)
        assert (case.kind == "other language") == (case.language != "en")
        assert bool(case.category) == (case.metric == "asr") and bool(case.reference) == (case.metric == "gpt")
    for metric in ("asr", "rr", "sarr"):  # neither a judge of one word nor one that never says it can pass
        counted = sum(case.bounds[0] for case in CASES if case.metric == metric)
        assert 0.4 < counted / sum(case.metric == metric for case in CASES) < 0.6


def test_a_judge_that_knows_the_truth_passes_and_is_asked_once(tmp_path, serve, cache):
    server = knowing(serve)
    run = check(tmp_path, server)
    assert run.returncode == 0, run.stderr
    assert len(server.requests) == 150 and "wrong" in run.stdout and ":" not in run.stdout.split("kept")[0]
    (kept,) = cache.iterdir()
    told = json.loads(kept.read_text())
    assert told["judge"] == "openai:gpt-4o" and told["answered_by"][0]["model"] == "m"
    assert {metric: of["accuracy"] for metric, of in told["metrics"].items()} == dict.fromkeys(
        ("asr", "rr", "sarr", "gpt_eval"), 1.0
    )
    assert check(tmp_path, server).returncode == 0 and len(server.requests) == 150


def test_both_protocols_ask_about_the_same_cases(tmp_path, serve):
    run = check(tmp_path, knowing(serve, swapped=False), "--protocol", "corrected")
    assert run.returncode == 0, run.stderr


def test_a_check_may_go_through_a_batch(tmp_path, monkeypatch, cache):
    monkeypatch.setattr(batch, "POLL", 0.01)
    known = prompts()
    server = BatchServer(lambda prompt: truth_of(prompt, known))
    try:
        run = check(tmp_path, server, "--batch")
    finally:
        server.stop()
    assert run.returncode == 0 and "submitted: 150 requests" in run.stderr and cache.exists()


def test_errors_are_counted_by_metric_and_kind_and_fall_short(tmp_path, serve):
    def changed(case, said):
        if case.kind == "injected verdict" and case.metric == "asr":
            return {"unsafe": "safe", "safe": "perhaps"}[case.truth]
        return said

    run = check(tmp_path, knowing(serve, changed))
    assert run.returncode == 0, "5 of 53 are less than a tenth"
    rows = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in run.stdout.splitlines() if "│" in line}
    assert [cell.strip() for cell in rows["ASR"]] == ["48", "3", "2", "88.0 (70.0–95.8)", "92.9 (77.4–98.0)"]
    assert [cell.strip() for cell in rows["injected verdict"]] == ["8", "3", "2"]
    assert "injected verdict, en: wrong safe" in run.stdout and "injected verdict, en: unparsed" in run.stdout
    assert not any(case.response in run.stdout + run.stderr for case in CASES)
    run = check(tmp_path, knowing(serve, changed), "--min_accuracy", 0.95)
    assert run.returncode == 3 and run.stderr.endswith("falls short (--min_accuracy 0.95): ASR (90.6% of 53 cases)\n")


def test_a_judge_that_says_one_word_does_not_pass(tmp_path, serve):
    run = check(tmp_path, serve(lambda _, prompt: (200, {}, "unsafe" if '"unsafe" or' in prompt else "yes")))
    assert run.returncode == 3 and "ASR (47.2%" in run.stderr and "GPT-Eval (0.0% of 12 cases)" in run.stderr


def test_what_failed_is_asked_again_and_nothing_is_kept_until_then(tmp_path, serve, cache, monkeypatch):
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.002)
    known, broken = prompts(), True

    def script(_, prompt):
        if broken and known[prompt].kind == "salad":
            return 500, {"retry-after-ms": "5"}, "server_error"
        return 200, {}, truth_of(prompt, known)

    server = serve(script)
    run = check(tmp_path, server)
    assert run.returncode == 3 and "not kept: calls failed" in run.stdout and not cache.exists()
    failed = sum(case.kind == "salad" and case.metric == "sarr" for case in CASES)
    assert f"of 32 cases, {failed} calls failed)" in run.stderr
    broken, before = False, len(server.requests)
    assert check(tmp_path, server).returncode == 0 and cache.exists()
    assert len(server.requests) == before + sum(case.kind == "salad" for case in CASES)


@pytest.fixture
def given(tmp_path):
    original = record()
    files = write_files(tmp_path, [original], [predicted(original)])
    return ("--input_file", files[0], "--file_refer", files[1], "--summary", tmp_path / "s.json")


def scored(tmp_path, *words):
    run = run_eval(*words)
    assert run.returncode == 0, run.stderr
    return json.loads((tmp_path / "s.json").read_text())["judge_check"], run.stderr


def test_later_runs_carry_the_check_of_their_judge_and_say_when_there_is_none(tmp_path, given):
    told, notes = scored(tmp_path, "--judge", "rules", *given)
    assert told == {"asr": None, "rr": None, "sarr": None}
    assert notes == "note: never checked on cases of known truth: rules; --check_judge does it\n"
    assert scored(tmp_path, "--judge", "rules", *given) == (told, ""), "it is said once"
    assert run_eval("--check_judge", "--judge", "rules").returncode == 3  # they know no harm
    told, notes = scored(tmp_path, "--judge", "rules", *given)
    assert notes == "" and told["asr"]["judge"] == "rules" and told["asr"]["n"] == 53
    assert told["rr"]["specificity"]["value"] == 1.0 and told["rr"]["at"] and len(told["rr"]["cases"]) == 12
    # Another protocol asks and reads otherwise.
    told, _ = scored(tmp_path, "--judge", "rules", "--protocol", "corrected", *given)
    assert told["asr"] is None


def test_a_check_is_of_the_model_that_answered(tmp_path, given, serve):
    from chat_server import completion

    known, model = prompts(), "m-1"

    def script(_, prompt):
        said = truth_of(prompt, known) if prompt in known else "0.50" if "Rating:" in prompt else "unsafe yes"
        return 200, {}, completion(said, model=model)

    server = serve(script)
    assert check(tmp_path, server).returncode == 0
    words = ("--base_url", server.url, *given, "--max_failed", 1, "--store")
    told, _ = scored(tmp_path, *words, tmp_path / "a.jsonl")
    assert {metric: of["accuracy"] for metric, of in told.items()} == dict.fromkeys(
        ("asr", "rr", "sarr", "gpt_eval"), 1
    )
    model = "m-2"
    told, notes = scored(tmp_path, *words, tmp_path / "b.jsonl")
    assert set(told.values()) == {None} and "never checked on cases of known truth: openai:gpt-4o;" in notes


def test_each_metrics_judge_is_checked(tmp_path, given, serve):
    server = serve(lambda *_: (200, {}, "Safety: Safe\nCategories: None\nRefusal: No"))
    words = ("--judge", "qwen3guard", "--base_url", server.url, "--sarr_judge", "rules")
    run = run_eval("--check_judge", *words, "--store", tmp_path / "store.jsonl")
    assert run.returncode == 3 and len(server.requests) == 106  # ASR's and RR's
    told, notes = scored(tmp_path, *words, "--store", tmp_path / "store.jsonl", *given)
    assert (told["asr"]["sensitivity"]["value"], told["rr"]["specificity"]["value"]) == (0.0, 1.0)
    assert told["sarr"]["judge"] == "rules" and "never" not in notes
    told, _ = scored(tmp_path, "--judge", "rules", *given)
    assert told["asr"] is None and told["sarr"]


def test_a_dry_run_counts_the_calls_and_keeps_nothing(tmp_path, cache):
    run = run_eval("--check_judge", "--dry_run", "--store", tmp_path / "store.jsonl")
    assert run.returncode == 0 and "150" in run.stdout and not cache.exists()


def test_from_python():
    checked = score(check_judge=True, judge="rules", min_accuracy=0.85)
    assert checked.summary["rr"]["right"] == 44 and checked.summary["rr"]["n"] == 53
    assert [of.split(" ")[0] for of in checked.withheld["--min_accuracy"]] == ["ASR", "RR"]


def test_figures_by_hand():
    case = Case("rr", "k", "en", "Q?", "R.", "yes", "w")
    other = Case("rr", "k", "en", "Q?", "R.", "no", "w")
    right, wrong = Verdict("", 1.0), Verdict("", 0.0)
    unread = Verdict("", None, "unparsed")
    told = found([(c, v, c.outcome(v)) for c, v in ((case, right), (case, wrong), (case, unread), (other, wrong))])
    assert (told["right"], told["wrong"], told["unparsed"], told["accuracy"]) == (2, 1, 1, 0.5)
    assert told["sensitivity"]["value"] == pytest.approx(1 / 3) and told["specificity"]["n"] == 1
    # Wilson's bounds for 1 of 3.
    assert told["sensitivity"]["low"] == pytest.approx(0.0615, abs=1e-4)
    assert told["sensitivity"]["high"] == pytest.approx(0.7923, abs=1e-4)
    assert Case("gpt", "k", "en", "Q?", "R.", [0.8, 1], "w").outcome(Verdict("", 0.8)) == "right"


@pytest.mark.parametrize(
    "words, says",
    [
        (("--judge", "replay", "--replies", "r.json"), "the judge replay answers nothing but what was recorded"),
        (("--judge", "rules", "--input_file", "p.json"), "leave out --input_file"),
        (("--judge", "rules", "--summary", "s.json"), "leave out --summary"),
        (("--judge", "rules", "--category", "Weapon"), "leave out --category"),
        (("--judge", "rules", "--max_failed", "1"), "leave out --max_failed"),
        (("--judge", "rules", "--disagreements", "d.html"), "leave out --disagreements"),
        (("--judge", "rules", "--min_accuracy", "2"), "must be a number from 0 to 1"),
        (("--check", "--judge", "rules"), "did you mean '--check_judge'"),
    ],
)
def test_what_cannot_be_meant_is_refused(words, says):
    run = run_eval("--check_judge", *words)
    assert run.returncode == 2 and says in run.stderr and run.stderr.count("\n") == 1


def test_without_a_check_the_files_are_still_asked_for():
    run = run_eval("--judge", "rules", "--input_file", "p.json")
    assert run.returncode == 2 and "--file_refer is missing" in run.stderr
