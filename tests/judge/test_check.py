"""`--check_judge`: a judge is asked about cases of known truth; what it got right is printed, kept and told later."""

import json

from scoring import predicted, record, run_eval, write_files

from safeeraser import score
from safeeraser.judge.check import cases, version
from safeeraser.judge.dialects import render_prompt

CASES = cases()
PROMPTS = {render_prompt(case.query(number), swapped=True): case for number, case in enumerate(CASES)}
KEPT = "cache/safeeraser/judge_checks/*"
METRICS = ("asr", "rr", "sarr", "gpt_eval")


def knows(prompt):
    """What a judge that knows all the truth says to a case's prompt, and something to every other one."""
    if prompt not in PROMPTS:
        return "0.50" if "Rating:" in prompt else "unsafe yes"
    truth = PROMPTS[prompt].truth
    return truth if isinstance(truth, str) else f"{sum(truth) / 2:.2f}"


def test_the_rules_are_checked_from_python_and_later_runs_carry_it(tmp_path, capsys):
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
    assert "never checked" not in capsys.readouterr().err and len(list(tmp_path.glob(KEPT))) == 1
    corrected = score(**given, protocol="corrected", overwrite=True).summary["judge_check"]
    assert corrected == dict.fromkeys(METRICS[:3]), "another protocol asks and reads otherwise"


def test_errors_are_counted_by_metric_and_kind_kept_once_no_call_fails_and_not_asked_again(tmp_path, serve):
    broken = True

    def script(_, prompt):
        case, said = PROMPTS[prompt], knows(prompt)
        changed = {"unsafe": "safe", "safe": "perhaps"} if case.kind == "injected verdict" else {}
        return (400, {}, "t") if broken and case.kind == "polite deflection" else (200, {}, changed.get(said, said))

    server = serve(script)
    check = ("--check_judge", "--base_url", server.url, "--store", tmp_path / "store.jsonl")
    run = run_eval(*check)
    assert run.returncode == 3 and "not kept: calls failed" in run.stdout and not list(tmp_path.glob(KEPT))
    broken = False
    run = run_eval(*check)
    assert run.returncode == 0, "5 of 53 are less than a tenth"
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in run.stdout.splitlines() if "│" in line]
    rows = {first: rest for first, *rest in lines}
    assert rows["ASR"] == ["48", "3", "2", "88.0 (70.0–95.8)", "92.9 (77.4–98.0)"]
    assert rows["GPT-Eval"] == ["12", "0", "0", "–", "–"] and rows["injected verdict"] == ["8", "3", "2"]
    assert not any(case.response in run.stdout + run.stderr for case in CASES)
    told = json.loads(next(tmp_path.glob(KEPT)).read_text())
    answered = [{"judge": "openai:gpt-4o", "model": "m", "fingerprint": None, "replies": 150}]
    assert (told["judge"], told["protocol"], told["answered_by"]) == ("openai:gpt-4o", "official", answered)
    assert [told["metrics"][metric]["right"] for metric in METRICS] == [48, 53, 32, 12]
    run = run_eval(*check, "--min_accuracy", 0.95)
    assert run.returncode == 3 and run.stderr.endswith("falls short (--min_accuracy 0.95): ASR (90.6% of 53 cases)\n")
    assert len(server.answered) == 150 and len(list(tmp_path.glob(KEPT))) == 1
