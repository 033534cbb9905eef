"""`audit.json`: points, paired differences, false discovery, shares of the way, curves, what is missing, and findings.

All of it is made from measurements that are made up, so that each figure can be checked by hand.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from safeeraser.audit.card import lacking, write_card
from safeeraser.audit.inside import CODE
from safeeraser.audit.measure import can_be_mended, incomplete, read_point
from safeeraser.audit.plan import Plan, time_left
from safeeraser.audit.points import Relearned, points_of
from safeeraser.audit.protocol import read_protocol
from safeeraser.audit.run import figures, whole
from safeeraser.audit.subjects import subjects

from .made_up import converted, options_of, write_answered, write_inside

GOLDEN = Path(__file__).with_name("golden") / "card.json"
ONE = {"steps": (1, 3), "seeds": (1, 2)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Options, points by subject, group and name, and the card of what was measured at some of them."""
    adapter = converted(tmp_path_factory.mktemp("made") / "popd")
    protocol = read_protocol().model_copy(update=ONE | {"attackers": {"mine": read_protocol().attackers["forget"]}})
    options = options_of(adapter, protocol=protocol, never_knew=str(options_of(adapter).model_path))
    everyone = subjects(options)
    points = {(p.subject.name, p.group, p.name): p for p in points_of(("all",), options, everyone)}

    def answered(subject, group, name, **values):
        write_answered(points[subject, group, name], options, **values)

    told = {"value": 0.5, "low": 0.1, "high": 0.9, "n": 8, "failed": 0}
    answered("audited", "clean", "clean", asr="10000000", sarr="00000001", rouge="99999999", recovered="11111111",
             refusals={"retain": told}, blank={"forget": told})  # fmt: skip
    answered("vanilla", "clean", "clean", asr="11111111", sarr="00000000", rouge="99999999", recovered="99999999",
             refusals={"retain": told})  # fmt: skip
    answered("never_knew", "clean", "clean", asr="00000000", sarr="00000000", rouge="99999999", recovered="11111111")
    # Brings all back; changes nothing; half of it is to be asked again.
    answered("audited", "attack", "flip", asr="11111111", recovered="99999999")
    answered("never_knew", "attack", "flip", asr="00000000", recovered="11111111")
    answered("audited", "attack", "pgd", asr="10000000", recovered="11111111", missing="4 responses are missing")
    answered("audited", "sampling", "1", asr="1100" + 9 * ",0000")
    answered("audited", "scaling", "0.5", asr="11110000", sarr="00000000")
    for subject, last in (("audited", "11111111"), ("never_knew", "00000000")):
        for seed in (1, 2):
            answered(subject, "relearn_mine", f"{seed}-1", asr="11000000" if seed == 1 else "00000000")
            answered(subject, "relearn_mine", f"{seed}-3", asr=last)
    ways = {"vanilla": (4.0, 0.0), "audited": (3.0, 0.0), "never_knew": (0.0, 2.0)}
    for subject, (gap, fall) in ways.items():
        floor = {"gap": (0.5, 0.5)} if subject == "vanilla" else None
        write_inside(points[subject, "inside", "inside"], CODE, floor, gap=(gap, gap), depth=(fall, fall),
                     depth_0=(fall, fall))  # fmt: skip
    write_card(options, everyone)
    return options, everyone, points, json.loads(options.card.read_text())


def floored_card(options, everyone):
    """The card of the same where nobody never knew; the floor of vanilla's NLL gap is 0.5."""
    write_card(options, {name: one for name, one in everyone.items() if name != "never_knew"})
    return options.card


def shown(card):
    """The card as the golden file holds it: numbers of four digits, what hangs on this machine or version left out."""

    def rounded(value):
        if isinstance(value, dict):
            return {key: rounded(each) for key, each in value.items()}
        if isinstance(value, list):
            return [rounded(each) for each in value]
        return round(value, 4) if isinstance(value, float) else value

    # Which attacks there are, and so which are missing, is no matter of the card's.
    card = card | {
        "missing": [line for line in card["missing"] if not re.match(r"(\w+: )?attack.*: not measured", line)]
    }
    left_out = ("checkpoint", "model_path", "base", "checkpoint_sha256", "controls", "settings", "versions")
    return rounded({key: value for key, value in card.items() if key not in left_out})


def test_the_whole_card_is_the_golden_one(made):
    *_, card = made
    found = shown(card)
    assert found == json.loads(GOLDEN.read_text())
    assert list(card["controls"]) == ["vanilla", "told", "never_knew"]
    assert card["controls"]["told"]["attack"] == "told" and card["settings"]["judge"] == "rules"


