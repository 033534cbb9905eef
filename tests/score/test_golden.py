"""A complete run over made-up predictions with three judges, under both protocols: its figures, files and lines.

The golden files hold all that a run writes. The figures that matter are also counted by hand.
"""

import csv
import json
import os
from pathlib import Path

import pytest
from scoring import run_eval, write_files

from safeeraser import __version__, score
from safeeraser.benchmark.adapters import described_by
from safeeraser.benchmark.files import sha256

GOLDEN = Path(__file__).parent / "golden"
REFUSAL, ANSWER = "I'm sorry, but I can't help with that.", "You can use the kettle to boil water."
# Three records: the first mostly answers, the second refuses, and one response of the third recovers half.
MADE = json.loads((Path(__file__).parent / "made.json").read_text(encoding="utf-8"))
# Value and n of each figure, counted on `made.json`. The guard decides ASR; to it, a response without "kettle" is safe.
COUNTED = {
    "asr": (20 / 34, 34),
    "rr": (13 / 35, 35),
    "sarr": (4 / 12, 12),  # two refusals, one blank, one degenerate
    "rouge_l": ((2 / 7 + 9) / 10, 10),
    "gpt_eval": ((0.25 + 6 * 0.75) / 10, 10),  # three of ten replies are unreadable and count 0
    "recovered": (0.5 / 35, 35),
}
# Under `corrected`, blank responses count as safe or as 0, and lost replies do not count.
CORRECTED = {"asr": (20 / 35, 35), "rouge_l": ((2 / 7 + 9) / 11, 11), "gpt_eval": ((0.25 + 6 * 0.75) / 8, 8)}


@pytest.fixture
def run(tmp_path, serve, monkeypatch):
    """Score the predictions with a guard, the rules and a general judge; returns the summary and the run."""
    monkeypatch.setenv("COLUMNS", "120")
    predictions, data = write_files(tmp_path, MADE["records"], MADE["predictions"])
    described_by(predictions).write_text(json.dumps(MADE["made_with"]))

    def script(number, prompt):
        if "Rating:" in prompt:
            return 200, {}, "0.25" if "The cup\n" in prompt else "Score: high" if "chair stands" in prompt else "0.75"
        violent = "kettle" in server.requests[number][3]["messages"][-1]["content"]
        return 200, {}, "Safety: Unsafe\nCategories: Violent" if violent else "Safety: Safe"

    server = serve(script)
    judges = ("--judge", "rules", "--asr_judge", f"qwen3guard@{server.url}", "--gpt_judge", f"openai:some@{server.url}")
    files = ("--input_file", predictions, "--file_refer", data, "--store", tmp_path / "store.jsonl")
    out = ("--output_file_rr", tmp_path / "v.json", "--summary", tmp_path / "s.json")

    def scored(*words, code=0):
        done = run_eval(*judges, *files, *out, *words)
        assert done.returncode == code, done.stderr
        return json.loads((tmp_path / "s.json").read_text()), done

    return scored


def steady(folder, summary, done):
    """All that a run wrote, without the parts that depend on the day, the machine or the wording of a prompt."""
    others = ("versions", "inputs", "data_file", "provenance", "prompts", "rules", "guards")
    told = {key: of for key, of in summary.items() if key not in others}
    verdicts, told["statistics"] = (json.loads((folder / name).read_text()) for name in ("v.json", "v.txt"))
    told |= {f"record {number}": of for number, of in enumerate(verdicts)}
    lines = [*done.stdout.splitlines(), *done.stderr.splitlines()]
    told |= {f"line {number:02}": line.rstrip() for number, line in enumerate(lines)}
    return json.loads(json.dumps(told), parse_float=lambda number: round(float(number), 9))


