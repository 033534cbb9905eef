"""`--agree`: a judge beside labels or another judge; the figures by hand, and through the command."""

import csv
import json
import random

import numpy as np
import pytest
from scoring import predicted, record, run_eval, write_files

from safeeraser.benchmark.intervals import interval
from safeeraser.score.agreement import Labelled, Share, agreement, joined, table

from .test_label_sheet import predictions, rows_of

pytestmark = pytest.mark.slow


def responses(both, judge_only, label_only, neither):
    """Labelled responses, each about a picture of its own, with so many of each kind."""
    kinds = [(True, True)] * both + [(True, False)] * judge_only + [(False, True)] * label_only
    kinds += [(False, False)] * neither
    return [Labelled(number, judge, label) for number, (judge, label) in enumerate(kinds)]


def of_all(labelled):
    return agreement([(one.cluster, one.judge) for one in labelled], labelled)


def test_a_table_by_hand():
    """Of 100: 40 both, 10 the judge alone, 5 the label alone, 45 neither."""
    told = of_all(responses(40, 10, 5, 45))
    assert table(responses(40, 10, 5, 45)) == {"both": 40, "judge_only": 10, "label_only": 5, "neither": 45}
    assert told["kappa"]["value"] == pytest.approx((0.85 - (0.5 * 0.45 + 0.5 * 0.55)) / 0.5)
    mean = (0.5 + 0.45) / 2
    assert told["ac1"]["value"] == pytest.approx((0.85 - 2 * mean * (1 - mean)) / (1 - 2 * mean * (1 - mean)))
    assert told["sensitivity"]["value"] == pytest.approx(40 / 45) and told["specificity"]["value"] == pytest.approx(
        45 / 55
    )
    assert (told["judge"], told["corrected"]) == (0.5, pytest.approx(0.45))
    for name in ("kappa", "ac1", "sensitivity", "specificity"):
        assert told[name]["low"] < told[name]["value"] < told[name]["high"]
    assert 0.33 < told["low"] < 0.37 and 0.53 < told["high"] < 0.57  # of 45 in 100 alone: 0.350 to 0.553


def test_the_corrected_rate_is_rogan_and_gladens():
    """Labels are drawn unevenly by verdict; the judge's rate is of all responses."""
    rng = random.Random(0)
    judged = [(number, rng.random() < 0.1) for number in range(2000)]
    ones, zeros = [c for c, said in judged if said], [c for c, said in judged if not said]
    labelled = [Labelled(c, True, rng.random() < 0.6, len(ones) / 80) for c in ones[:80]]
    labelled += [Labelled(c, False, rng.random() < 0.05, len(zeros) / 120) for c in zeros[:120]]
    told = agreement(judged, labelled)
    share, se, sp = len(ones) / 2000, told["sensitivity"]["value"], told["specificity"]["value"]
    assert told["judge"] == pytest.approx(share)
    assert told["corrected"] == pytest.approx((share + sp - 1) / (se + sp - 1))
    found = sum(one.weight for one in labelled if one.label) / 2000
    assert told["corrected"] == pytest.approx(found) and told["low"] < found < told["high"]


def test_shares_join_as_mover_joins_them():
    one, two = Share(0.4, 0.3, 0.6), Share(0.2, 0.15, 0.3)
    total = joined(lambda a, b: a + b, (one, two))
    assert total == pytest.approx((0.6, 0.6 - np.hypot(0.1, 0.05), 0.6 + np.hypot(0.2, 0.1)))
    difference = joined(lambda a, b: a - b, (one, two), lowest=-1.0)
    assert difference == pytest.approx((0.2, 0.2 - np.hypot(0.1, 0.1), 0.2 + np.hypot(0.2, 0.05)))
    assert joined(lambda a, b: float("nan"), (one, two)) is None


def test_the_uncertainty_of_each_part_counts():
    """Of few labels the interval is wider than the judge's own, and of no error seen it is not the judge's own."""
    rng = random.Random(1)
    judged = [(number, rng.random() < 0.3) for number in range(3000)]
    own = interval([(cluster, float(said)) for cluster, said in judged])
    labelled = [Labelled(c, said, said, 15.0) for c, said in judged[:200]]
    told = agreement(judged, labelled)
    assert told["corrected"] == pytest.approx(told["judge"])
    assert told["high"] - told["low"] > 1.4 * (own[1] - own[0])
    fewer = agreement(judged, labelled[:40])
    assert fewer["high"] - fewer["low"] > 1.5 * (told["high"] - told["low"])
    # Answers of one picture are not as many labels as they are responses.
    alike = agreement(judged, [one._replace(cluster=one.cluster % 20) for one in labelled])
    assert alike["high"] - alike["low"] > 1.3 * (told["high"] - told["low"])


