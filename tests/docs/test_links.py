"""What the pages refer to is there, and README.md leads to all of them."""

import re

import pytest

from .pages import PAGES, ROOT

LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")


def anchors(text: str) -> set[str]:
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_anchor_is_there(page):
    text = page.read_text(encoding="utf-8")
    for target in LINK.findall(text):
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists() and there.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(there.read_text(encoding="utf-8")), target


def test_the_way_in_leads_to_every_page():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    linked = {target.partition("#")[0] for target in LINK.findall(text)}
    assert {str(page.relative_to(ROOT)) for page in PAGES} - {"README.md"} <= linked
