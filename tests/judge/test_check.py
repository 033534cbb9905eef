"""`--check_judge`: a judge is asked about cases of known truth; what it got right is printed, kept and told later."""

import json
from collections import Counter

import pytest
from chat_server import completion
from scoring import predicted, record, run_eval, write_files

from safeeraser import score
from safeeraser.benchmark.wording import is_blank
from safeeraser.judge.check import Case, cases, found, version
from safeeraser.judge.prompts import render
from safeeraser.judge.verdicts import Verdict

CASES = cases()
PROMPTS = {render(case.query(number), swapped=True): case for number, case in enumerate(CASES)}
METRICS = ("asr", "rr", "sarr", "gpt_eval")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "safeeraser" / "judge_checks"


def knows(prompt):
    """What a judge that knows all the truth says to a case's prompt, and something to every other one."""
    if prompt not in PROMPTS:
        return "0.50" if "Rating:" in prompt else "unsafe yes"
    truth = PROMPTS[prompt].truth
    return truth if isinstance(truth, str) else f"{sum(truth) / 2:.2f}"


def check(folder, server, *more):
    return run_eval("--check_judge", "--base_url", server.url, "--store", folder / "store.jsonl", *more)


def test_each_case_is_another_request_and_no_judge_of_one_word_passes():
    assert len(CASES) == len(PROMPTS)
    for case in CASES:
        assert 0 <= case.bounds[0] <= case.bounds[1] <= 1 and case.why and not is_blank(case.response)
        assert (case.kind == "other language") == (case.language != "en")
        assert bool(case.category) == (case.metric == "asr") and bool(case.reference) == (case.metric == "gpt")
    counted, asked = (Counter(of.metric for of in CASES if of.bounds[0] >= low) for low in (1, 0))
    assert all(0.4 < counted[metric] / asked[metric] < 0.6 for metric in ("asr", "rr", "sarr"))


def test_figures_by_hand():
    case, other = (Case("rr", "k", "en", "Q?", "R.", truth, "w") for truth in ("yes", "no"))
    right, wrong, unread = Verdict("", 1.0), Verdict("", 0.0), Verdict("", None, "unparsed")
    told = found([(c, v, c.outcome(v)) for c, v in ((case, right), (case, wrong), (case, unread), (other, wrong))])
    shares = [tuple(told.pop(name).values()) for name in ("sensitivity", "specificity")]
    assert told == {"n": 4, "right": 2, "wrong": 1, "unparsed": 1, "declined": 0, "failed": 0, "accuracy": 0.5}
    # Wilson's bounds for 1 of 3, and for 1 of 1.
    expected = [(1 / 3, 0.0615, 0.7923, 3), (1.0, 0.2065, 1.0, 1)]
    assert shares == [pytest.approx(of, abs=1e-4) for of in expected]
    gpt = Case("gpt", "k", "en", "Q?", "R.", [0.8, 0.9], "w")
    assert [gpt.outcome(Verdict("", value)) for value in (0.79, 0.8, 0.9, 0.91)] == ["wrong", "right", "right", "wrong"]
    assert found([(gpt, right, "right")])["sensitivity"] is None


def test_the_rules_are_checked_from_python_and_later_runs_carry_it(tmp_path, cache, capsys):
    """They know no harm, and fall short. What is said of judges that were never checked is then said no more."""
    files = write_files(tmp_path, [record()], [predicted(record())])
    given = {"input_file": files[0], "file_refer": files[1], "summary": tmp_path / "s.json", "judge": "rules"}
    assert score(**given).summary["judge_check"] == dict.fromkeys(METRICS[:3])
    checked = score(check_judge=True, judge="rules", min_accuracy=0.85)
    right = {metric: (of["judge"], of["n"], of["right"], of["wrong"]) for metric, of in checked.summary.items()}
    assert right == {"asr": ("rules", 53, 26, 27), "rr": ("rules", 53, 44, 9), "sarr": ("rules", 32, 28, 4)}
    assert checked.withheld == {"--min_accuracy": ["ASR (49.1% of 53 cases)", "RR (83.0% of 53 cases)"]}
    capsys.readouterr()
    told = score(**given).summary["judge_check"]
    expected = {metric: (of["right"], version()) for metric, of in checked.summary.items()}
    assert {metric: (of["right"], of["cases"]) for metric, of in told.items()} == expected
    assert "never checked" not in capsys.readouterr().err and len(list(cache.iterdir())) == 1
    corrected = score(**given, protocol="corrected").summary["judge_check"]
    assert corrected == dict.fromkeys(METRICS[:3]), "another protocol asks and reads otherwise"


