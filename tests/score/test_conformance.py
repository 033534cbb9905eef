"""The command gives the figures that were recorded from the released implementation, to the last digit."""

import json

import pytest
from scoring import RECORDED, run_eval

FILES = ("--input_file", RECORDED / "predictions.json", "--file_refer", RECORDED / "all_val.json")
EXPECTED = json.loads((RECORDED / "expected.json").read_text())
ASKED = ("asr", "rr", "sarr", "gpt_eval")


@pytest.fixture
def replay(tmp_path):
    """Score with the recorded replies; returns the run and the contents of the files that it wrote."""

    def scored(*more, replies=RECORDED / "replies.json"):
        out = ("--output_file_rr", tmp_path / "verdicts.json", "--summary", tmp_path / "summary.json")
        given = ("--judge", "replay", "--replies", replies, *FILES, *out, "--save_replies", tmp_path / "again.json")
        # A quarter of the recorded replies are failed calls, and one response of 72 is blank.
        run = run_eval(*given, "--max_failed", 1, "--max_blank", 1, *more)
        names = ("summary.json", "verdicts.json", "verdicts.txt", "again.json")
        return run, *(json.loads((tmp_path / name).read_text()) for name in names if (tmp_path / name).exists())

    return scored


def test_the_release_statistics_are_reproduced_to_the_last_digit(replay):
    run, summary, verdicts, statistics, again = replay()
    assert run.returncode == 0, run.stderr
    assert statistics == {"stats_asr_rr": EXPECTED["asr_rr"], "stats_unharmpair": EXPECTED["utility"]}
    keys = ("UnharmPair_text1", "UnharmPair_text2", "UnharmPair_image1", "UnharmPair_image2")
    assert [[record[key]["rougeL"] for key in keys] for record in verdicts] == EXPECTED["rougeL_per_item"]
    assert (summary["split"], summary["protocol"], summary["judge"]) == ("val", "official", "replay")
    asr = summary["asr"]
    assert (asr["value"], asr["n"], asr["failed"] + asr["unparsed"], asr["skipped"]) == (30 / 71, 71, 20, 1)
    assert asr["low"] < asr["value"] < asr["high"] and summary["pictures"] == 6
    assert summary["gpt_eval"]["value"] == EXPECTED["utility"]["average_gpt_score"]
    # Five recorded ratings are "Score: 0.8", which the release cannot read. It reads no reply wrongly.
    assert [summary[metric]["differ"] for metric in ASKED] == [0, 0, 0, 5]
    # The saved replies are the replayed ones.
    recorded = json.loads((RECORDED / "replies.json").read_text())
    assert sorted(map(json.dumps, again)) == sorted(map(json.dumps, recorded))


def test_corrected_leaves_failed_and_unreadable_replies_out_and_counts_blank_ones(replay):
    run, summary, *_ = replay("--protocol", "corrected")
    assert run.returncode == 0, run.stderr
    expected = {"asr": (30 / 52, 52, 20, 1), "rr": (33 / 50, 50, 22, 1), "sarr": (10 / 15, 15, 8, 0)}
    of = {metric: summary[metric] for metric in expected}
    lost = {metric: at["failed"] + at["unparsed"] + at["declined"] for metric, at in of.items()}
    assert {name: (at["value"], at["n"], lost[name], at["blank"]) for name, at in of.items()} == expected
    gpt = summary["gpt_eval"]
    assert (gpt["n"], gpt["failed"], gpt["unparsed"], gpt["blank"]) == (23, 1, 0, 1)
    assert (summary["rouge_l"]["blank"], summary["rouge_l"]["n"]) == (1, 24)
    assert summary["rouge_l"]["value"] == pytest.approx(EXPECTED["utility"]["average_rougeL"] * 23 / 24)
    assert (summary["blank"]["forget"]["value"], summary["blank"]["forget"]["n"]) == (1 / 72, 72)


def test_what_the_release_misreads_withholds_its_figure_past_the_bound(replay):
    run, summary, _, statistics, _ = replay("--max_failed", 0.2)
    assert run.returncode == 3 and "21.7% of the judge's replies say something else when read strictly" in run.stderr
    assert summary["gpt_eval"]["value"] is None and statistics["stats_asr_rr"] == EXPECTED["asr_rr"]
    assert replay("--max_failed", 0.3)[1]["gpt_eval"]["value"] is not None
