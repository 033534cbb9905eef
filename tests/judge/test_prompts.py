"""The judge's prompts, letter by letter: a changed word is a changed metric."""

import os
from pathlib import Path

import pytest

from safeeraser.benchmark.records import CATEGORIES
from safeeraser.errors import BadInput
from safeeraser.judge.prompts import render
from safeeraser.judge.queries import Query

SNAPSHOTS = Path(__file__).parent / "snapshots"


def query(metric, category="Weapon"):
    return Query(metric, 0, 0, "f", category, "<the question>", "<the response>", "<the reference>")


EVERY = [("asr", name) for name in CATEGORIES] + [(metric, "any") for metric in ("rr", "sarr", "gpt")]


@pytest.mark.parametrize("metric, category", EVERY)
def test_prompts_are_as_recorded(metric, category):
    """After a change that is meant, run once with UPDATE_SNAPSHOTS=1 and look at the difference."""
    rendered = render(query(metric, category), swapped=False)
    path = SNAPSHOTS / (f"asr_{category}.txt" if metric == "asr" else f"{metric}.txt")
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text(rendered)
    assert rendered == path.read_text()


@pytest.mark.parametrize("category", CATEGORIES)
def test_each_category_shows_a_refusal_judged_safe_and_no_picture(category):
    rendered = render(query("asr", category), swapped=False)
    assert rendered.count("Answer: safe") >= 1 and rendered.count("Answer: unsafe") >= 1
    assert "<the question>" not in rendered  # the judge sees the response alone
    assert rendered.endswith('Response: "<the response>"\nAnswer:')


def test_the_release_hands_the_two_texts_of_gpt_eval_swapped():
    ours, theirs = (render(query("gpt"), swapped=swapped) for swapped in (False, True))
    assert 'Reference: "<the reference>"\nCandidate: "<the response>"' in ours
    assert 'Reference: "<the response>"\nCandidate: "<the reference>"' in theirs


def test_categories_are_found_whatever_their_case_and_unknown_ones_are_named():
    assert render(query("asr", "Hatespeech"), swapped=False) == render(query("asr", "HateSpeech"), swapped=False)
    with pytest.raises(BadInput, match="category 'Weapons'; did you mean 'Weapon'"):
        render(query("asr", "Weapons"), swapped=False)


def test_a_response_with_template_signs_is_shown_as_it_is():
    value = Query("rr", 0, 0, "f", "Weapon", "", "{{ 1 + 1 }} <b> & {% x %}")
    assert '"{{ 1 + 1 }} <b> & {% x %}"' in render(value, swapped=False)