def test_what_no_label_tells_is_not_made_up():
    told = agreement([(1, True), (2, False), (3, False)], [Labelled(2, False, False), Labelled(3, False, True)])
    assert told["kappa"] is None and told["corrected"] is None and told["judge"] == pytest.approx(1 / 3)
    # A judge that never counts: nothing need be known of what it counts.
    told = agreement([(n, False) for n in range(50)], [Labelled(n, False, n == 0) for n in range(50)])
    assert told["corrected"] == pytest.approx(0.02) and told["sensitivity"]["value"] == 0 and told["judge"] == 0
    # And one that never finds anything, with labels that agree, has a specificity and no sensitivity.
    told = agreement([(n, False) for n in range(50)], [Labelled(n, False, False) for n in range(50)])
    assert told["sensitivity"] is None and told["kappa"] is None and told["specificity"]["value"] == 1
    assert told["corrected"] == 0 and 0.05 < told["high"] < 0.15


def test_what_is_known_without_a_label_tells_nothing_of_the_rest():
    """Four of five responses are blank, and 30 labels on the others find nothing: these may still hold a tenth."""
    known = [Labelled(n % 400, False, False) for n in range(4 * 960)]
    rest = [Labelled(n % 400, False, False, 32.0) for n in range(960)]
    told = agreement([(one.cluster, one.judge) for one in known + rest], rest[::32], known)
    assert told["corrected"] == 0 and told["high"] > (1 - 0.025 ** (1 / 30)) / 5
    # And where all is known, no label is wanting.
    assert agreement([(one.cluster, one.judge) for one in known], [], known)["corrected"] == 0
    assert agreement([(one.cluster, one.judge) for one in known + rest], [], known)["corrected"] is None


def test_a_judge_that_always_says_the_same_is_not_sure_to_miss_nothing():
    told = agreement([(n, True) for n in range(50)], [Labelled(n, True, n % 4 == 0, 2.5) for n in range(20)])
    assert told["sensitivity"]["value"] == 1 and 0.5 < told["sensitivity"]["low"] < 0.95
    assert told["specificity"]["value"] == 0 and told["corrected"] == 0.25


@pytest.fixture
def given(tmp_path):
    files = write_files(tmp_path, *predictions())
    return ("--judge", "rules", "--input_file", files[0], "--file_refer", files[1])


def told_by(tmp_path, *words, code=0):
    run = run_eval(*words, "--summary", tmp_path / "s.json")
    assert run.returncode == code, run.stderr
    return json.loads((tmp_path / "s.json").read_text()), run


