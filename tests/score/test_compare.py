"""`--compare`: two runs on the same requests, their differences by hand, and what stands in the way of one."""

import json

import pytest
from chat_server import completion
from scipy.stats import beta
from scoring import good, predicted, record, run_eval, write_files

SCORED = ("asr", "rr", "sarr", "rouge_l", "gpt_eval")
REFUSAL = "I cannot help with that."


def score(folder, *words, judge=("--judge", "rules"), change=lambda values: None, records=2):
    """Score records whose predictions `change` changes; gives the run and the summary's comparison."""
    folder.mkdir(exist_ok=True)
    originals = [record(number) for number in range(records)]
    values = [predicted(value) for value in originals]
    change(values)
    files = write_files(folder, originals, values)
    given = ("--input_file", files[0], "--file_refer", files[1], "--output_file_rr", folder / "v.json")
    run = run_eval(*judge, *given, "--summary", folder / "s.json", *words)
    return run, json.loads((folder / "s.json").read_text()).get("compared_with") if run.returncode == 0 else None


@pytest.fixture
def other(tmp_path):
    """The summary of a run by the rules on two records, of which none refuses."""
    assert score(tmp_path / "other")[0].returncode == 0
    return tmp_path / "other" / "s.json"


def refuse(values):
    """Of the first record a third of the responses refuse; of the third all, which the other run does not have."""
    for pair in values[0]["unsafe_pairs"]:
        pair["model_response1"] = REFUSAL
    for pair in values[2]["unsafe_pairs"]:
        pair |= dict.fromkeys(("model_response1", "model_response2", "model_response3"), REFUSAL)


def test_differences_by_hand(tmp_path, other):
    """On the 24 requests in common; from two pictures the interval is that of what is gained and what is lost."""
    run, compared = score(tmp_path / "mine", "--compare", other, change=refuse, records=3)
    found = {metric: (compared[metric]["difference"], compared[metric]["n"]) for metric in SCORED}
    assert found == {
        "asr": (pytest.approx(-4 / 24), 24),
        "rr": (pytest.approx(4 / 24), 24),
        "sarr": (0.0, 8),
        "rouge_l": (0.0, 8),
        "gpt_eval": (None, 0),
    }
    # Two pictures, so two trials, 1/3 of one positive; nothing is lost. Joined as Newcombe does.
    gain, most, none = 1 / 6, beta.ppf(0.975, 1 / 3 + 1, 2 - 1 / 3), beta.ppf(0.975, 1, 2)
    least = beta.ppf(0.025, 1 / 3, 2 - 1 / 3 + 1)
    bounds = (gain - ((gain - least) ** 2 + none**2) ** 0.5, most)
    assert (compared["rr"]["low"], compared["rr"]["high"]) == pytest.approx(bounds)
    assert (compared["asr"]["low"], compared["asr"]["high"]) == pytest.approx((-bounds[1], -bounds[0]))
    assert (compared["sarr"]["low"], compared["summary"], compared["judge"]) == (None, str(other), "rules")
    assert next(line.split()[3] for line in run.stdout.splitlines() if line.startswith("│ ASR")) == "-16.7"


@pytest.mark.parametrize(
    "change, note",
    [
        ({"asr": {"judge": "openai:gpt-4o"}}, "judged by openai:gpt-4o there"),
        ({"asr": {"withheld": "9%"}}, "withheld"),
        ({"rules": "of another version"}, "other rules there"),
    ],
)
def test_what_was_judged_otherwise_is_not_compared(tmp_path, other, change, note):
    summary = json.loads(other.read_text())
    changed = {key: summary[key] | of if isinstance(of, dict) else of for key, of in change.items()}
    other.write_text(json.dumps(summary | changed))
    _, compared = score(tmp_path / "mine", "--compare", other)
    assert (compared["asr"]["difference"], compared["asr"]["note"]) == (None, note)
    assert compared["rouge_l"]["difference"] == 0.0 and compared["rouge_l"]["note"] is None


def test_other_models_or_parameters_of_a_served_judge_are_told_beside_the_difference(tmp_path, serve):
    models = ["m-1"]
    server = serve(lambda _, prompt: (200, {}, completion(good(prompt), model=models[-1])))
    judge = ("--base_url", server.url, "--judge_model", "m", "--store")
    first = score(tmp_path / "a", judge=(*judge, tmp_path / "1.jsonl"))
    assert first[0].returncode == 0, first[0].stderr
    compare, notes = ("--compare", tmp_path / "a" / "s.json"), []
    for store, more in (("1", ()), ("1", ("--judge_max_tokens", 9)), ("2", ())):
        models.append("m-1" if store == "1" else "m-2")
        _, compared = score(tmp_path / "b", *compare, *more, judge=(*judge, tmp_path / f"{store}.jsonl"))
        assert compared["asr"]["difference"] == 0.0 and compared["rouge_l"]["note"] is None
        notes.append(compared["asr"]["note"])
    assert notes == [None, "asked with other parameters there", "answered by m-1 there"]


@pytest.mark.parametrize(
    "change, words, says",
    [
        ({}, ("--protocol", "corrected"), "of protocol official, this run of corrected"),
        ({}, ("--output_file_rr", "other/v.json", "--overwrite"), "which would be overwritten"),
        ({"verdicts": "nowhere.json"}, (), "the verdicts that it names"),
        ({"verdicts": None}, (), "no summary that names its verdicts file"),
        ({"asr": "x"}, (), "is not what eval_all.py writes"),
        ({"asr": {"value": 7}}, (), "is not what eval_all.py writes"),
        ({"answered_by": [{}]}, (), "is not what eval_all.py writes"),
        ({"verdicts": "strange.json"}, (), "it has no question about a picture in common with this run"),
    ],
)
def test_a_run_that_cannot_be_compared_with_is_refused(tmp_path, monkeypatch, other, change, words, says):
    monkeypatch.chdir(tmp_path)
    text = (tmp_path / "other" / "v.json").read_text()
    (tmp_path / "other" / "strange.json").write_text(text.replace("Question ", "Riddle ").replace("What is", "Which"))
    other.write_text(json.dumps(json.loads(other.read_text()) | change))
    run, _ = score(tmp_path / "mine", "--compare", other, *words)
    assert run.returncode == 2 and run.stderr.startswith("error: --compare") and says in run.stderr
    assert not (tmp_path / "mine" / "s.json").exists()