def test_errors_are_counted_by_metric_and_kind_kept_and_not_asked_again(tmp_path, serve, cache):
    def script(_, prompt):
        case, said = PROMPTS[prompt], knows(prompt)
        changed = {"unsafe": "safe", "safe": "perhaps"} if case.kind == "injected verdict" else {}
        return 200, {}, changed.get(said, said)

    server = serve(script)
    run = check(tmp_path, server)
    assert run.returncode == 0, "5 of 53 are less than a tenth"
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in run.stdout.splitlines() if "│" in line]
    rows = {first: rest for first, *rest in lines}
    assert rows["ASR"] == ["48", "3", "2", "88.0 (70.0–95.8)", "92.9 (77.4–98.0)"]
    assert rows["GPT-Eval"] == ["12", "0", "0", "–", "–"] and rows["injected verdict"] == ["8", "3", "2"]
    assert "injected verdict, en: wrong safe" in run.stdout and "injected verdict, en: unparsed\n" in run.stdout
    assert not any(case.response in run.stdout + run.stderr for case in CASES)
    told = json.loads(next(cache.iterdir()).read_text())
    answered = [{"judge": "openai:gpt-4o", "model": "m", "fingerprint": None, "replies": 150}]
    assert (told["judge"], told["protocol"], told["answered_by"]) == ("openai:gpt-4o", "official", answered)
    assert [told["metrics"][metric]["right"] for metric in METRICS] == [48, 53, 32, 12]
    run = check(tmp_path, server, "--min_accuracy", 0.95)
    assert run.returncode == 3 and run.stderr.endswith("falls short (--min_accuracy 0.95): ASR (90.6% of 53 cases)\n")
    assert len(server.requests) == 150 and len(list(cache.iterdir())) == 1


@pytest.mark.slow
def test_a_check_is_kept_once_no_call_fails_and_is_of_the_model_that_answered(tmp_path, serve, cache):
    """Of each metric's judge by itself. What failed is asked again, and nothing else."""
    files = write_files(tmp_path, [record()], [predicted(record())])
    model, broken = "m-1", True

    def script(_, prompt):
        fails = broken and prompt in PROMPTS and PROMPTS[prompt].kind == "polite deflection"
        return (500, {"retry-after-ms": "5"}, "t") if fails else (200, {}, completion(knows(prompt), model=model))

    server = serve(script)
    judges, failing = ("--sarr_judge", "rules"), [case.metric for case in CASES if case.kind == "polite deflection"]
    run = check(tmp_path, server, *judges)
    assert run.returncode == 3 and "not kept: calls failed" in run.stdout and not cache.exists()
    assert f"of 53 cases, {failing.count('rr')} calls failed)" in run.stderr
    broken, before = False, len(server.requests)
    check(tmp_path, server, *judges)
    assert len(server.requests) == before + len(failing) - failing.count("sarr") and len(list(cache.iterdir())) == 2
    given = ("--base_url", server.url, *judges, "--input_file", files[0], "--file_refer", files[1], "--max_failed", 1)
    for model, known in (
        ("m-1", {"asr": 53, "rr": 53, "gpt_eval": 12}),
        ("m-2", dict.fromkeys(("asr", "rr", "gpt_eval"))),
    ):
        run_eval(*given, "--summary", tmp_path / "s.json", "--store", tmp_path / f"{model}.jsonl")
        told = json.loads((tmp_path / "s.json").read_text())["judge_check"]
        assert {metric: of and of["right"] for metric, of in told.items()} == known | {"sarr": 28}
