"""`audit.json`: points, paired differences, false discovery, shares of the way, curves, missing points, and findings.

The measurements are made up, so that each figure can be checked by hand.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import read_beside, write_json

from safeeraser.audit.card import can_be_mended, incomplete, write_card
from safeeraser.audit.inside import CODE
from safeeraser.audit.plan import Plan, points_of, read_point
from safeeraser.audit.relearn import read_protocol
from safeeraser.audit.run import is_measured, judge_point
from safeeraser.audit.subjects import subjects_of
from safeeraser.benchmark.metrics import Figure

from .made_up import converted, options_of, write_answered, write_inside

GOLDEN = Path(__file__).with_name("golden") / "card.json"
ONE = {"steps": (1, 3), "seeds": (1, 2)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Options, subjects, points by subject, group and name, and the card of the points that were measured."""
    adapter = converted(tmp_path_factory.mktemp("made") / "popd")
    protocol = read_protocol().model_copy(update=ONE | {"attackers": {"mine": read_protocol().attackers["forget"]}})
    options = options_of(adapter, protocol=protocol, never_knew=str(options_of(adapter).model_path))
    everyone = subjects_of(options)
    points = {(p.subject.name, p.group, p.name): p for p in points_of(("all",), options, everyone)}
    for *key, values in read_beside(__file__, "golden/measured.yaml"):
        write_answered(points[tuple(key)], **values)
    ways = {"vanilla": (4.0, 0.0), "audited": (3.0, 0.0), "never_knew": (0.0, 2.0)}
    for subject, (gap, fall) in ways.items():
        floor = {"gap": (0.5, 0.5)} if subject == "vanilla" else None
        measures = {"gap": (gap, gap), "depth": (fall, fall), "depth_0": (fall, fall)}
        write_inside(points[subject, "inside", "inside"], CODE, floor, **measures)
    write_card(options, everyone)
    return options, everyone, points, json.loads(options.card.read_text())


def shown(card):
    """The card as in the golden file: with four decimals, without values that depend on the machine or version."""
    left_out = ("checkpoint", "model_path", "base", "checkpoint_sha256", "controls", "settings", "versions")
    card = {key: value for key, value in card.items() if key not in left_out}
    # Missing attacks are ignored: they depend on which attacks exist, not on the card.
    card["missing"] = [line for line in card["missing"] if not re.match(r"(\w+: )?attack.*: not measured", line)]
    return json.loads(json.dumps(card), parse_float=lambda text: round(float(text), 4))


def test_the_whole_card_is_the_golden_one(made):
    *_, card = made
    assert shown(card) == json.loads(GOLDEN.read_text())
    assert list(card["controls"]) == ["vanilla", "told", "never_knew"]


def test_where_nobody_never_knew_shares_lead_to_the_floor_of_vanillas_gap(made):
    options, everyone, *_ = made
    write_card(options, {name: one for name, one in everyone.items() if name != "never_knew"})
    floored = json.loads(options.card.read_text())
    assert floored["shares_to"] == "floor" and floored["shares"]["gap"]["audited"]["value"] == pytest.approx(1 / 3.5)


def test_what_is_missing_what_may_mend_it_and_how_long_it_takes(made, monkeypatch):
    options, _, points, _ = made
    flip, pgd, crop = (points["audited", "attack", name] for name in ("flip", "pgd", "crop"))
    assert [is_measured(point) for point in (flip, pgd, crop)] == [True, False, False]
    withheld = {"missing": "", "metrics": {"asr": {"withheld": "2 of 8 failed", "failed": 2}}, "refusals": {}}
    assert incomplete(withheld) == ["asr withheld (2 of 8 failed)"] and can_be_mended(withheld)
    # A metric has no value if all replies failed, whatever --max_failed is. A metric that was not asked is not missing.
    lost, none = Figure(value=None, failed=8).as_json, Figure(value=None).as_json
    told = {"asr": lost, "rr": lost | {"failed": 0, "unparsed": 8}, "sarr": none, "recovered": none}
    monkeypatch.setattr("safeeraser.audit.run.score", lambda options, _: write_json(options.summary, told))
    found = judge_point(flip, options) | {"missing": ""}
    assert incomplete(found) == ["asr has no value", "rr has no value"] and can_be_mended(found)
    blank = {"missing": "", "metrics": {}, "refusals": {"retain": {"withheld": "9 of 9 blank", "failed": 0}}}
    assert incomplete(blank) == ["refusals retain withheld (9 of 9 blank)"] and not can_be_mended(blank)
    other = replace(flip, judged_by=replace(options, max_blank=0.5).judged_by)
    assert read_point(flip) and read_point(other) is None, "judged by other bounds"
    # The measured point has 48 responses and took six seconds. The point that is left asks for as many.
    plan = Plan([flip, crop], options)
    assert plan.by_group() == {("audited", "attack"): (2, 1, 48, 0)} and plan.minutes() == pytest.approx(0.1)
    assert "known once the first point is measured" in Plan([crop], options).time_left()