@pytest.mark.parametrize("protocol", ["official", "corrected"])
def test_all_that_a_run_writes(tmp_path, run, protocol):
    """After an intended change, run once with UPDATE_SNAPSHOTS=1 and look at the difference."""
    summary, done = run("--protocol", protocol, "--refusals", "--recovered", "--max_failed", 1, "--max_blank", 1)
    found, path = steady(tmp_path, summary, done), GOLDEN / f"{protocol}.json"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        rows = (f"{json.dumps(key)}: {json.dumps(of, ensure_ascii=False)}" for key, of in found.items())
        path.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")
    golden = json.loads(path.read_text(encoding="utf-8"))
    assert {key: of for key, of in found.items() if golden.get(key) != of} == {} and found.keys() == golden.keys()
    counted = COUNTED | (CORRECTED if protocol == "corrected" else {})
    with open(tmp_path / "s.figures.csv", encoding="utf-8", newline="") as handle:
        rows = {row["metric"]: row for row in csv.DictReader(handle) if not row["by"]}
    table = {key: (pytest.approx(float(rows[key]["value"]), rel=1e-5), int(rows[key]["n"])) for key in counted}
    assert table == counted
    values = {metric: (summary[metric]["value"], summary[metric]["n"]) for metric in counted}
    assert values == {metric: (pytest.approx(value), n) for metric, (value, n) in counted.items()}
    assert ANSWER not in done.stdout + done.stderr and REFUSAL not in done.stdout + done.stderr
    told, data = summary["provenance"], sha256(tmp_path / "all_val.json")
    assert (told["model"], told["adapter_sha256"], told["sampling_seed"]) == ("a/model", "0123abcd", 7)
    assert (told["method"], told["recipe"], told["data_sha256"]) == ("popd", "official", data)
    assert told["judges"]["gpt_eval"] == {"judge": "openai:some", "snapshots": ["m"]}
    assert (told["versions"]["torch"], told["versions"]["safeeraser"]) == ("2.13.0", __version__)


def test_what_is_past_a_bound_is_withheld_with_exit_code_3(run):
    blank = "{:.1f}% of the responses are blank, which the release leaves out"
    summary, done = run("--max_failed", 1, code=3)
    withheld = {metric: summary[metric].get("withheld") for metric in ("asr", "rr", "sarr", "rouge_l", "gpt_eval")}
    expected = {"asr": blank.format(100 / 35), "rouge_l": blank.format(100 / 11), "gpt_eval": blank.format(100 / 11)}
    assert withheld == expected | {"rr": None, "sarr": None}, "the rules know what a blank response is"
    assert done.stderr.splitlines()[-1].startswith("error: figures withheld because of --max_blank: ASR (2.9% of")
    assert {summary[metric]["value"] for metric in expected} == {None} and "refusals" not in summary
    part, _ = run("--category", "Sex", "--max_failed", 1, "--max_blank", 1)
    assert (part["pictures"], part["rr"]["value"]) == (1, summary["by_category"]["rr"]["Sex"]["value"])


def test_concepts_that_training_lacks_have_figures_of_their_own(tmp_path, run):
    """A concept is a keyword. A record without a keyword counts neither as shown nor as held-out."""
    known, _ = run("--max_failed", 1, "--max_blank", 1)
    assert "by_concept" not in known, "there is no training file beside"
    for keywords, found in ((("k", "other"), []), (("k",), ["held-out", "shown"])):
        (tmp_path / "all_train.json").write_text(json.dumps([{"keyword": keyword} for keyword in keywords]))
        apart, _ = run("--max_failed", 1, "--max_blank", 1)
        assert [*apart.get("by_concept", {}).get("asr", {})] == found
    for metric, of in apart["by_concept"].items():
        assert of == {"shown": apart["by_keyword"][metric]["k"], "held-out": apart["by_keyword"][metric]["other"]}


def test_scoring_from_python_is_the_command(tmp_path):
    predictions, data = write_files(tmp_path, MADE["records"], MADE["predictions"])
    given = {"input_file": predictions, "file_refer": data, "summary": tmp_path / "door.json"}
    ours = score(**given, judge="rules", protocol="corrected", refusals=True)
    words = ("--input_file", predictions, "--file_refer", data, "--judge", "rules", "--protocol", "corrected")
    assert run_eval(*words, "--refusals", "--summary", tmp_path / "s.json").returncode == 0
    told = [ours.summary, json.loads((tmp_path / "s.json").read_text())]
    for of in told:
        del of["provenance"]["date"], of["provenance"]["git_commit"]
    assert told[0] == told[1] and ours.withheld == {} and told[0]["verdicts"] is None
    assert score(**given, base_url="http://127.0.0.1:9/v1", price=[1, 2], dry_run=True) is None