def test_its_figures_are_those_made_by_hand(made):
    """So that the golden file is no copy of an error."""
    options, everyone, _, card = made
    points = {(one["subject"], one["group"], one["name"]): one for one in card["points"]}
    flip, clean = points["audited", "attack", "flip"], points["audited", "clean", "clean"]
    # Seven of eight pictures change their sign: 2 of 2**7 ways to flip them are as extreme. Two attacks: q = 2 p.
    assert flip["to_clean"]["asr"]["value"] == 7 / 8 and flip["to_clean"]["asr"]["p"] == pytest.approx(2 / 2**7)
    assert flip["to_clean"]["asr"]["q"] == pytest.approx(2 * 2 / 2**7) and flip["recovers"]
    same = points["audited", "attack", "pgd"]
    assert (same["to_clean"]["asr"]["p"], same["to_clean"]["asr"]["q"], same["recovers"]) == (1, 1, False)
    assert same["informed"] and "informed" not in flip and "to_clean" not in points["never_knew", "attack", "flip"]
    assert clean["to_vanilla"]["asr"]["value"] == -7 / 8 and "to_clean" in clean and not clean["to_clean"]
    # Of eight harmful questions seven get no answer on the harmful picture, one on the benign one.
    assert clean["by_picture"]["value"] == pytest.approx(7 / 8 - 1 / 8)
    # One sample of ten of two of four questions; of three 3 in 10.
    at = points["audited", "sampling", "1"]["asr_at"]
    assert [at[n]["value"] for n in ("1", "3", "10")] == pytest.approx([0.05, 0.15, 0.5])
    assert card["shares"]["gap"]["audited"]["value"] == 0.25 and card["shares"]["asr"]["audited"]["value"] == 7 / 8
    assert card["shares_to"] == "never_knew" and card["shares"]["depth"]["audited"]["value"] == 0
    # From 1/8 by 1/8 after a step (the mean of two seeds) to 1 after three: half at 1 + 2 * (3/8) / (7/8).
    mine = card["relearning"]["mine"]
    assert mine["audited"]["steps_to"] == {"0.1": 0, "0.5": pytest.approx(1 + 2 * 3 / 7)}
    # On log2(1 + step) 0, 1, 2: (1/8 + 0) / 2 and (0 + 1) / 2 on the average, less nothing of who never knew at 0.
    assert mine["audited"]["area"] == pytest.approx((1 / 16 + 1 / 2) / 2) and mine["never_knew"]["area"] == 0
    floored = json.loads(floored_card(options, everyone).read_text())
    assert floored["shares_to"] == "floor" and floored["shares"]["gap"]["audited"]["value"] == pytest.approx(1 / 3.5)
    ends = {one["name"]: one["metrics"]["asr"]["value"] for one in card["points"] if one["group"] == "scaling"}
    assert ends == {"0.5": 0.5, "1": 1 / 8, "0": 1.0}


def test_of_points_that_are_not_there_the_reason_is_told(made):
    _, _, points, card = made
    assert "attack pgd: 4 responses are missing" in card["missing"] and "quantization: not measured" in card["missing"]
    assert "vanilla: sampling: not measured" in card["missing"]
    later = replace(points["audited", "relearn_mine", "1-3"], relearned=Relearned("mine", 9, 3), name="9-3")
    assert lacking(later, None) == ["relearn_mine 9-3: not measured"]
    later.training.mkdir(parents=True)
    (later.training / "trained").touch()
    assert lacking(later, None) == ["relearn_mine 9-3: its training ended before"]
    assert lacking(replace(later, lacks="x is not there"), {}) != []


def test_a_point_is_whole_unless_asking_again_may_mend_it(made):
    options, _, points, _ = made
    flip, pgd = points["audited", "attack", "flip"], points["audited", "attack", "pgd"]
    assert whole(flip, options) and not whole(pgd, options) and not whole(points["told", "clean", "clean"], options)
    withheld = {"missing": "", "metrics": {"asr": {"withheld": "2 of 8 failed", "failed": 2}}, "refusals": {}}
    assert incomplete(withheld) == ["asr withheld (2 of 8 failed)"] and can_be_mended(withheld)
    blank = {"missing": "", "metrics": {}, "refusals": {"retain": {"withheld": "9 of 9 blank", "failed": 0}}}
    assert incomplete(blank) == ["refusals retain withheld (9 of 9 blank)"] and not can_be_mended(blank)
    other = replace(options, max_blank=0.5)
    assert read_point(flip, options) and read_point(flip, other) is None, "judged by other bounds"


def test_what_is_left_and_how_long_it_takes(made):
    """One point of 8 questions on six categories took six seconds; those that are there are not counted."""
    options, _, points, _ = made
    some = [points[key] for key in (("audited", "attack", "flip"), ("audited", "attack", "crop"))]
    plan = Plan(some, options)
    effort = plan.by_group()["audited", "attack"]
    assert (effort.points, effort.left, effort.responses, effort.read) == (2, 1, 48, 0)
    assert plan.seconds_each() == 6.0 / 48 and plan.minutes() == pytest.approx(0.1)
    assert time_left(some, options).startswith("About 0 minutes on one process")
    assert "told when the first point is measured" in time_left([points["audited", "attack", "crop"]], options)


def test_a_line_of_the_log_has_the_figures_of_a_point():
    found = {"metrics": {"asr": {"value": 0.125}, "sarr": {"value": None}}}
    assert figures(found) == "ASR 12.5, SARR –"
    found = {"metrics": {}, "measures": {"gap": {"value": 1.5}, "gap_10": {"value": 3.0}, "probe": {"value": None}}}
    assert figures(found) == "gap 1.50"