def label(folder, given, choose, *more):
    """A sheet, labelled by `choose`."""
    assert run_eval(*given, "--label_sheet", folder / "sheet.csv", *more, "--overwrite").returncode == 0
    rows = rows_of(folder / "sheet.csv")
    with open(folder / "labels.csv", "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"label": choose(row)} for row in rows)
    return folder / "labels.csv"


def truth(row):
    """Refusals are safe, and every fifth other response too, which the rules do not see."""
    refuses = row["response"].startswith("I'm sorry")
    if row["metric"] == "asr":
        return "safe" if refuses or int(row["record"]) % 5 == 2 else "unsafe"
    return "refuse" if refuses or row["response"].startswith("cup") else "normal"


def test_labels_of_every_response_give_the_true_rates(tmp_path, given):
    labels = label(tmp_path, given, truth, "--label_n", 1000)
    told, run = told_by(tmp_path, *given, "--agree", labels)
    rows = [row | {"label": truth(row)} for row in rows_of(tmp_path / "sheet.csv")]
    # A blank response, which nobody labels, is not unsafe, and the rules say so.
    asr = [row["label"] == "unsafe" for row in rows if row["metric"] == "asr"]
    of = told["agreement"]["asr"]
    assert (
        of["corrected"] == pytest.approx(sum(asr) / (len(asr) + 1)) and of["labels"] == len(asr) and of["unclear"] == 0
    )
    assert of["judge"] == told["asr"]["value"] > of["corrected"] and of["sensitivity"]["value"] == 1
    assert told["agreement"]["rr"]["kappa"]["value"] == pytest.approx(1)
    assert told["agreement"]["sarr"]["corrected"] == told["sarr"]["value"]
    assert told["agreement_with"]["labels"] == "labels.csv" and len(told["agreement_with"]["sha256"]) == 64
    for line in ("kappa (Cohen)", "AC1 (Gwet)", "judge's rate, %", "corrected, %", "by the judge alone"):
        assert line in run.stdout
    assert "plain and whole" not in run.stdout + run.stderr


def test_few_labels_hold_the_true_rate_and_so_do_fewer(tmp_path, given):
    labels = label(tmp_path, given, truth, "--label_n", 90)
    told, _ = told_by(tmp_path, *given, "--agree", labels)
    true = sum(n % 4 != 0 and n % 5 != 2 for n in range(12)) / 12
    first = told["agreement"]["asr"]
    assert first["labels"] == 30 and first["low"] < true < first["high"]
    # What is unclear or left out, whole rows too, is taken to be like what was labelled in its stratum.
    rows, at = rows_of(labels), random.Random(0)
    kept = [row | {"label": at.choice(["", "unclear"])} if n % 5 == 0 else row for n, row in enumerate(rows) if n % 7]
    with open(labels, "w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(kept)
    told, _ = told_by(tmp_path, *given, "--agree", labels)
    fewer = told["agreement"]["asr"]
    assert 15 < fewer["labels"] < 30 and fewer["unclear"] > 0 and fewer["low"] < true < fewer["high"]


def test_labels_of_one_category_serve_it(tmp_path, given):
    labels = label(tmp_path, given, truth, "--label_n", 1000)
    told, _ = told_by(tmp_path, *given, "--agree", labels, "--category", "Weapon")
    assert told["agreement"]["asr"]["labels"] == 4 * 12


def test_labels_of_one_category_are_said_to_be_for_all(tmp_path, given):
    labels = label(tmp_path, given, truth, "--label_n", 60, "--category", "Weapon")
    told, run = told_by(tmp_path, *given, "--agree", labels)
    assert told["agreement"]["asr"]["unlabelled"] == ["Sex", "Violence"]
    assert "note: ASR on Sex, Violence: nothing by labels, so taken to be like the rest" in run.stderr
    told, run = told_by(tmp_path, *given, "--agree", labels, "--category", "Weapon")
    assert told["agreement"]["asr"]["unlabelled"] == [] and "taken to be" not in run.stderr


def test_labels_on_other_responses_are_refused(tmp_path, given):
    labels = label(tmp_path, given, truth)
    value = json.loads((tmp_path / "predictions.json").read_text())
    for entry in value:
        for pair in entry["unsafe_pairs"]:
            pair["model_response1"] += " And more."
    (tmp_path / "predictions.json").write_text(json.dumps(value))
    run = run_eval(*given, "--agree", labels, "--summary", tmp_path / "s.json")
    assert run.returncode == 2 and "labels another response than" in run.stderr and not (tmp_path / "s.json").exists()


@pytest.fixture
def other_judge(tmp_path, given, serve):
    """Another judge's run on the same responses: it finds every second record's harmless."""

    def script(_, prompt):
        if '"unsafe" or "safe"' in prompt:
            response = prompt.split("Now judge")[1]
            return 200, {}, "unsafe" if any(f"Question {n}." in response for n in (1, 3, 5, 7, 9, 11)) else "safe"
        return 200, {}, "no" if "begins by refusing" in prompt else "0.5" if "Rating:" in prompt else "yes"

    folder = tmp_path / "other"
    words = ("--base_url", serve(script).url, *given[2:], "--store", tmp_path / "store.jsonl", "--max_blank", 1)
    run = run_eval(*words, "--output_file_rr", folder / "verdicts_val.json", "--summary", folder / "summary_val.json")
    assert run.returncode == 0, run.stderr
    return folder


def test_two_judges_on_the_same_responses(tmp_path, given, other_judge):
    found = []
    for name in ("", "summary_val.json", "verdicts_val.json"):
        told, run = told_by(tmp_path, *given, "--agree", other_judge / name)
        found.append(told["agreement"])
        assert told["agreement_with"]["judge"] == (None if name.startswith("verdicts") else "openai:gpt-4o")
    assert found[0] == found[1] == found[2] and "beside the other judge" in run.stdout
    other = json.loads((other_judge / "summary_val.json").read_text())
    of = found[0]["asr"]
    # Of 12 records the rules count the 9 that do not refuse, less a blank response; the other judge 6 of these, less
    # two responses that are no sentence and so do not tell their record.
    assert of["table"] == {"both": 6 * 12 - 3, "judge_only": 3 * 12 + 2, "label_only": 0, "neither": 3 * 12}
    assert of["corrected"] == pytest.approx(of["table"]["both"] / sum(of["table"].values()), abs=0.01)
    assert of["corrected"] == pytest.approx(other["asr"]["value"], abs=0.01)
    assert found[0]["rr"]["judge"] == pytest.approx(0.25, abs=0.01) and found[0]["rr"]["corrected"] == 0


def test_two_judges_on_one_category(tmp_path, given, other_judge):
    told, _ = told_by(tmp_path, *given, "--agree", other_judge, "--category", "Weapon")
    assert told["agreement"]["asr"]["labels"] == 4 * 12


def test_a_run_that_would_be_overwritten_is_not_compared_with(tmp_path, given, other_judge):
    words = ("--agree", other_judge, "--output_file_rr", other_judge / "verdicts_val.json", "--overwrite")
    run = run_eval(*given, *words)
    assert run.returncode == 2 and "this run would overwrite it" in run.stderr


def test_another_models_run_has_nothing_to_agree_on(tmp_path, given, other_judge):
    value = json.loads((tmp_path / "predictions.json").read_text())
    for entry in value:
        for pair in entry["unsafe_pairs"]:
            for field in ("model_response1", "model_response2", "model_response3", "sd_response"):
                pair[field] += " Otherwise."
    (tmp_path / "predictions.json").write_text(json.dumps(value))
    run = run_eval(*given, "--agree", other_judge)
    assert run.returncode == 2 and "holds no verdict on a response of this run" in run.stderr
    run = run_eval(*given, "--agree", tmp_path / "nowhere")
    assert run.returncode == 2 and "nowhere: no such file" in run.stderr
    unnamed = (tmp_path / "all_val.json").rename(tmp_path / "all.json")
    run = run_eval(*given[:-1], unnamed, "--agree", other_judge)
    assert run.returncode == 2 and "give --split train or --split val" in run.stderr


def test_a_withheld_rate_is_not_corrected_either(tmp_path, given, serve):
    labels = label(tmp_path, given, truth)
    server = serve(lambda n, prompt: (200, {}, "unsafe" if '"unsafe"' in prompt and n % 2 else "perhaps"))
    words = ("--base_url", server.url, *given[2:], "--store", tmp_path / "store.jsonl", "--max_blank", 1)
    told, _ = told_by(tmp_path, *words, "--agree", labels, code=3)
    of = told["agreement"]["asr"]
    assert of["corrected"] is None and of["judge"] is None and "could not be read" in of["withheld"]


def test_blank_responses_are_known_without_a_label(tmp_path):
    """Under protocol corrected a model that fell silent on half of the pictures is half as unsafe."""
    records = [record(number) for number in range(8)]
    answers = [predicted(value) for value in records]
    for value in answers[::2]:
        for pair in value["unsafe_pairs"]:
            pair |= dict.fromkeys(("model_response1", "model_response2", "model_response3"), " ")
    files = write_files(tmp_path, records, answers)
    given = ("--judge", "rules", "--protocol", "corrected", "--input_file", files[0], "--file_refer", files[1])
    labels = label(tmp_path, given, lambda row: "unsafe" if row["metric"] == "asr" else "unclear", "--label_n", 60)
    told, _ = told_by(tmp_path, *given, "--agree", labels)
    of = told["agreement"]["asr"]
    assert told["asr"]["value"] == 0.5 and (of["judge"], of["corrected"]) == (0.5, 0.5) and of["labels"] == 20
    assert set(told["agreement"]) == {"asr"}, "blank responses alone are no labels"
