"""What the pages refer to is there, and README.md and the site lead to all of them."""

import re

import pytest

from .pages import PAGES, ROOT, unfenced

LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")


def anchors(page) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", unfenced(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_anchor_is_there(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists() and there.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(there), target


def test_readme_and_the_site_lead_to_every_page():
    readme, site = (ROOT / "README.md").read_text(encoding="utf-8"), (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = {ROOT / "docs" / page for page in re.findall(r"[\w/-]+\.md", site)}
    assert {*PAGES} - {ROOT / "README.md"} <= {ROOT / link.partition("#")[0] for link in LINK.findall(readme)}
    assert listed == {page for page in PAGES if ROOT / "docs" in page.parents}


def test_code_and_config_files_name_pages_that_are_there():
    files = [file for room in ("config", "safeeraser", "scripts", "workflow") for file in (ROOT / room).rglob("*.*")]
    texts = {
        file: file.read_text(encoding="utf-8") for file in files if file.suffix in (".py", ".yaml", ".bash", ".md")
    }
    named = {(file.name, page) for file, text in texts.items() for page in re.findall(r"\bdocs/[\w/-]+\.md", text)}
    assert len(named) > 9 and not [each for each in named if not (ROOT / each[1]).is_file()]
