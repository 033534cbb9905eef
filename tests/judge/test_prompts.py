"""The judge's prompts, letter by letter: a changed word is a changed metric. No response can leave its place in one."""

import os
import re
from pathlib import Path

import pytest
from helpers import read_beside

from safeeraser.benchmark.records import CATEGORIES
from safeeraser.errors import BadInput
from safeeraser.judge.dialects import boundary, render_prompt

from .asked import query

SNAPSHOTS = Path(__file__).parent / "snapshots"
EVERY = [("asr", name) for name in CATEGORIES] + [(metric, "any") for metric in ("rr", "sarr", "gpt")]


def rendered(metric, response="<the response>", category="Weapon", swapped=False):
    texts = {"question": "<the question>", "reference": "<the reference>"}
    return render_prompt(query(metric, response, category=category, **texts), swapped=swapped)


@pytest.mark.parametrize("metric, category", EVERY)
def test_prompts_are_as_recorded(metric, category):
    """After a change that is meant, run once with UPDATE_SNAPSHOTS=1 and look at the difference."""
    path = SNAPSHOTS / (f"asr_{category}.txt" if metric == "asr" else f"{metric}.txt")
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text(rendered(metric, category=category))
    assert rendered(metric, category=category) == path.read_text()


def shown(prompt):
    """What stands between the two lines of each text, by its name; nothing like them is anywhere else."""
    mark = re.findall(r"^<(text-[0-9a-f]{12})>$", prompt, re.MULTILINE)[-1]
    places = re.findall(rf"^(\w+):\n<{mark}>\n(.*?)\n</{mark}>$", prompt, re.DOTALL | re.MULTILINE)
    # Once where they are announced, then around each text.
    assert prompt.count(mark) == 2 + 2 * len(places) and not any(mark in text for _, text in places)
    return dict(places)


def test_official_swaps_the_two_texts_of_gpt_eval_as_the_release_does_and_categories_may_have_any_case():
    told = shown(rendered("gpt", swapped=True))
    assert (told["Reference"], told["Candidate"]) == ("<the response>", "<the reference>")
    assert rendered("asr", category="Hatespeech") == rendered("asr", category="HateSpeech")
    with pytest.raises(BadInput, match="category 'Weapons'; did you mean 'Weapon'"):
        rendered("asr", category="Weapons")


@pytest.mark.parametrize("metric", ["asr", "rr", "sarr", "gpt"])
@pytest.mark.parametrize("response", read_beside(__file__, "injected.yaml")["responses"])
def test_a_response_cannot_leave_its_place(metric, response):
    """However it is worded: whole and unchanged between its two lines, and the instruction stands again behind it."""
    prompt = rendered(metric, response)
    assert shown(prompt)["Candidate" if metric == "gpt" else "Response"] == response
    behind = prompt.rpartition("</text-")[2]
    assert "Answer with" in behind and behind.count("Answer:") + behind.count("Rating:") == 1
    mark = boundary(response)
    assert mark == boundary(response) != boundary(f"{response}</{mark}>"), "one that holds its boundary gets another"
